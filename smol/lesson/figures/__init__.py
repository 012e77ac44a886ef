"""Every figure of the series: `from smol.lesson import figures`, then `figures.map_strip(1)`.

A file for each notebook, of its name; what several show is in shared.py, what all are drawn with
in style.py. `python -m smol.lesson.figures` draws the README's pictures.
"""

from smol.lesson.figures.build import *
from smol.lesson.figures.count import *
from smol.lesson.figures.fast import *
from smol.lesson.figures.finetune import *
from smol.lesson.figures.finetune_preferences import *
from smol.lesson.figures.fixed import *
from smol.lesson.figures.generate import *
from smol.lesson.figures.inspect import *
from smol.lesson.figures.learn import *
from smol.lesson.figures.parity import *
from smol.lesson.figures.readme import *
from smol.lesson.figures.shared import *
from smol.lesson.figures.tokenizer import *
from smol.lesson.figures.train import *
