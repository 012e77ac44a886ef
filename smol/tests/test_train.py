"""Training: exact resume, whole checkpoints, the right precision, and a loss that is the loss."""

import dataclasses
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from smol import BPETokenizer, SmolLM2, generate, load_pretrained, stories, train
from smol.data import Windows, load_corpus
from smol.lesson.exercise import SMALL
from smol.pretrained import SHIPPED, from_reference
from smol.tests.reference import tiny_reference
from smol.train import (
    LossModel,
    TrainConfig,
    checkpoints,
    chunked_cross_entropy,
    cosine,
    evaluate,
    parameter_groups,
    read_log,
    validation_of,
    warmup_and_decay,
    wsd,
)
from smol.train import __main__ as cli

ROOT = Path(train.__file__).parents[2]


def settings(text, **changes) -> TrainConfig:
    small = {"data": str(text), "steps": 12, "batch_size": 4, "seq_len": 32, "device": "cpu"}
    often = {"log_every": 1, "eval_every": 6, "save_every": 3}
    return TrainConfig(**{**small, **often, **changes})


def losses(out: Path) -> list[tuple]:
    rows = read_log(out / "metrics.jsonl")
    return [(row["step"], row["loss"], row["grad_norm"], row.get("val_loss")) for row in rows]


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Path:
    """An uninterrupted run of twelve steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train.train(settings(text), out)
    return out


# -- schedules, groups ----------------------------------------------------------------------------


def test_wsd_warms_up_stays_and_goes_down():
    config = TrainConfig(steps=100, warmup=0.1, decay=0.2)
    rates = [wsd(step, config) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1 * k for k in range(1, 11)] + [1.0])
    assert set(rates[10:81]) == {1.0}
    assert rates[80:] == pytest.approx([1 - 0.05 * k for k in range(20)])


def test_warmup_and_decay_are_steps_and_never_none():
    assert warmup_and_decay(TrainConfig(steps=100, warmup=0.1, decay=0.2)) == (10, 20)
    assert warmup_and_decay(TrainConfig(steps=100, warmup=0, decay=0)) == (1, 1)


def test_cosine_warms_up_and_goes_down():
    config = TrainConfig(steps=110, warmup=1 / 11, schedule="cosine")
    rates = [cosine(step, config) for step in range(110)]
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_the_optimizer_is_given_the_schedule(whole, text):
    config = settings(text)
    rates = [row["lr"] for row in read_log(whole / "metrics.jsonl")]
    assert rates == [config.learning_rate * wsd(step, config) for step in range(12)]


def test_matrices_decay_and_norms_do_not():
    model = SmolLM2(SMALL)
    decayed, free = parameter_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("norm" in names[id(p)] for p in free["params"])
    assert not any("norm" in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)  # the tied head once
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


# -- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 62, 63, 1000])
def test_chunked_cross_entropy_is_cross_entropy(chunk):
    torch.manual_seed(0)
    hidden = torch.randn(3, 21, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(50, (3, 21))
    labels[0, 5:] = -100
    plain = F.cross_entropy((hidden @ head.T).flatten(0, 1), labels.flatten(), reduction="sum")
    want = torch.autograd.grad(plain, (hidden, head))
    ours = chunked_cross_entropy(hidden, head, labels, chunk)
    got = torch.autograd.grad(ours, (hidden, head))
    torch.testing.assert_close(ours.double(), plain, atol=1e-4, rtol=1e-6)  # logits in fp32
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_no_more_than_a_chunk_of_logits_is_kept():
    kept = []

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    hidden, head = torch.randn(4, 64, 8, requires_grad=True), torch.randn(500, 8)
    labels = torch.randint(500, (4, 64))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(F.linear(hidden, head).flatten(0, 1), labels.flatten()).backward()
        plain, kept[:] = max(math.prod(shape) for shape in kept), []
        chunked_cross_entropy(hidden, head, labels, 16)
    assert plain == 4 * 64 * 500
    assert max(math.prod(shape) for shape in kept) <= 4 * 64 * 8 + 500 * 8


def test_loss_at_initialisation():
    """ln V + σ²/2, with σ the standard deviation of the logits: about 1 for this init."""
    torch.manual_seed(0)
    model = SmolLM2(
        dataclasses.replace(SMALL, vocab_size=2000, hidden_size=192, initializer_range=192**-0.5)
    )
    ids = torch.randint(2000, (8, 129))
    logits = model(ids[:, :-1])
    loss, count = LossModel(model)(ids[:, :-1], ids[:, 1:])
    predicted = math.log(2000) + logits.var().item() / 2
    assert abs(loss.item() / count.item() - predicted) < 0.05
    assert predicted > math.log(2000) + 0.3


def test_the_same_curve_as_the_hugging_face_model(text):
    """The same data, the same optimizer: 20 steps, losses within 1e-5."""
    theirs = tiny_reference()
    ours = from_reference(theirs)
    ids = torch.randint(theirs.config.vocab_size, (20, 4, 33))
    curves = []
    for model, logits in ((ours, lambda x: ours(x)), (theirs, lambda x: theirs(x).logits)):
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95))
        curve = []
        for step in range(20):
            x, y = ids[step % 4, :, :-1], ids[step % 4, :, 1:]
            if model is ours:
                loss = LossModel(ours, chunk=50)(x, y)[0] / y.numel()
            else:
                loss = F.cross_entropy(logits(x).flatten(0, 1), y.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0][0] - curves[0][-1] > 0.5  # and it learns
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 1e-5


def test_accumulated_parts_are_the_whole_batch(text, tmp_path):
    train.train(settings(text, accumulate=4, steps=3), tmp_path / "parts")
    train.train(settings(text, steps=3), tmp_path / "one")
    for a, b in zip(losses(tmp_path / "parts"), losses(tmp_path / "one"), strict=True):
        assert a[1] == pytest.approx(b[1], abs=1e-5)


def test_bf16_autocast_trains_and_keeps_fp32_weights(text, tmp_path):
    model = train.train(settings(text, dtype="bfloat16", steps=6), tmp_path / "bf16")
    assert model.norm.weight.dtype == torch.float32
    rows = losses(tmp_path / "bf16")
    assert rows[-1][1] < rows[0][1]


# -- evaluation -----------------------------------------------------------------------------------


def test_validation_on_the_stories_is_per_story_and_knows_the_floor():
    config = TrainConfig()
    corpus = load_corpus("stories")
    some = corpus._replace(validation=corpus.validation[:10])
    tokenizer = BPETokenizer.load(SHIPPED)
    validation = validation_of(some, tokenizer, config)
    torch.manual_seed(0)
    preset = train.PRESETS["tiny"].config
    model = SmolLM2(dataclasses.replace(preset, vocab_size=len(tokenizer))).eval()
    got = evaluate(LossModel(model), validation, torch.device("cpu"))
    nats = count = 0
    for story in some.validation:  # one by one, without padding
        ids = torch.tensor([[0, *tokenizer.encode(story), 0]])
        logits = model(ids[:, :-1])[0]
        nats += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.numel() - 1
    size = sum(map(len, some.validation))
    floor = -sum(map(stories.log_prob, some.validation))
    assert got["val_loss"] == pytest.approx(nats / count, abs=1e-4)
    assert got["val_bits_per_byte"] == pytest.approx(nats / size / math.log(2), abs=1e-4)
    assert got["val_over_floor"] == pytest.approx(nats / floor - 1, abs=1e-3)


def test_validation_on_other_texts_is_in_windows(text):
    config = settings(text)
    corpus = load_corpus(text)
    tokenizer = train.tokenizer_of(corpus, config)
    validation = validation_of(corpus, tokenizer, config)
    assert validation.floor is None
    decoded = "".join(
        tokenizer.decode(row, skip_special_tokens=True)
        for _, labels in validation.batches
        for row in labels.tolist()
    )
    assert len(decoded.encode()) == validation.size
    assert decoded in tokenizer.decode(tokenizer.encode("".join(corpus.validation)))


# -- stopping and going on ------------------------------------------------------------------------


def test_samples_are_logged_and_repeat(whole):
    rows = read_log(whole / "metrics.jsonl")
    assert [row["step"] for row in rows if "sample" in row] == [6, 12]
    folder = whole / "step-000012"
    tokenizer = BPETokenizer.load(folder)
    assert train.sample(load_pretrained(folder), tokenizer) == rows[-1]["sample"] != ""


def test_a_run_learns_and_leaves_a_model(whole):
    rows = losses(whole)
    assert [row[0] for row in rows] == list(range(1, 13))
    assert rows[-1][1] < rows[0][1] - 0.3
    assert [folder.name for folder in checkpoints(whole)] == ["step-000009", "step-000012"]
    model = load_pretrained(whole / "step-000012")
    assert model.config.vocab_size == 1024
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(whole / "step-000012")
    ids = torch.randint(1024, (1, 20))
    assert torch.equal(theirs(ids, use_cache=False).logits, model(ids))


@pytest.mark.parametrize("after", [4, 6, 11])
def test_resumed_is_uninterrupted_to_the_bit(text, whole, tmp_path, after, monkeypatch):
    """Killed after `after` steps, before any checkpoint of the same step, and gone on with."""
    add = train.Log.add

    def dies(log, row):
        add(log, row)
        if row["step"] == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Log, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        train.train(settings(text), tmp_path)
    monkeypatch.setattr(train.Log, "add", add)
    assert len(losses(tmp_path)) == after
    train.train(settings(text), tmp_path, resume=True)
    assert losses(tmp_path) == losses(whole)
    weights = [load_pretrained(out / "step-000012").state_dict() for out in (tmp_path, whole)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_learns_and_resumes_to_the_bit(text, tmp_path):
    config = settings(text, optimizer="muon")
    train.train(config, tmp_path)
    before = losses(tmp_path)
    assert before[-1][1] < before[0][1] - 0.3
    shutil.rmtree(tmp_path / "step-000012")
    train.train(config, tmp_path, resume=True)
    assert losses(tmp_path) == before


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_and_adamw_the_rest(tied):
    model = SmolLM2(dataclasses.replace(SMALL, tie_word_embeddings=tied))
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = (
        {names[id(p)] for group in o.param_groups for p in group["params"]}
        for o in train.optimizers_of(model, TrainConfig(optimizer="muon"), fused=False)
    )
    assert muon | adamw == set(names.values()) and not muon & adamw
    assert all(name.endswith("_proj.weight") for name in muon)
    assert all("norm" in n or n.startswith(("embed_tokens", "lm_head")) for n in adamw)


def test_a_lost_data_position_would_show(text, whole, tmp_path, monkeypatch):
    train.train(settings(text), tmp_path)
    for folder in checkpoints(tmp_path)[1:]:
        shutil.rmtree(folder)
    monkeypatch.setattr(Windows, "load_state_dict", lambda self, state: None)
    train.train(settings(text), tmp_path, resume=True)
    assert losses(tmp_path)[:9] == losses(whole)[:9]
    assert losses(tmp_path)[9:] != losses(whole)[9:]


def command(text, out, *more) -> list[str]:
    sizes = ["--steps", "12", "--batch-size", "4", "--seq-len", "32"]
    often = ["--log-every", "1", "--eval-every", "6", "--save-every", "1"]
    start = [sys.executable, "-m", "smol.train", "--data", str(text), "--out", str(out)]
    return [*start, "--device", "cpu", *sizes, *often, *more]


def started(command) -> subprocess.Popen:
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=one_thread, stderr=subprocess.PIPE, text=True)


def wait_for_rows(out: Path, process: subprocess.Popen, count: int) -> None:
    while process.poll() is None:
        if (out / "metrics.jsonl").exists() and len(read_log(out / "metrics.jsonl")) >= count:
            return
        time.sleep(0.01)


def test_killed_at_random_moments_and_resumed(text, tmp_path, whole):
    """SIGKILL, as often as SMOL_KILLS says: after some row of the log and a random while."""
    rng, kills = random.Random(0), int(os.environ.get("SMOL_KILLS", "1"))
    for _ in range(kills):
        more = ["--resume"] if checkpoints(tmp_path) else []
        process = started(command(text, tmp_path, *more))
        have = len(read_log(tmp_path / "metrics.jsonl")) if more else 0
        wait_for_rows(tmp_path, process, min(11, have + rng.choice([1, 2])))
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.communicate()
    more = ["--resume"] if checkpoints(tmp_path) else []
    process = started(command(text, tmp_path, *more))
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert losses(tmp_path) == losses(whole)


def signalled(monkeypatch, number: int, step: int, times: int = 1, pause: float = 0) -> None:
    """The log sends this process the signal when it has written that step."""
    add = train.Log.add

    def add_and_send(log, row):
        add(log, row)
        for _ in range(times if row["step"] == step else 0):
            signal.raise_signal(number)
            time.sleep(pause)

    monkeypatch.setattr(train.Log, "add", add_and_send)


@pytest.mark.parametrize(
    "number",
    [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)],
)
def test_a_signal_saves_and_stops(text, tmp_path, whole, number, monkeypatch, capsys):
    before = signal.getsignal(number)
    signalled(monkeypatch, number, step=5, times=2)  # a cgroup's and torchrun's own, say
    train.train(settings(text, save_every=1000), tmp_path)
    assert f"stopped by {number.name} after step 5, saved: --resume" in capsys.readouterr().err
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000005"]
    assert signal.getsignal(number) is before  # the old handlers are back
    train.train(settings(text), tmp_path, resume=True)
    assert losses(tmp_path) == losses(whole)


def test_a_second_ctrl_c_stops_at_once(text, tmp_path, monkeypatch):
    signalled(monkeypatch, signal.SIGINT, step=2, times=2, pause=1.1)
    with pytest.raises(KeyboardInterrupt):
        train.train(settings(text), tmp_path)
    assert checkpoints(tmp_path) == []


SMALL_CHUNKS = """
import sys
from smol.train.loss import LossModel
LossModel.__init__.__defaults__ = (10,)
from smol.train.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("how", [[], ["--fsdp"]], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one_and_one_goes_on(text, tmp_path, whole, how):
    """torchrun, two processes, gloo: the same losses at the same global batch, within 1e-4 (sums
    in another order, through twelve steps of Adam), theirs with the loss in chunks that make their
    own gradients; a SIGTERM stops both after the same step, and what they saved resumes in one
    process."""
    program = tmp_path / "small_chunks.py"
    program.write_text(SMALL_CHUNKS)
    out = tmp_path / "out"
    words = command(text, out, "--accumulate", "2", "--save-every", "100", *how)[3:]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = started([sys.executable, *torchrun, str(program), *words])
    wait_for_rows(out, process, 3)
    process.terminate()
    _, said = process.communicate()
    if "'Stream' object has no attribute 'record_event'" in said:
        pytest.skip(f"torch {torch.__version__} has FSDP2 for GPUs only")
    ours, theirs = losses(out), losses(whole)
    assert 3 <= len(ours) <= 12, said
    assert [folder.name for folder in checkpoints(out)] == [f"step-{len(ours):06}"], said
    train.train(settings(text, accumulate=2), out, resume=True)
    assert losses(out)[: len(ours)] == ours
    assert [row[0] for row in losses(out)] == list(range(1, 13))
    for a, b in zip(losses(out), theirs, strict=True):
        assert a[1] == pytest.approx(b[1], abs=1e-4)
        assert a[2] == pytest.approx(b[2], abs=1e-3)


def test_a_batch_that_cannot_be_shared_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        ValueError, match=r"cannot be shared by 3 processes .* take a multiple of 3"
    ):
        train.train(settings(text), tmp_path)


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.fixture
def two(text, whole, tmp_path) -> Path:
    """A copy of the whole run, with checkpoints 9 and 12."""
    return Path(shutil.copytree(whole, tmp_path / "two"))


