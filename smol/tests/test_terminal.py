"""What is said beside the work may fail: the work goes on, and a command ends as it should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smol.generate import __main__ as generating
from smol.pretrained import SHIPPED
from smol.terminal import Aside, command, say
from smol.tests.kills import write_text
from smol.train import checkpoints, read_log

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX is needed")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash, in which $P is this Python and PIPESTATUS that of the first command."""
    own = {**os.environ, "P": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", line],
        env={**own, **environment},
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )


class Broken:
    """A stream that fails in some way at each write."""

    encoding = "utf-8"

    def __init__(self, error: Exception):
        self.error, self.tried = error, 0

    def write(self, text):
        self.tried += 1
        raise self.error

    flush = isatty = write


# -- the stream, the line, the decorator ----------------------------------------------------------


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("closed")])
def test_what_cannot_be_written_is_tried_once(monkeypatch, error):
    broken = Broken(error)
    monkeypatch.setattr(sys, "stderr", broken)
    aside = Aside()
    for _ in range(3):
        assert aside.write("something") == 9
        aside.flush()
    assert broken.tried == 1
    say("more")


def test_no_stderr_at_all(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    aside = Aside()
    assert aside.write("x") == 1 and not aside.isatty() and aside.encoding == "ascii"
    aside.flush()
    with pytest.raises(OSError, match="there is no stderr"):
        aside.fileno()
    say("not into stdout either, where print(file=None) would put it")
    assert capsys.readouterr().out == ""


def test_what_an_encoding_lacks_is_a_question_mark(monkeypatch, tmp_path):
    with (tmp_path / "said").open("w", encoding="cp1252", newline="") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        say("a 🎉 × b")
    assert (tmp_path / "said").read_bytes() == "a ? × b\n".encode("cp1252")


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (None, 0, ""),
        (ValueError("no"), 1, "it: no\n"),
        (FileNotFoundError("gone"), 1, "it: gone\n"),
        (BrokenPipeError(), 141, ""),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_how_a_command_ends(capsys, raised, status, said):
    @command("it")
    def main() -> int:
        if raised is not None:
            raise raised
        return 0

    assert main() == status
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes\nat"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_too_little_memory_is_said(capsys, error):
    @command("it")
    def main() -> int:
        raise error

    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("it: there is not enough memory (") and "smaller batches" in said
    assert said.count("\n") == 1


@POSIX
def test_a_pipe_that_nobody_reads_holds_nothing_up(monkeypatch):
    read, write = os.pipe()
    with open(write, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        aside = Aside()
        for _ in range(3000):
            aside.write("x" * 99 + "\n")
        assert len(os.read(read, 2**20)) > 1000  # and when it is read again
        aside.write("here\n")
        assert os.read(read, 2**20).endswith(b"here\n")
        os.close(read)


def test_an_error_that_is_nobodys_mistake_keeps_its_traceback():
    @command("it")
    def main() -> int:
        raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        main()


# -- the commands ---------------------------------------------------------------------------------

RUN = "$P -m smol.train --data $D --steps 6 --batch-size 4 --seq-len 32 --device cpu"
RUN += " --log-every 2 --eval-every 3 --out $O"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return str(write_text(tmp_path_factory.mktemp("text")))


@POSIX
@pytest.mark.parametrize(
    "stderr",
    [
        "2> >(head -c 10 >/dev/null)",
        pytest.param("2>/dev/full", marks=FULL),
        "2>&-",
        pytest.param("<&- >&- 2>&-", id="none at all"),
    ],
)
def test_a_run_ends_and_saves_whatever_becomes_of_stderr(text, tmp_path, stderr):
    """A full disk of logs, a pager that ended, a session that went."""
    done = shell(f"{RUN} {stderr}", D=text, O=str(tmp_path))
    assert done.returncode == 0
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000006"]
    assert [row["step"] for row in read_log(tmp_path / "metrics.jsonl")] == [2, 3, 4, 6]


@POSIX
def test_a_run_whose_terminal_went_saves_and_stops(text, tmp_path):
    """SIGHUP with a terminal that can no more be written: what an ssh session leaves."""
    line = [sys.executable, "-m", "smol.train", "--data", text, "--steps", "100000"]
    line += ["--batch-size", "4", "--seq-len", "32", "--log-every", "1", "--out", str(tmp_path)]
    read, write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*line, "--device", "cpu"], env=environment, stderr=write, cwd=ROOT)
    os.close(write)
    log = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and len(read_log(log)) > 2):
        time.sleep(0.02)
    os.close(read)
    process.send_signal(signal.SIGHUP)
    try:
        assert process.wait(60) == 1  # not 0: there is more to do
    finally:
        process.kill()  # where SIGHUP is ignored, as under nohup, it would go on for an hour
    steps = [row["step"] for row in read_log(log)]
    assert steps == list(range(1, steps[-1] + 1))
    assert [folder.name for folder in checkpoints(tmp_path)] == [f"step-{steps[-1]:06}"]


