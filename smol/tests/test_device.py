"""Device and precision, by capability; GPUs that are not here are played."""

import sys

import pytest
import torch

from smol import device
from smol.device import choose_device, choose_dtype, choose_precision


@pytest.mark.parametrize(
    ("gpu", "capability", "dtype", "want"),
    [
        ("T4", (7, 5), "auto", (torch.float16, True, False)),
        ("T4", (7, 5), "float32", (None, False, False)),
        ("A100", (8, 0), "auto", (torch.bfloat16, False, True)),
        ("A100", (8, 0), "float16", (torch.float16, True, True)),
        ("H200", (9, 0), "auto", (torch.bfloat16, False, True)),
        ("H200", (9, 0), "float32", (None, False, True)),
    ],
)
def test_precision_on_gpus(gpu, capability, dtype, want, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # a T4 says so
    assert choose_precision(torch.device("cuda"), dtype) == want


def test_precision_elsewhere():
    for kind in ("cpu", "mps"):
        assert choose_precision(torch.device(kind)) == (None, False, False)
        assert choose_precision(torch.device(kind), "bfloat16").autocast == torch.bfloat16
        with pytest.raises(ValueError, match=f"float16 needs a CUDA GPU to train, not {kind}"):
            choose_precision(torch.device(kind), "float16")
    with pytest.raises(ValueError, match="dtype 'int8' is none of auto, float32"):
        choose_precision(torch.device("cpu"), "int8")


def test_bf16_on_a_t4_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(ValueError, match=r"needs compute capability 8.0, this GPU has 7.5"):
        choose_precision(torch.device("cuda"), "bfloat16")


@pytest.mark.parametrize(
    ("cuda", "mps", "want"), [(1, 0, "cuda"), (1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")]
)
def test_the_best_device_there_is(cuda, mps, want, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert choose_device().type == want
    assert choose_device("cpu").type == "cpu"
    if not cuda:
        with pytest.raises(ValueError, match="device 'cuda' is not to be had here"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "want"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_weights_to_generate_with_are_bf16_where_that_is_fast(capability, want, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert choose_dtype(torch.device("cuda")) == want  # and never fp16, which may overflow
    assert choose_dtype(torch.device("cuda"), "float16") == torch.float16
    assert choose_dtype(torch.device("cpu")) == choose_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize(
    ("system", "compiler"), [("linux", "g++"), ("darwin", "clang++"), ("win32", "cl")]
)
def test_the_compiler_that_pytorch_would_take(system, compiler, monkeypatch):
    monkeypatch.setattr(device.sys, "platform", system)
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/bin/{name}" if name else None)
    monkeypatch.setattr(device.subprocess, "run", lambda command, **options: None)
    monkeypatch.delenv("CXX", raising=False)
    assert device.find_compiler() == f"/bin/{compiler}"
    monkeypatch.setenv("CXX", "icpx")
    assert device.find_compiler() == "/bin/icpx"
    monkeypatch.setenv("CXX", "")  # nor does PyTorch look any further
    assert device.find_compiler() is None


def test_compile_is_refused_where_nothing_compiles(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"and CXX='no-such-compiler' is none: install one, or "):
        device.check_compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler \((g\+\+|clang\+\+|cl,)"):
        device.check_compiler()


@pytest.mark.skipif(sys.platform == "win32", reason="there nothing is run")
def test_a_compiler_has_to_run(monkeypatch, tmp_path):
    """macOS has a clang++ that fails and offers to install one."""
    for status in (0, 1):
        file = tmp_path / f"cxx{status}"
        file.write_text(f"#!/bin/sh\nexit {status}\n", encoding="utf-8")
        file.chmod(0o755)
        monkeypatch.setenv("CXX", str(file))
        assert device.find_compiler() == (None if status else str(file))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they come with Python")
def test_compile_needs_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", sys.executable)  # knows --version
    monkeypatch.setattr(device.sysconfig, "get_path", lambda *names: str(tmp_path))
    with pytest.raises(ValueError, match=r"headers \(Python\.h\): install them \(python3-dev"):
        device.check_compiler()
    (tmp_path / "Python.h").touch()
    device.check_compiler()


def test_compiling_without_a_compiler_is_refused_before_any_work(monkeypatch, tmp_path):
    """Else a traceback of Inductor's, after the data, the model and the first step's start."""
    from smol import SmolLM2, generate, train
    from smol.tests.reference import tiny_config

    monkeypatch.setattr("smol.device.find_compiler", lambda: None)
    config = train.TrainConfig(compile=True, device="cpu")
    with pytest.raises(ValueError, match="--compile needs a C"):
        train.train(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="--compile needs a C"):
        generate(SmolLM2(tiny_config()), torch.tensor([[1]]), 3, compile=True)
