"""Where to compute, and in which precision: training, generation and benchmarks ask here.

A new kind of GPU: `choose_precision` is the place. And whether there is a compiler for --compile.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class Precision(NamedTuple):
    """How a device trains: weights are fp32 always, products in `autocast` where it is set."""

    autocast: torch.dtype | None
    scaler: bool  # fp16 has a small range: gradients are scaled up before, and down after
    tf32: bool


def choose_device(name: str = "auto") -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, ok in there.items() if ok), "cpu")
    if not there.get(name, name == "cpu"):
        raise ValueError(f"device {name!r} is not to be had here: take --device auto or cpu")
    return torch.device(name)


def choose_precision(device: torch.device, dtype: str = "auto") -> Precision:
    """What `dtype` means on this device; "auto" is the fastest that is safe.

    CUDA of compute capability 8.0 or more (A100 and later): bf16, and TF32 for what is left in
    fp32, which "float32" therefore means there. Older CUDA (a T4):
    fp16 with a scaler, for its bf16 is emulated and slow, whatever is_bf16_supported() says. MPS
    and CPU: fp32. ValueError for what the device cannot do.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    if device.type != "cuda":
        if dtype == "float16":
            raise ValueError(f"float16 needs a CUDA GPU to train, not {device.type}: take auto")
        return Precision(torch.bfloat16 if dtype == "bfloat16" else None, False, False)
    capability = torch.cuda.get_device_capability(device)
    new = capability >= (8, 0)
    if dtype == "bfloat16" and not new:
        have = ".".join(map(str, capability))
        raise ValueError(f"bfloat16 needs compute capability 8.0, this GPU has {have}: take auto")
    if dtype == "auto":
        dtype = "bfloat16" if new else "float16"
    autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    return Precision(autocast, dtype == "float16", new)


def choose_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """What weights are held in to generate; "auto" is bf16 where that is fast, else fp32.

    Never fp16 by itself: weights that were trained in bf16 may be too large for it. ValueError
    for a name that is none of DTYPES.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    if name != "auto":
        return getattr(torch, name)
    fast = choose_precision(device).autocast == torch.bfloat16
    return torch.bfloat16 if fast else torch.float32


def find_compiler() -> str | None:
    """The C++ compiler with which PyTorch would compile for the CPU; None where there is none.

    As torch._inductor looks for it (cpp_builder.py, config.py): $CXX, else clang++ on macOS, cl on
    Windows, g++ elsewhere. It has to run, for macOS has a clang++ that only offers to install one.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    found = shutil.which(os.environ.get("CXX", usual))
    if found is None or sys.platform == "win32":  # cl knows no --version
        return found
    silent = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    try:
        subprocess.run([found, "--version"], check=True, timeout=10, **silent)
    except (OSError, subprocess.SubprocessError):
        return None
    return found


def check_compiler(device: torch.device | str = "cpu") -> None:
    """ValueError, with the remedy, where --compile could not compile for this device.

    For CUDA it takes Triton, which has its own compiler for GPUs of compute capability 7.0 or
    more.
    """
    if torch.device(device).type == "cuda":
        if find_spec("triton") is None:
            raise ValueError(
                "--compile needs Triton, which PyTorch for CUDA brings along on Linux only: "
                "install it (on Windows triton-windows), or leave --compile out"
            )
        if (capability := torch.cuda.get_device_capability(device)) < (7, 0):
            have = ".".join(map(str, capability))
            raise ValueError(
                f"--compile needs a GPU of compute capability 7.0, this one has {have}: leave "
                "--compile out"
            )
        return
    if torch.device(device).type != "cpu":
        return
    if find_compiler() is None:
        usual = {"darwin": "clang++", "win32": "cl, of Visual Studio"}.get(sys.platform, "g++")
        told = f", and CXX={os.environ['CXX']!r} is none" if "CXX" in os.environ else ""
        raise ValueError(
            f"--compile needs a C++ compiler ({usual}){told}: install one, or leave --compile out"
        )
    # What it compiles is a module for Python, whose headers some systems pack apart.
    places = (sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix"))
    if sys.platform == "linux" and not any(Path(p, "Python.h").is_file() for p in places):
        raise ValueError(
            "--compile needs Python's own headers (Python.h): install them (python3-dev on Debian "
            "and Ubuntu), or leave --compile out"
        )
