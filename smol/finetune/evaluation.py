"""How many answers are right, to the letter: questions about stories, whose answers are known."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from smol.checks import shown
from smol.finetune.data import end_of, pad_of
from smol.generate import generate, left_pad
from smol.model import SmolLM2
from smol.stories.chat import OPEN, Conversation, conversations, follows, right
from smol.tokenizer import BPETokenizer

BATCH = 32  # prompts that are answered at once


class Exact(NamedTuple):
    """By kind of question how many were answered right and how many were asked, {"who": (9, 10)}:
    at the beginning of a conversation, and in its later turns.

    Of instructions "story" counts the stories that have what was asked for, and "flawless" those
    of them that the grammar can have written, word for word. "silent" counts OPEN, said of what
    the story does say.
    """

    first: dict[str, tuple[int, int]]
    later: dict[str, tuple[int, int]]


def exact(
    model: SmolLM2,
    tokenizer: BPETokenizer,
    count: int,
    seed: int = 0,
    held_out: bool = True,
) -> Exact:
    """What the model replies in `count` conversations of the grammar, judged to the letter.

    Greedy, by the tokenizer's chat template. A conversation goes on with the model's own replies,
    wrong ones too, unless what comes next cannot be asked after them: of a story that nobody can
    read, or of one of the model's own that lacks what the next questions name. Then the right
    reply takes their place. One that the context has no room for is wrong. ValueError for what is
    no model, for a tokenizer that cannot chat, and as `conversations` has it.
    """
    if not isinstance(model, SmolLM2):
        raise ValueError(f"exact takes a SmolLM2, got {shown(model)}")
    talks = [_Talk(c) for c in conversations(count, seed, held_out)]
    found = Counter(), Counter()
    for turn in range(max(len(talk.kinds) for talk in talks)):
        for told in (True, False):  # a story is long, and an answer short
            asked = [t for t in talks if t.kinds[turn:] and (t.kinds[turn] == "story") == told]
            for talk, reply in zip(asked, _replies(model, tokenizer, asked), strict=True):
                for kind, ok in talk.hear(reply).items():
                    found[turn > 0].update({(kind, "right"): ok, (kind, "asked"): 1})
    return Exact(
        *(
            {
                kind: (n[kind, "right"], n[kind, "asked"])
                for kind in sorted({kind for kind, _ in n})
            }
            for n in found
        )
    )


class _Talk:
    """A conversation as it goes with the model, `said`, and as it was written, `given`."""

    def __init__(self, written: Conversation):
        self.given, self.kinds = written
        self.said = self.given[:1]

    @property
    def wanted(self) -> str:
        """What was written in reply to what was said last."""
        return self.given[len(self.said)]["content"]

    def hear(self, reply: str) -> dict[str, bool]:
        """Goes on with the reply, or with the right one; says of what kind it was, and whether it
        was right."""
        ok, at, kind = right(self.said, reply), len(self.said), self.kinds[len(self.said) // 2]
        if kind == "story":
            judged = {kind: follows(self.said, reply), "flawless": ok}
        else:
            judged = {kind: ok} | ({} if kind == "open" else {"silent": reply == OPEN})
        said = [*self.said, {"role": "assistant", "content": reply}]
        if reply != self.wanted and not self._goes_on(said):
            said[at] = self.given[at]
        self.said = said + self.given[at + 1 : at + 2]
        return judged

    def _goes_on(self, said: list[dict[str, str]]) -> bool:
        """Whether the rest can be asked after this, and is open where it was meant to be."""
        later = zip(self.given[len(said) :: 2], self.kinds[len(said) // 2 :], strict=True)
        try:
            return all(right([*said, asked], OPEN) == (kind == "open") for asked, kind in later)
        except ValueError:
            return False


def _replies(model: SmolLM2, tokenizer: BPETokenizer, talks: Sequence[_Talk]) -> list[str]:
    """The likeliest reply in each, those of like length at once, so that little is padding. None
    is longer than twice the longest that is wanted."""
    prompts = [tokenizer.apply_chat_template(talk.said, True) for talk in talks]
    most = 2 * max((len(tokenizer.encode(talk.wanted)) for talk in talks), default=0)
    ends, device = [end_of(tokenizer), tokenizer.eos_id], model.embed_tokens.weight.device
    order, replies = sorted(range(len(talks)), key=lambda i: len(prompts[i])), [""] * len(talks)
    for begin in range(0, len(order), BATCH):
        some = order[begin : begin + BATCH]
        ids, mask = left_pad([prompts[i] for i in some], pad_of(tokenizer))
        T = ids.size(1)
        room = min(most, model.config.max_position_embeddings - T)
        if room < 1:
            continue
        mask = mask.to(device)
        made = generate(model, ids.to(device), room, stop_ids=ends, attention_mask=mask)[:, T:]
        for i, row in zip(some, made.tolist(), strict=True):
            stop = next((at for at, token in enumerate(row) if token in ends), len(row))
            replies[i] = tokenizer.decode(row[:stop], skip_special_tokens=True)
    return replies
