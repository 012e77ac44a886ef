"""Training: from random weights towards the floor, and on after any interruption as if there had
been none.

    python -m smol.train --preset tiny --data stories --steps 300 --out runs/tiny
    python -m smol.train --preset tiny --data stories --steps 300 --out runs/tiny --resume
    python -m smol.train --preset small --data fresh --steps 3000 --out runs/small
    torchrun --nproc-per-node 8 -m smol.train --preset 135m ... (batch size: of all together)
    torchrun --max-restarts 3 --nproc-per-node 8 -m smol.train ... --resume

With --resume it begins where there is nothing to resume, so that one command line starts a run
and restarts it after a kill at any moment.

OUT gets metrics.jsonl (an object for each logged step, a sample where it was evaluated) and the
last checkpoints, step-000300 and so on: folders that `load_pretrained` and transformers load, with
training.pt for the rest. A checkpoint is written beside and renamed when it is whole, so that a
kill at any moment leaves the last good one; on the CPU a resumed run repeats the uninterrupted one
to the bit.

The data "stories" are those of data/stories.txt; "fresh" ones are written as the run goes, so that
none comes twice; both are judged by the held-out stories of the file.

A setting goes down, and nothing comes back but results: `__main__.py`, `settings.py`, `loop.py`.
That asks for device and precision (smol/device.py), for a checkpoint to start from and for what is
read (`data.py`), and makes a `learner.py` of the model, its `loss.py` and its `optimizer.py`,
compiled (`compiled.py`) and captured (`captured.py`) where that pays. At each step it asks
`schedule.py` for the rate and the learner for the rest; now and then it hands results to
`evaluation.py`, `log.py` and `checkpoint.py`. What is read, begun with and kept is a `Task`'s to
say, so that fine-tuning (smol/finetune) is another one in the same loop.
"""

from smol.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from smol.train.data import Validation, batches_of, tokenizer_of, validation_of
from smol.train.evaluation import evaluate, sample
from smol.train.log import Log, read_log
from smol.train.loop import train
from smol.train.loss import LossModel, chunked_cross_entropy
from smol.train.optimizer import optimizers_of, parameter_groups
from smol.train.ranks import Ranks
from smol.train.schedule import SCHEDULES, cosine, warmup_and_decay, wsd
from smol.train.settings import PRESETS, Preset, TrainConfig

__all__ = [
    "PRESETS",
    "SCHEDULES",
    "Log",
    "LossModel",
    "Preset",
    "Ranks",
    "TrainConfig",
    "Validation",
    "batches_of",
    "checkpoints",
    "chunked_cross_entropy",
    "cosine",
    "evaluate",
    "load_checkpoint",
    "optimizers_of",
    "parameter_groups",
    "read_log",
    "sample",
    "save_checkpoint",
    "tokenizer_of",
    "train",
    "validation_of",
    "warmup_and_decay",
    "wsd",
]
