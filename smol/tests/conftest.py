"""One tiny pair of models for the tests that only read it, and one thread for tiny models."""

import pytest
import torch

from smol import SmolLM2
from smol.pretrained import from_reference
from smol.tests.reference import tiny_reference


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for each other take minutes for this on a machine that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> torch.nn.Module:
    return tiny_reference()


@pytest.fixture(scope="session")
def ours(reference) -> SmolLM2:
    return from_reference(reference)