GENERATE = "$P -m smol.generate The --device cpu --seed 1 --max-new-tokens 40"


@POSIX
def test_a_reader_that_went_away_ends_an_answer_in_silence():
    done = shell(f"{GENERATE} --samples 9 | head -c 3; exit ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr, done.returncode) == (b"The", b"", 141)


@POSIX
@FULL
def test_an_answer_that_cannot_be_written_is_an_error_in_one_line():
    done = shell(f"{GENERATE} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"smol.generate: No space left on device\n"


NINE = "--device cpu --seed 1 --max-new-tokens 9"


@pytest.fixture
def written(monkeypatch, capsys):
    """What the command writes when it is called here, and not in a process of its own."""

    def written(prompt: str) -> str:
        monkeypatch.setattr(sys, "argv", ["generate", prompt, *NINE.split()])
        assert generating.main() == 0
        return capsys.readouterr().out

    return written


@POSIX
def test_a_text_goes_into_any_encoding(written):
    """cp1252 has no emoji: the rest of the text is not lost by it."""
    want = written("A 🎉 mouse")
    done = shell(f"$P -m smol.generate 'A 🎉 mouse' {NINE}", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, b"")
    assert want.startswith("A 🎉 mouse") and len(want) > 20
    assert done.stdout.decode("cp1252") == want.replace("🎉", "?")


@POSIX
def test_a_prompt_of_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    done = shell(f"$P -m smol.generate --device cpu < {tmp_path}/latin.txt")
    assert (done.returncode, done.stdout) == (1, b"")
    assert (
        done.stderr
        == b"smol.generate: the prompt on stdin is not UTF-8 at byte 3: convert it first\n"
    )


@POSIX
def test_a_prompt_may_come_through_a_pipe(written):
    want, piped = written("Mia found a"), f"$P -m smol.generate {NINE}"
    assert want.startswith("Mia found a")
    assert shell(f"echo Mia found a | {piped}").stdout.decode() == want
    assert not shell(f"{piped} < /dev/null").stdout.startswith(b"Mia found a")  # a new text


def test_a_conversation_goes_on_after_a_question_that_is_too_long(tmp_path):
    lines = "word " * 600 + "\n" + "hello \udcff\n"  # and a byte that is no UTF-8
    line = [sys.executable, "-m", "smol.generate", "--chat", "--model", str(SHIPPED)]
    run = subprocess.run(
        [*line, "--device", "cpu", "--seed", "1", "--max-new-tokens", "5"],
        input=lines.encode(errors="surrogateescape"),
        capture_output=True,
        cwd=ROOT,
    )
    assert run.returncode == 0
    assert b"tokens do not fit a context of 512: ask in fewer words" in run.stderr
    assert len(run.stdout.decode().replace(">", "").strip()) > 3  # the second one is answered


def test_a_conversation_forgets_until_the_answer_fits():
    """The length that was asked for counts, and not half of the context."""
    lines = "tell me a story\nanother one please\nand one more\n"
    line = [sys.executable, "-m", "smol.generate", "--chat", "--model", str(SHIPPED)]
    line += ["--device", "cpu", "--seed", "1", "--max-new-tokens", "400", "--stop", "."]
    run = subprocess.run(line, input=lines.encode(), capture_output=True, cwd=ROOT)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.count(b"> ") == 4
