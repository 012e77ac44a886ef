"""The data card of the stories: what data/stories.md says."""

import hashlib
import math
import re
import statistics

from smol import stories


def card(text: str) -> str:
    """The data card of `corpus()`, every number in it computed from the text and the grammar."""
    shelf = text.strip("\n").split("\n\n")
    nats = [-stories.log_prob(story) for story in shelf]
    error = statistics.stdev(nats) / math.sqrt(len(nats))
    sizes = [len(story.encode()) for story in shelf]
    held_out = len(shelf) // stories.HELD_OUT
    words = re.findall(r"[\w'-]+", text)
    different = len({word.lower() for word in words})
    floor = stories.entropy()
    mean = statistics.mean(nats)
    validation = statistics.mean(nats[-held_out:])
    per_byte = floor / statistics.mean(sizes)
    return f"""# Data card: stories.txt

**What.** {len(shelf):,} short stories in plain English, written by the probabilistic grammar in
`smol/stories/sentences.txt`. People and things are named once and met again later, so that what
comes next often depends on a word far back; effects follow from causes a few sentences earlier.

**Made by** `python -m smol.stories` (seed {stories.SEED}), the same bytes on every machine.
sha256 `{hashlib.sha256(text.encode()).hexdigest()}`.

| | |
|---|---|
| size | {len(text.encode()):,} bytes, ASCII |
| stories | {len(shelf):,}, a blank line between them, all different |
| bytes per story | {statistics.mean(sizes):.1f} on average, {min(sizes)} to {max(sizes)} |
| words | {len(words):,}, of them {different:,} different |
| split | {len(shelf) - held_out:,} for training, the last {held_out} held out |
| entropy, exact | {floor:.3f} nats per story |
| the same, estimated here | {mean:.3f} ± {error:.3f} nats per story (mean, standard error) |
| the held-out stories' own -ln p | {validation:.3f} nats per story |
| a byte | {per_byte:.4f} nats, {per_byte / math.log(2):.4f} bits (exact entropy / mean bytes) |

**The floor.** Each story's probability is exact, since its choices can be read back from it. No
model can have an expected loss below the entropy; on the held-out stories a model that knew the
grammar perfectly would have their own -ln p, above.

**Limits.** A grammar is not a language: eleven plots, {different:,} words, and far less surprise
a byte than in what people write. A model that has learned it knows nothing else.

**Licence.** MIT, as the rest of this repository; every sentence in it is original.
"""