@pytest.mark.parametrize("name", ["training.pt", "model.safetensors"])
def test_a_torn_checkpoint_is_refused_by_name(text, two, name):
    file = two / "step-000012" / name
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"step-000012 is torn .*move it away, and --resume takes"
    ):
        train.train(settings(text), two, resume=True)
    shutil.rmtree(two / "step-000012")
    train.train(settings(text), two, resume=True)  # and the one before it serves
    assert checkpoints(two)[-1].name == "step-000012"


def test_other_weights_are_refused(text, two):
    (two / "step-000012" / "model.safetensors").write_bytes(
        (two / "step-000009" / "model.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="the weights are not those it was saved with"):
        train.train(settings(text), two, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was made with seed 0, not 1"),
        ({"batch_size": 2, "seq_len": 16}, "made with batch_size 4, not 2, seq_len 32, not 16"),
        ({"preset": "small"}, "preset 'tiny', not 'small'"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(text, two, change, message):
    with pytest.raises(ValueError, match=message):
        train.train(settings(text, **change), two, resume=True)


def test_a_run_may_be_made_longer_but_not_shorter(text, two):
    """The rows that stand stay, and the longer schedule takes over: at step 12 of 15 it is at the
    last step but two of its way down."""
    before = losses(two)
    train.train(settings(text, steps=15), two, resume=True)
    assert losses(two)[:12] == before
    rates = [row["lr"] for row in read_log(two / "metrics.jsonl")[12:]]
    assert rates == pytest.approx([6e-3 * k / 3 for k in (3, 2, 1)])
    with pytest.raises(ValueError, match="is at step 15, past 12: take more --steps"):
        train.train(settings(text), two, resume=True)


def test_unique_tokens_are_counted_and_said(whole, capsys, text, tmp_path):
    rows = read_log(whole / "metrics.jsonl")
    assert [row["tokens"] for row in rows] == [4 * 32 * step for step in range(1, 13)]
    assert all(row["unique_tokens"] <= row["tokens"] for row in rows)
    assert rows[-1]["unique_tokens"] < rows[-1]["tokens"]  # 48 windows of some 15,000 tokens meet
    train.train(settings(text, steps=2, seq_len=8), tmp_path)
    assert "64 tokens seen, 64 of them unique: 0.00 epochs" in capsys.readouterr().err


def test_fresh_stories_resume_to_the_bit(tmp_path):
    config = settings(
        "fresh", tokenizer=str(SHIPPED), seq_len=64, steps=4, eval_every=100, save_every=2
    )
    train.train(config, tmp_path)
    before = losses(tmp_path)
    rows = read_log(tmp_path / "metrics.jsonl")
    assert rows[-1]["unique_tokens"] == rows[-1]["tokens"] == 4 * 4 * 64
    assert "val_over_floor" in rows[-1]
    shutil.rmtree(tmp_path / "step-000004")
    train.train(config, tmp_path, resume=True)
    assert losses(tmp_path) == before


def test_how_often_to_log_may_change(text, two):
    train.train(settings(text, log_every=5, keep=1), two, resume=True)


def test_the_newest_checkpoint_is_the_one_of_the_highest_number(tmp_path):
    """As text, step-1000000 comes before step-999998."""
    for other in ("step-000001.bak", "step-old"):
        (tmp_path / other).mkdir()
    (tmp_path / "step-2000000").write_text("no folder")
    torch.manual_seed(0)
    model, tokenizer = SmolLM2(SMALL), BPETokenizer.train(["a text"], 257)
    for step in (999_998, 999_999, 1_000_000):
        train.save_checkpoint(tmp_path, step, {}, model, tokenizer, keep=2)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-999999", "step-1000000"]
    assert (tmp_path / "step-000001.bak").is_dir()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power cut, what was renamed but never written out is a file of nothing."""
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.fstat(fd).st_ino) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append(Path(b).name) or replace(a, b))
    tokenizer = BPETokenizer.train(["a text"], 257)
    train.save_checkpoint(tmp_path, 3, {}, SmolLM2(SMALL), tokenizer, keep=2)
    assert calls[-1] == "step-000003"
    files = list((tmp_path / "step-000003").iterdir())
    assert len(files) == 6
    for file in files:
        named = calls.index(file.name if file.name in calls else "step-000003")
        assert file.stat().st_ino in calls[:named], file


def test_a_run_is_not_overwritten(text, two):
    with pytest.raises(FileExistsError, match="holds a run up to step-000012: --resume it"):
        train.train(settings(text), two)


def test_resume_begins_where_there_is_nothing_to_resume_and_says_so(text, whole, tmp_path, capsys):
    """So that one command line can be started again, also before the first checkpoint."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9}\n')  # killed before it saved
    (tmp_path / ".step-000003.part").mkdir()
    (tmp_path / ".metrics.jsonl.77.part").write_text("half")
    train.train(settings(text), tmp_path, resume=True)
    assert f"{tmp_path} holds no checkpoint to resume: the run begins" in capsys.readouterr().err
    assert losses(tmp_path) == losses(whole)
    assert list(tmp_path.glob(".*")) == []


def test_a_full_disk_leaves_the_last_checkpoint(text, tmp_path, monkeypatch, whole):
    save, calls = torch.save, []

    def fills_up(state, file, **kwargs):
        calls.extend([state] * isinstance(file, Path))  # the rehearsal is in memory
        if len(calls) == 2 and isinstance(file, Path):
            Path(file).write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")
        save(state, file, **kwargs)

    monkeypatch.setattr(torch, "save", fills_up)
    with pytest.raises(
        OSError, match=r"step-000006 could not be written .*the last checkpoint is step-000003"
    ):
        train.train(settings(text), tmp_path)
    names = sorted(f.name for f in tmp_path.iterdir())
    assert names == ["metrics.jsonl", "step-000003"]
    train.train(settings(text), tmp_path, resume=True)
    assert losses(tmp_path) == losses(whole)


def test_a_loss_that_is_no_number_stops_the_run(text, tmp_path):
    wanted = (
        r"the (loss|norm of the gradients) is (nan|inf) at step \d+: take a lower .* \(no check"
    )
    with pytest.raises(ValueError, match=wanted):
        train.train(settings(text, learning_rate=1e30, clip=1e30), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "preset 'huge' is none of tiny, small, 135m"),
        ({"schedule": "linear"}, "schedule 'linear' is none of wsd, cosine"),
        ({"optimizer": "sgd"}, "optimizer 'sgd' is none of adamw, muon"),
        ({"optimizer": "muon", "fsdp": True}, "muon needs whole matrices|has no Muon"),
        ({"device": "tpu"}, "device 'tpu' is none of auto, cpu, cuda, mps"),
        ({"dtype": "x"}, "dtype 'x' is none of auto, float32, bfloat16, float16"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"log_every": 0}, "log_every must be 1 or more, got 0"),
        ({"eval_every": 0}, "eval_every must be 1 or more, got 0"),
        ({"save_every": -1}, "save_every must be 1 or more, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 .*, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0 .*, got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and at most 1e30, got inf"),
        ({"clip": 0.0}, "clip must be above 0 .*, got 0.0"),
        ({"clip": math.nan}, "clip must be above 0 .*, got nan"),
        ({"warmup": -0.1}, "warmup must be a part of the steps, 0 to 1, got -0.1"),
        ({"decay": 1.5}, "decay must be a part of the steps, 0 to 1, got 1.5"),
        ({"warmup": 0.9, "decay": 0.2}, "warmup 0.9 and decay 0.2 are more than all the steps"),
        ({"batch_size": 6, "accumulate": 4}, "cannot be cut into 4 equal parts"),
        ({"seq_len": 513}, "seq_len 513 is over the preset's context of 512"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_settings_at_their_ends_are_taken():
    TrainConfig(warmup=0.3, decay=0.7, clip=math.inf, log_every=1)
    TrainConfig(warmup=0.9, schedule="cosine")  # which has no decay


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    process = started(command(tmp_path / "none.txt", tmp_path / "out"))
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.startswith("smol.train: ") and said.count("\n") == 1
    assert "is no file or folder here" in said


def test_a_log_cut_short_is_read_up_to_there(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(file) == [{"step": 1, "loss": 2.0}]
    train.Log(file, after=1)
    assert file.read_text() == '{"step": 1, "loss": 2.0}\n'
    file.write_text('{"step": 1}\n{"step": 2}')  # whole, but for the end of its line
    assert read_log(file) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ['{"step": 2, "lo', "", "\0\0"])
def test_any_other_unreadable_line_of_a_log_is_named(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    for rest in ('{"step": 3}\n', '{"step": 3}', ""):
        file.write_text(f'{{"step": 1}}\n{line}\n{rest}')
        with pytest.raises(
            ValueError, match=r"metrics.jsonl: line 2 is no row of a run .*: delete that"
        ):
            read_log(file)


def test_a_full_disk_on_resume_leaves_the_log(two, monkeypatch):
    file, write = two / "metrics.jsonl", Path.write_text
    before = file.read_bytes()

    def fills_up(self, text, **kwargs):
        write(self, text[:10], **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fills_up)
    with pytest.raises(OSError, match="what stood there still stands"):
        train.Log(file, after=9)
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_the_presets_are_smollm2_scaled_down(name):
    config = train.PRESETS[name].config
    assert config.num_attention_heads == 3 * config.num_key_value_heads
    assert config.intermediate_size == config.hidden_size * 8 // 3
    assert config.initializer_range == config.hidden_size**-0.5
    assert config.tie_word_embeddings and config.rope_theta == 10_000


def test_one_window_held_out_is_enough(text):
    """And one token less is too few."""
    config = settings(text, seq_len=32)
    corpus, tokenizer = load_corpus(config.data), BPETokenizer.load(SHIPPED)
    ids = tokenizer.encode(corpus.validation[0])[:32]
    for count, ok in ((32, True), (31, False)):
        few = corpus._replace(name="few", validation=[tokenizer.decode(ids[:count])])
        if ok:
            assert len(validation_of(few, tokenizer, config).batches) == 1
        else:
            with pytest.raises(ValueError, match="held-out tokens are too few for a window of 32"):
                validation_of(few, tokenizer, config)


def test_a_sample_is_drawn_at_temperature_08():
    model, tokenizer = load_pretrained(SHIPPED), BPETokenizer.load(SHIPPED)
    drawn = torch.Generator().manual_seed(3)
    ids = generate(
        model,
        torch.tensor([[0]]),
        40,
        temperature=0.8,
        stop_ids=[0],
        generator=drawn,
    )
    want = tokenizer.decode(ids[0, 1:].tolist(), skip_special_tokens=True)
    assert train.sample(model, tokenizer, 40, seed=3) == want


def test_the_135m_takes_smollm2s_tokenizer(monkeypatch):
    asked = []
    monkeypatch.setattr("smol.train.data.instruct_files", lambda patterns: patterns[0])
    monkeypatch.setattr(BPETokenizer, "load", lambda name: asked.append(str(name)) or "it")
    for named in (None, "here"):
        config = TrainConfig(preset="135m", tokenizer=named)
        assert train.tokenizer_of(load_corpus("stories"), config) == "it"
    assert asked == ["tokenizer.json", "here"]


def test_what_a_torn_save_left_is_not_in_the_checkpoint(text, tmp_path):
    """A kill in mid-save leaves a .part folder; the next save of that step begins anew."""
    left = tmp_path / ".step-000002.part"
    left.mkdir()
    (left / "rubbish").write_text("from before")
    train.train(settings(text, steps=2, save_every=2), tmp_path)
    assert "rubbish" not in {file.name for file in (tmp_path / "step-000002").iterdir()}


def test_the_commands_flags_reach_the_run(monkeypatch, tmp_path):
    got = []
    monkeypatch.setattr(cli, "run", lambda *args: got.append(args) or (None, args[0].steps))
    flags = {
        **{"steps": 7, "batch-size": 4, "seq-len": 32, "accumulate": 2, "learning-rate": 0.5},
        **{"seed": 3, "log-every": 2, "eval-every": 3, "save-every": 4, "keep": 5},
        **{"tokenizer": "T", "optimizer": "adamw", "schedule": "cosine", "device": "cpu"},
        **{"dtype": "bfloat16", "preset": "small", "data": "D"},
    }
    line = ["train", "--out", str(tmp_path), "--resume", "--compile", "--fsdp"]
    line += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", line)
    assert cli.main() == 0
    config, out, resume = got[0]
    assert out == str(tmp_path) and resume is True and config.compile and config.fsdp
    for name, value in flags.items():
        assert getattr(config, name.replace("-", "_")) == value
    monkeypatch.setattr(sys, "argv", ["train", "--preset", "small", "--out", str(tmp_path)])
    assert cli.main() == 0
    assert got[1][0] == TrainConfig("small", batch_size=16, learning_rate=3e-3)
    assert got[1][0].compile is None
    monkeypatch.setattr(sys, "argv", ["train", "--no-compile", "--out", str(tmp_path)])
    assert cli.main() == 0 and got[2][0].compile is False


def test_the_bar_says_how_it_goes(text, tmp_path, capsys):
    train.train(settings(text, steps=2, eval_every=2, log_every=1), tmp_path)
    said = capsys.readouterr().err
    row = read_log(tmp_path / "metrics.jsonl")[-1]
    assert f"step 2, held out {row['val_loss']:.3f}: " in said and "loss=" in said
