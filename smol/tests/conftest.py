"""One tiny pair of models for the tests that only read it, and one thread for tiny models.

What takes seconds to import is imported in the fixtures: pytest reads this file in the process
that starts the others too, and they wait for it.
"""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """What the libraries and pytest have made, half a million objects, is not looked through for
    garbage again: a third of a second each time, and each run of training asks for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for each other take minutes for this on a machine that is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference():
    from smol.tests.reference import tiny_reference

    return tiny_reference()


@pytest.fixture(scope="session")
def ours(reference):
    from smol.pretrained import from_reference

    return from_reference(reference)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of sixty stories, as a run reads them."""
    import json

    from smol import stories

    file = tmp_path_factory.mktemp("text") / "some.jsonl"
    rows = [json.dumps({"text": story}) for story in stories.write(60, seed=11)]
    file.write_text("\n".join(rows), encoding="utf-8")
    return file
