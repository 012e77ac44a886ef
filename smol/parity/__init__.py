"""The proof: is this model Hugging Face's model, and if not, where does it part?

    print(ladder(ours, reference, input_ids))     # eleven rungs, the first failure named
    MUTANTS["no_mask"](ours)                      # a bug planted: the ladder has to find it

`compare.py` holds two tensors beside each other, `ladder.py` climbs the rungs, `mutants.py` is
the table of fifty bugs, `planting.py` puts one into a living model, and `published.py` has what
others measured on the real weights. Matching shapes, counts, and even argmaxes prove nothing
(notebook 3 shows each of them passing on broken models); equal numbers do.
"""

from smol.parity.compare import Difference, compare, trace
from smol.parity.ladder import Report, ladder
from smol.parity.mutants import MUTANTS, plant_unknown
from smol.parity.planting import Mutant
from smol.parity.published import (
    PUBLISHED_GREEDY,
    PUBLISHED_NUMBERS,
    PUBLISHED_PERPLEXITY,
    check_published,
)

__all__ = [
    "MUTANTS",
    "PUBLISHED_GREEDY",
    "PUBLISHED_NUMBERS",
    "PUBLISHED_PERPLEXITY",
    "Difference",
    "Mutant",
    "Report",
    "check_published",
    "compare",
    "ladder",
    "plant_unknown",
    "trace",
]
