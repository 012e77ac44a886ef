"""Workers killed with -9 at random moments: `python -m smol.tests.kills --times 5`.

torchrun starts two processes and, when one of them is gone, both anew with the same command line,
which says --resume from the beginning. However often that happens, and whether or not there was a
checkpoint by then, the run must end with the losses of one that nobody disturbed, to the bit, and
no step may stand twice in metrics.jsonl. For DDP and FSDP2 alike.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from smol import stories
from smol.train import read_log

ROOT = Path(__file__).parents[2]
STEPS, SECONDS = 40, 120
HOW = {"ddp": [], "fsdp": ["--fsdp"]}
SAVES = {"checkpoint": 5, "none": 1000}  # every so many steps


def write_text(folder: Path) -> Path:
    """Some stories as a .jsonl: so few that a run starts quickly."""
    file = folder / "some.jsonl"
    rows = [json.dumps({"text": story}) for story in stories.write(60, seed=11)]
    file.write_text("\n".join(rows), encoding="utf-8")
    return file


def start(text: Path, out: Path, how: str, save_every: int, restarts: int) -> subprocess.Popen:
    """torchrun with two processes on the CPU."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    settings = {"steps": STEPS, "batch-size": 4, "seq-len": 32, "save-every": save_every}
    settings |= {"log-every": 1, "eval-every": STEPS, "device": "cpu", "data": text, "out": out}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, *torchrun, "-m", "smol.train", "--resume", *words, *HOW[how]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with said_by(out).open("wb") as said:  # a pipe that nobody empties would hold the run up
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=said, stdout=said)


def said_by(out: Path) -> Path:
    """The file beside a run's folder with all that its processes said."""
    return out.with_name(f"{out.name}.txt")


def finish(process: subprocess.Popen, out: Path) -> str:
    """Waits for the end of a run and gives what was said. RuntimeError where it did not end well,
    or not within SECONDS."""
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        for worker in workers(process):
            worker.kill()
        process.kill()
        process.wait()
    said = said_by(out).read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}\n{said[-3000:]}")
    return said


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The training processes that are alive, in the order in which they were started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children()
        found = [c for c in children if "smol.train" in c.cmdline()]
        return sorted(found, key=psutil.Process.pid.fget)
    return []


def steps_in(out: Path) -> int:
    """How many rows the log has by now."""
    file = out / "metrics.jsonl"
    return len(read_log(file)) if file.exists() else 0


def kill_one(process: subprocess.Popen, out: Path, saved: bool, draw: random.Random) -> str:
    """Kills one of the workers: when there is a checkpoint, or at some moment of a run that has
    none, be it while a process still starts. Says when."""
    row = draw.randint(7 if saved else 1, STEPS - 8)
    early = not saved and draw.random() < 0.3
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        if len(workers(process)) == 2 and (early or steps_in(out) >= row):
            break
        time.sleep(0.01)
    time.sleep(draw.random() * (2.0 if early else 0.1))
    rank = draw.randrange(2)
    done = steps_in(out)
    with contextlib.suppress(IndexError, psutil.NoSuchProcess):
        workers(process)[rank].send_signal(signal.SIGKILL)
        return f"process {rank} after {done} steps"
    raise RuntimeError("the run was over before anybody could be killed")


def losses(out: Path) -> list[tuple]:
    """(step, loss, norm, held-out loss) of each row."""
    rows = read_log(out / "metrics.jsonl")
    return [(row["step"], row["loss"], row["grad_norm"], row.get("val_loss")) for row in rows]


def undisturbed(text: Path, out: Path, how: str) -> list[tuple]:
    """The losses of two processes that run to the end."""
    finish(start(text, out, how, SAVES["none"], restarts=0), out)
    return losses(out)


def disturbed(text: Path, out: Path, how: str, saves: str, draw: random.Random) -> tuple:
    """The losses of a run of which one worker was killed, when that was, and what was said."""
    process = start(text, out, how, SAVES[saves], restarts=1)
    try:
        when = kill_one(process, out, saves == "checkpoint", draw)
    finally:
        said = finish(process, out)
    return losses(out), when, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, wrong = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = write_text(folder)
        for how in HOW:
            want = undisturbed(text, folder / how, how)
            for saves in SAVES:
                for time_ in range(args.times):
                    out = folder / f"{how}-{saves}-{time_}"
                    got, when, _ = disturbed(text, out, how, saves, draw)
                    same = got == want
                    wrong += not same
                    verdict = "the same losses" if same else "OTHER LOSSES"
                    print(f"{how:5} {saves:11} killed {when:28} {verdict}", flush=True)
    print(f"seed {args.seed}: {wrong} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
