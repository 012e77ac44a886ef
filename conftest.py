"""What every `pytest --nbval` run has in common: offline, on the CPU, stderr not compared.

Stored outputs come from the same setting (notebooks/refresh.py imports it from here), so they do
not depend on a network, a GPU, or the bars and warnings of a library. Which weights the notebooks'
reference has is chosen by SMOL_WEIGHTS: random, which need nothing, unless it is set.
`SMOL_WEIGHTS=packaged pytest --nbval` runs on the real model that `python -m smol.pretrained` has
put into the cache.
"""

import os

OFFLINE_CPU = {
    "SMOL_OFFLINE": "1",  # nothing is fetched, also where the hub is near
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.update(OFFLINE_CPU)  # kernels inherit it
os.environ.setdefault("SMOL_WEIGHTS", "random")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with two threads each would wait for one another.
    os.environ["OMP_NUM_THREADS"] = "1"


# These take the longest after the notebooks: begun last, one process would wait for the other.
FIRST = [
    f"test_{name}.py"
    for name in ("real", "train", "bench", "restart", "terminal", "parity", "fixed", "generate")
]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", item.path.name not in FIRST))


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook
        collector.skip_compare += ("stderr",)
