"""The benchmarks measure what they say, and only where the results are equal."""

import copy
import dataclasses
import functools
import gc
import inspect
import json
import linecache
import statistics
import sys
import types
from pathlib import Path

import nbformat
import pytest
import regex
import torch
import torch.nn.functional as F

from smol import SmolLM2, SmolLM2Config
from smol.bench.__main__ import main
from smol.bench.decode import _compared, decode, prefill, roofline, writers
from smol.bench.parity import examine, parity, patients, real, real_patient, summary
from smol.bench.patient import doctor_of, trained_patient
from smol.bench.timing import Run, matmul_rate, read_rate, side_by_side, spread
from smol.bench.tokenizer import library_tokenizer, naive_merges, tokenizer
from smol.bench.train import Rung as Step
from smol.bench.train import ladder, train, training_step
from smol.count import cache_bytes, count_parameters, flops_per_token
from smol.data import Corpus, load_corpus
from smol.generate import fixed
from smol.lesson.code import same_code
from smol.lesson.exercise import SMALL
from smol.lesson.figures.readme import learned_from, results_from
from smol.lesson.graph import graphs_on_the_cpu
from smol.parity import MUTANTS, Mutant, Report
from smol.parity.ladder import Rung
from smol.pretrained import from_reference
from smol.tests.reference import tiny_reference
from smol.tokenizer import DIGITS_PATTERN, BPETokenizer
from smol.train import PRESETS
from smol.train.optimizer import optimizers_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch):
    """A smaller product, and less memory read, say enough of a processor's rates here."""
    for name in ("timing", "train"):
        quick = lambda device, dtype, size: matmul_rate(device, dtype, 512)  # noqa: E731
        monkeypatch.setattr(f"smol.bench.{name}.matmul_rate", quick)
    monkeypatch.setattr("smol.bench.timing.read_rate", lambda device: read_rate(device, 2**26))


def test_contestants_take_turns_and_the_first_round_does_not_count():
    order = []
    contestants = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = side_by_side(contestants, rounds=3)
    assert order == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_rounds_end_with_the_time_and_each_is_told_at_once(monkeypatch):
    now, told = [0.0], []

    def work():
        now[0] += 2.0

    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(f"smol.bench.timing.time.{clock}", lambda: now[0])
    many = side_by_side({"a": work}, 5, Run(7.0), lambda seconds: told.append(len(seconds["a"])))
    assert many == {"a": [2.0, 2.0]}  # after the third, which makes 6 s, there is no time for one
    assert told == [1, 2]
    assert len(side_by_side({"a": work}, 5, Run(0.0))["a"]) == 1  # one at least


def test_spread_is_the_median_between_fastest_and_slowest():
    assert spread([3.0, 1.0, 10.0]) == "3.000 s (1.000–10.000)"


@pytest.mark.parametrize("text", ["low lower lowest new newer wide", "aaa aaaa aaaaa", "ab ba ab"])
def test_the_naive_trainer_learns_what_the_fast_one_does(text):
    pieces = [piece.encode() for piece in regex.findall(DIGITS_PATTERN, text)]
    assert naive_merges(pieces, 290) == BPETokenizer.train([text], 290).merges


@pytest.fixture
def few_stories(monkeypatch):
    name, train, held_out = load_corpus("stories")
    monkeypatch.setattr("smol.data.load_corpus", lambda _: Corpus(name, train[:200], held_out[:9]))


def test_the_tokenizer_benchmark(capsys, monkeypatch, tmp_path, few_stories):
    small = lambda run: tokenizer(rounds=1, vocab_size=300, naive_count=1)  # noqa: E731
    monkeypatch.setattr("smol.bench.__main__.BENCHES", {"tokenizer": small})
    file = tmp_path / "new" / "result.json"
    monkeypatch.setattr(sys, "argv", ["bench", "tokenizer", "--json", str(file)])
    assert main() == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["command"] == "python -m smol.bench tokenizer"
    works = [row["work"] for row in result["tokenizer"]]
    assert works[::3] == ["train", "encode", "encode, they in a batch", "train, naive"]
    assert all(row["ratio"] > 0 for row in result["tokenizer"])
    assert "times what ours takes for all of them" in capsys.readouterr().out


def test_a_folder_gets_a_file_for_each_as_soon_as_it_is_measured(monkeypatch, tmp_path):
    def broken(run):
        run.note(rows=[3])
        raise AssertionError("not the same ids")

    benches = {"one": lambda run: [1], "two": lambda run: 2, "three": broken}
    monkeypatch.setattr("smol.bench.__main__.BENCHES", benches)
    monkeypatch.setattr(sys, "argv", ["bench", "all", "--json", str(tmp_path / "new")])
    with pytest.raises(AssertionError, match="not the same ids"):
        main()
    files = {file.name: json.loads(file.read_text()) for file in (tmp_path / "new").iterdir()}
    assert set(files) == {"one.json", "two.json", "three.json"}
    assert files["three.json"]["three"] == {"rows": [3]}  # what it had when it failed
    assert files["one.json"]["one"] == [1] and "two" not in files["one.json"]
    assert files["two.json"]["command"] == "python -m smol.bench all"


def test_unequal_results_are_not_timed(monkeypatch, few_stories):
    """A library trained on other texts stands for a tokenizer that is not ours."""
    other = library_tokenizer(["another text altogether"], 300)
    monkeypatch.setattr("smol.bench.tokenizer.library_tokenizer", lambda texts, vocab_size: other)
    with pytest.raises(AssertionError, match="our merges are not the library's"):
        tokenizer(rounds=1, vocab_size=300, naive_count=1)


def test_benchmarks_share_the_seconds(monkeypatch, capsys, tmp_path):
    left = []
    bench = lambda run: left.append(round(run.left())) or {}  # noqa: E731
    monkeypatch.setattr("smol.bench.__main__.BENCHES", {"one": bench, "two": bench})
    argv = ["bench", "one", "two", "--seconds", "60", "--json", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", argv)
    assert main() == 0 and left == [30, 60]  # the first took none of its half
    command = json.loads((tmp_path / "a.json").read_text())["command"]
    assert command == "python -m smol.bench one two --seconds 60"
    monkeypatch.setattr(sys, "argv", ["bench", "one", "--seconds", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "0 seconds: take a number above 0" in capsys.readouterr().err


def test_a_gpu_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr("smol.bench.__main__.BENCHES", {"one": lambda run: 1})
    monkeypatch.setattr("smol.bench.__main__.machine", lambda: {"gpu": "NVIDIA H200"})
    monkeypatch.setattr(sys, "argv", ["bench", "one", "--json", str(tmp_path)])
    assert main() == 0
    assert json.loads((tmp_path / "gpu" / "NVIDIA-H200" / "one.json").read_text())["one"] == 1


def test_an_unknown_benchmark_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "quantum"])
    with pytest.raises(SystemExit):
        main()
    names = "notebooks, parity, decode, prefill, roofline, train, tokenizer, answers, "
    names += "preferences, traps, gpu, gpu_train, all"
    assert f"no benchmark quantum: choose from {names}" in capsys.readouterr().err


def test_the_claims_say_what_was_measured():
    file = ROOT / "assets" / "results" / "tokenizer.json"
    *pairs, naive = json.loads(file.read_text(encoding="utf-8"))["tokenizer"]
    train, encode, batch = (f"{row['ratio']:.1f} ×" for row in pairs[2::3])
    claim = (
        f"training takes {train} the Rust library's time, encoding {encode} text by text and "
        f"{batch} against its batch on two cores; the naive trainer takes {naive['ratio']:.0f} × "
        f"ours for {naive['merges']} of"
    )
    assert claim in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# -- training -------------------------------------------------------------------------------------


def test_every_rung_takes_the_same_step(capsys, monkeypatch):
    """Without the compiled ones, which take a minute."""
    rungs = [rung for rung in ladder(torch.device("cpu")) if not rung.compile]
    monkeypatch.setattr("smol.bench.train.ladder", lambda device: rungs)
    result = train("tiny", batch_size=2, seq_len=64, rounds=1)
    rows = {row["name"]: row for row in result["rungs"]}
    names = ["transformers", "ours", "+ bf16", "+ fused AdamW", "+ chunked loss"]
    names += ["+ its own gradient"]
    assert list(rows) == [*names, "transformers, so too"]
    assert rows["transformers"]["speedup"] == 1.0
    tokens = 2 * 64 / rows["ours"]["seconds"][0]
    assert rows["ours"]["tokens_per_second"] == pytest.approx(tokens)
    flops = flops_per_token(PRESETS["tiny"].config, 64)
    vocab = 6 * 96 * (1024 - 49152)  # the preset's own vocabulary
    assert result["flops_per_step"] == 128 * (flops + vocab)
    rate = result["matmul_flops_per_second"]["float32"]
    assert rows["ours"]["mfu"] == pytest.approx(tokens * (flops + vocab) / rate)
    assert all(row["memory"] > 16e6 / 4 for row in rows.values())
    assert "transformers, so too" in capsys.readouterr().out


def test_a_compiled_rung_stays_compiled_block_by_block(monkeypatch):
    runs = []

    def counted(function, **settings):
        return lambda *args: runs.append(function.__name__) or function(*args)

    monkeypatch.setattr(torch, "compile", counted)
    model = SmolLM2(SMALL)
    ids = torch.randint(256, (2, 17))
    rung = next(rung for rung in ladder(torch.device("cpu")) if rung.name == "+ compile")
    step, _ = training_step(model, rung._replace(chunk=8), ids[:, :-1], ids[:, 1:])
    gc.collect()
    step(), step()
    assert runs.count("forward") == 2 * len(model.layers)
    assert runs.count("loss_and_slope") == 2 * 32 / 8


def test_without_time_the_rungs_that_are_needed_stay(capsys, monkeypatch):
    rungs = [rung._replace(compile=False) for rung in ladder(torch.device("cpu"))]
    assert [rung.name for rung in rungs if rung.needed] == ["transformers", "ours", "+ compile"]
    monkeypatch.setattr("smol.bench.train.ladder", lambda device: rungs)
    written = []
    result = train("tiny", batch_size=2, seq_len=64, run=Run(0.0, lambda f: written.append({**f})))
    assert [row["name"] for row in result["rungs"]] == ["transformers", "ours", "+ compile"]
    assert all(len(row["seconds"]) == 1 and row["first_step"] > 0 for row in result["rungs"])
    assert list(written[1]["first_step"]) == ["transformers"]  # as soon as it was measured
    assert written[-2]["seconds"].keys() == {"transformers", "ours", "+ compile"}
    assert "seconds" not in result and set(result["skipped"]) == {
        *("+ bf16", "+ fused AdamW", "+ chunked loss", "+ its own gradient"),
        *("transformers, so too", "transformers, so too, compiled"),
    }
    assert "skipped: 0 s were left" in capsys.readouterr().out


def test_a_captured_rung_takes_the_trainers_steps(monkeypatch, capsys):
    """What is timed is a replay; its losses are those of the steps that are not captured."""
    fused = lambda model, config, fused: optimizers_of(model, config, fused=True)  # noqa: E731
    monkeypatch.setattr("smol.train.learner.optimizers_of", fused)
    monkeypatch.setattr("smol.bench.train.matmul_rate", lambda *args: 1e12)
    rungs = [Step("eager", chunk=4096, own=True, fused=True), Step("captured", captured=True)]
    with graphs_on_the_cpu() as said:
        result = train("tiny", batch_size=2, seq_len=16, rounds=2, rungs=rungs)
        assert said == [*["wait", "aside", "wait"] * 3, "capture"]
        model = SmolLM2(PRESETS["tiny"].config)
        ids = torch.randint(1024, (2, 17))
        batch = ids[:, :-1], ids[:, 1:]
        ways = [training_step(copy.deepcopy(model), rung, *batch)[0] for rung in rungs]
        plain, fast = ([step() for _ in range(8)] for step in ways)
    assert fast[:5] == pytest.approx([plain[0], *plain[4:]], abs=1e-3)  # the first call took four
    eager, captured = result["rungs"]
    assert eager["speedup"] == 1.0 and captured["loss"] == pytest.approx(eager["loss"])
    assert eager["memory"] and captured["memory"] is None
    assert "x eager" in capsys.readouterr().out


def test_a_rung_that_fails_is_skipped_with_its_reason(monkeypatch):
    def broken(run, **settings):
        raise RuntimeError("no kernel of this shape\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("smol.bench.train.matmul_rate", lambda *args: 1e12)
    rungs = [Step("ours"), Step("compiled", chunk=8, own=True, compile=True)]
    result = train("tiny", batch_size=2, seq_len=16, rounds=1, rungs=rungs)
    assert [row["name"] for row in result["rungs"]] == ["ours"]
    assert result["skipped"] == {"compiled": "no kernel of this shape"}
    with pytest.raises(RuntimeError, match="no kernel"):  # what the others are compared with
        train("tiny", batch_size=2, seq_len=16, rounds=1, rungs=rungs[1:])


def test_a_rung_with_another_loss_is_not_timed(monkeypatch):
    def shifted(theirs):
        model = from_reference(theirs)
        model.norm.weight.data += 0.1
        return model

    monkeypatch.setattr("smol.bench.train.from_reference", shifted)
    with pytest.raises(AssertionError, match="ours has a loss of"):
        train("tiny", batch_size=2, seq_len=16, rounds=1)


@pytest.mark.parametrize(
    ("capability", "want"),
    [((7, 5), []), ((8, 0), ["+ TF32", "+ bf16"])],
)
def test_the_ladder_of_a_gpu(capability, want, monkeypatch):
    """A T4 has neither TF32 nor bf16 (its fp16 needs a scaler, which this loop has not)."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    rungs = ladder(torch.device("cuda"))
    names = [rung.name for rung in rungs]
    assert names[:2] == ["transformers", "ours"]
    assert names[2:-7] == want
    more = ["+ fused AdamW", "+ chunked loss", "+ its own gradient", "+ compile", "+ captured"]
    assert names[-7:-2] == more
    best = rungs[names.index("+ compile")]
    assert best.compile and best.own and best.fused and best.chunk and best.tf32 == bool(want)
    assert best.dtype == ("bfloat16" if want else "float32")
    captured = rungs[names.index("+ captured")]
    assert captured.captured and captured.compile and best.needed and not captured.needed
    products = ["float32", "tf32", "bfloat16"] if want else ["float32"]
    assert list(dict.fromkeys(rung.product for rung in rungs)) == products
    theirs = rungs[-1]
    assert theirs.theirs and theirs.compile and theirs.dtype == best.dtype


# -- the roofline ---------------------------------------------------------------------------------


def test_a_measurement_and_its_bound(capsys):
    result = roofline(SMALL, length=64, rounds=2)
    prefill, decode = result["work"]
    assert prefill["flops"] == flops_per_token(SMALL, 64, causal=True, backward=False) * 64
    assert decode["bytes"] == 4 * count_parameters(SMALL)["total"] + cache_bytes(SMALL, 64, 1, 4)
    for row in result["work"]:
        assert len(row["seconds"]) == 2 and 0 < row["part_of_roofline"] < 1
        rates = result["flops_per_second"], result["bytes_per_second"]
        assert row["bound"] == max(row["flops"] / rates[0], row["bytes"] / rates[1])
    assert "of the roofline" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "rate"), [("matmul_rate", 1e6), ("read_rate", 1e6)])
def test_a_roofline_that_is_beaten_is_refused(monkeypatch, wrong, rate):
    monkeypatch.setattr(f"smol.bench.timing.{wrong}", lambda *args: rate)
    with pytest.raises(AssertionError, match="a count or a rate is wrong"):
        roofline(SMALL, length=64, rounds=1)


def test_the_claims_say_how_near_the_roofline_it_came():
    result = json.loads((ROOT / "assets/results/roofline.json").read_text(encoding="utf-8"))
    prefill, decode = (row["part_of_roofline"] for row in result["roofline"]["work"])
    claim = f"prefill reached {prefill:.0%} of it, decode {decode:.0%}".replace("%", " %")
    assert claim in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# -- decode and prefill ---------------------------------------------------------------------------


@pytest.fixture
def uncompiled(monkeypatch):
    """Without the compiled writers, which take a minute."""

    def quick_writers(*args):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "compile", lambda run, **settings: run)
            fixed.compiled.cache_clear()
            found = writers(*args)
            fixed.compiled.cache_clear()
        kept = {k: w for k, w in found.rows.items() if "compiled" not in k and "llama" not in k}
        return found._replace(rows=kept)

    monkeypatch.setattr("smol.bench.decode.writers", quick_writers)


def test_writers_write_the_same_and_are_compared(capsys, uncompiled):
    result = decode(SMALL, length=8, new=32, rounds=3)
    rows = {row["name"]: row for row in result["writers"]}
    assert list(rows) == ["transformers", "ours", "ours, prepared"]
    assert rows["transformers"]["speedup"] == 1.0
    for row in rows.values():
        assert len(row["seconds"]) == 3 and 0 < row["part_of_roofline"] < 1
        assert row["memory"] > 0 and row["speedup"] > 0
    assert set(result["seconds_by_position"]) == {"64", "1024"}
    assert len(result["seconds_by_position_without_cache"]) == 4
    assert "x transformers" in capsys.readouterr().out


def test_without_time_the_writers_that_are_needed_stay(capsys, monkeypatch):
    # A difference of two short times, once each: on a busy machine it may be below 0.
    monkeypatch.setattr("smol.bench.decode.expect_slower", lambda *about: None)
    written = []
    run = Run(0.0, lambda figures: written.append({**figures}))
    result = decode(SMALL, length=8, new=4, run=run)
    assert [row["name"] for row in result["writers"]] == ["transformers", "ours", "ours, prepared"]
    assert all(len(row["seconds"]) == 1 and row["first_call"] > 0 for row in result["writers"])
    assert list(written[1]["first_call"]) == ["transformers"]
    compiled = ["transformers, static and compiled", "ours, prepared, compiled"]
    assert list(result["skipped"]) == [*compiled, "llama.cpp, 4 bits"]
    assert "skipped: 0 s were left, it needs about 6" in capsys.readouterr().out


def test_what_cannot_be_had_is_skipped_with_its_reason(monkeypatch, uncompiled):
    def away():
        raise FileNotFoundError("the packaged model is not here: python -m smol.pretrained")

    monkeypatch.setattr("smol.bench.decode._llama", away)
    written = []
    result = prefill(SMALL, length=8, rounds=1, run=Run(60.0, lambda f: written.append({**f})))
    assert set(written[-1]["rounds_of"]) == {"transformers", "ours", "ours, prepared"}
    assert result["skipped"]["llama.cpp, 4 bits"].startswith("the packaged model is not here")


def test_another_model_is_held_to_no_bound_of_ours(monkeypatch):
    """Nor to our ids: it has other weights, and fewer bytes."""
    monkeypatch.setattr("smol.bench.decode._llama", lambda: lambda ids, new: ids)
    found = writers(SMALL, torch.device("cpu"), torch.float32, Run(30.0))  # too few to compile
    assert found.others == {"llama.cpp, 4 bits"}
    times = {"transformers": [1.0], "llama.cpp, 4 bits": [0.1]}
    rows = _compared(times, 0.5, dict.fromkeys(times, 10**6), 1, found)
    assert rows[1]["speedup"] == 10 and rows[1]["part_of_roofline"] is rows[1]["memory"] is None


def test_prefill_counts_only_the_last_logits(monkeypatch, uncompiled):
    # So fast that the FLOPs decide.
    monkeypatch.setattr("smol.bench.timing.read_rate", lambda *args: 1e15)
    result = prefill(SMALL, length=64, rounds=1)
    flops = flops_per_token(SMALL, 64, causal=True, backward=False) * 64
    flops -= 63 * 2 * SMALL.vocab_size * SMALL.hidden_size
    moved = 4 * count_parameters(SMALL)["total"] + cache_bytes(SMALL, 64, 1, 4)
    bound = max(flops / result["flops_per_second"], moved / result["bytes_per_second"])
    for row in result["writers"]:
        assert row["part_of_roofline"] * row["seconds"][0] == pytest.approx(bound)


def test_a_writer_with_other_ids_is_not_timed(monkeypatch, uncompiled):
    def shifted(theirs):
        model = from_reference(theirs)
        model.layers[0].self_attn.k_proj.weight.data.mul_(-1)
        return model

    monkeypatch.setattr("smol.bench.decode.from_reference", shifted)
    with pytest.raises(AssertionError, match="ours gives other ids than transformers"):
        prefill(SMALL, length=16, rounds=1)


def test_a_decode_faster_than_memory_is_refused(monkeypatch, uncompiled):
    monkeypatch.setattr("smol.bench.timing.read_rate", lambda *args: 1e6)
    with pytest.raises(AssertionError, match="a count or a rate is wrong"):
        decode(SMALL, length=8, new=4, rounds=1)


def test_the_claims_say_how_fast_it_writes():
    """And the targets hold: decode 1.2 times as fast, prefill as fast, memory within 1 %."""
    result, prefill = (
        json.loads((ROOT / f"assets/results/{name}.json").read_text(encoding="utf-8"))
        for name in ("decode", "prefill")
    )
    decode = {row["name"]: row for row in result["decode"]["writers"]}
    prefill = {row["name"]: row for row in prefill["prefill"]["writers"]}
    near, far = (
        statistics.median(result["decode"]["seconds_by_position"][n]) for n in ("64", "1024")
    )
    claim = (
        f"one text: {decode['ours']['speedup']:.2f} × transformers' default as it is, "
        f"{decode['ours, prepared']['speedup']:.2f} × prepared for it; prefill "
        f"{prefill['ours']['speedup']:.2f} ×; memory, weights included, the same within 1 %; a "
        f"token at 1,024 takes {far / near:.2f} × one at 64, for 1.08 × the bytes"
    )
    assert claim in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert decode["ours, prepared"]["speedup"] >= 1.2 and prefill["ours"]["speedup"] >= 1.0
    weights = 4 * count_parameters(SmolLM2Config())["total"]
    for rows in (decode, prefill):
        ours, theirs = (weights + rows[name]["memory"] for name in ("ours", "transformers"))
        assert ours <= 1.01 * theirs
    assert result["decode"]["beyond_the_bytes"] <= 1.1


# -- the README's results -------------------------------------------------------------------------


def span(numbers: list[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}"


def test_the_readme_shows_what_was_measured():
    """Its pictures' alt texts, and the lines of its tables, are those of the stored results."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, draw in (("learned", learned_from), ("results", results_from)):
        _, alt = draw(ROOT)
        assert f"![{alt}](assets/{name}.png)" in readme
    stored = {
        name: json.loads((ROOT / f"assets/results/{name}.json").read_text(encoding="utf-8"))
        for name in ("parity", "decode", "prefill", "notebooks", "tokenizer")
    }
    measured = stored["parity"]["parity"]
    small, one_layer, bugs = measured["patients"], measured["real"], measured["bugs"]
    answers = [one["argmax"][end] for one in small for end in ("least", "most")]
    losses, layers = [one["loss"] for one in small], one_layer["everywhere"]
    ladder_sees = (
        f"{bugs} of {bugs} caught by the ladder, which also names the place, in each of "
        f"{len(small)} small models"
    )
    assert ladder_sees in readme and ladder_sees in page
    assert {one[check] for one in small for check in ("ladder", "places")} == {bugs}
    assert f"{span(answers)} of them, the loss to 1 % {span(losses)} |" in readme
    others = (
        f"one right answer sees {span(answers)}, by model and prompt; the loss to 1 % "
        f"{span(losses)}. In the real model ({len(one_layer['prompts'])} prompts, "
        f"{one_layer['weights']} weights) an answer sees {span(one_layer['argmax'])} and a "
        f"prompt's loss {span(one_layer['loss'])} with the bug in one layer of 30, "
        f"{span(layers['argmax'])} and {span(layers['loss'])} with it in all"
    )
    assert others in page
    speed = {r["name"]: r["speedup"] for r in stored["decode"]["decode"]["writers"]}
    prefill = {r["name"]: r["speedup"] for r in stored["prefill"]["prefill"]["writers"]}
    assert (
        f"decode {speed['ours']:.2f} × as it is, {speed['ours, prepared']:.2f} × prepared for it; "
        f"prefill {prefill['ours']:.2f} ×" in readme
    )
    train, encode, batch = (r["ratio"] for r in stored["tokenizer"]["tokenizer"][2:9:3])
    ladders = json.loads((ROOT / "assets/results/h200.json").read_text(encoding="utf-8"))[
        "ladders"
    ]
    gains = [rows[0]["milliseconds"] / rows[-1]["milliseconds"] for rows in ladders.values()]
    assert (
        f"training {gains[0]:.1f} × transformers on 32 × 1,024 tokens, small steps "
        f"{gains[1]:.1f} × our own loop as it was, a token {gains[2]:.1f} × transformers" in readme
    )
    took = f"training {train:.1f} × its time, encoding {encode:.1f} ×, or {batch:.1f} × against"
    assert took in readme
    for name, seconds in stored["notebooks"]["notebooks"]["seconds"].items():
        row = next(line for line in readme.splitlines() if f"(notebooks/{name}.ipynb)" in line)
        assert f"| {seconds:.0f} s |" in row


# -- parity ---------------------------------------------------------------------------------------


@functools.cache
def a_patient():
    """Trained so little that it is ready in a second; what is wrong with it shows all the same."""
    patient, held_out = trained_patient(seed=0, steps=20)
    return patient, doctor_of(patient), held_out


@pytest.fixture
def few_bugs(monkeypatch):
    names = ("no_mask", "head_untied", "layers_exchanged", "gradient_cut", "cache_not_reset")
    bugs = {name: MUTANTS[name] for name in names}
    monkeypatch.setattr("smol.bench.parity.MUTANTS", bugs)
    return bugs


def test_checks_see_what_they_can_see(few_bugs):
    before = {key: tensor.clone() for key, tensor in a_patient()[0].state_dict().items()}
    rows = examine(*a_patient())
    assert list(rows) == list(few_bugs)
    assert all(row["ladder"] and row["places"] and not row["shapes"] for row in rows.values())
    assert [name for name, row in rows.items() if row["count"]] == ["head_untied"]
    assert rows["head_untied"]["loss"] == [True] and any(rows["head_untied"]["argmax"])
    for name in ("gradient_cut", "cache_not_reset"):
        assert rows[name]["loss"] == [False] and not any(rows[name]["argmax"])
    assert all(len(row["argmax"]) == 64 for row in rows.values())
    after = a_patient()[0].state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_the_patients_are_counted(monkeypatch, capsys):
    bugs = {"one": [True, True, False], "two": [True, False, False], "three": [False] * 3}
    rows = {
        name: {"argmax": argmax, "loss": [name == "one"]}
        | {"ladder": True, "places": name != "two", "shapes": False, "count": False}
        for name, argmax in bugs.items()
    }
    monkeypatch.setattr("smol.bench.parity.MUTANTS", bugs)
    monkeypatch.setattr("smol.bench.parity.examine", lambda *args: rows)
    found, by_bug = patients(seeds=(3, 4), steps=0)
    assert [one["seed"] for one in found] == [3, 4]
    assert found[0]["argmax"] == {"least": 0, "median": 1, "most": 2, "all": 2}
    counted = {"loss": 1, "ladder": 3, "places": 2, "shapes": 0, "count": 0}
    assert counted.items() <= found[1].items()
    assert found[0]["prompts"] == 64 and 0 <= found[0]["healthy_right"] < 64  # it learnt nothing
    assert by_bug["one"] == {"argmax": 4, "loss": 2, "ladder": 2}
    assert "one answer sees 0 to 2 bugs (median 1), all of them 2" in capsys.readouterr().out


def says(ok):
    return lambda *args: Report([Rung("logits", ok, "")])


@pytest.mark.parametrize("ok", [True, False])
def test_a_check_that_always_says_the_same_is_found_out(monkeypatch, few_bugs, ok):
    """One that always says yes catches nothing; one that always says no cries at the healthy."""
    monkeypatch.setattr("smol.bench.parity.ladder", says(ok))
    if ok:
        rows = examine(*a_patient())
        assert summary(rows)["ladder"] == summary(rows)["places"] == 0
    else:
        with pytest.raises(AssertionError, match="'ladder' cries where there is no bug"):
            examine(*a_patient())


def test_a_bug_that_stays_behind_is_found_out(monkeypatch):
    def spoil(model, layer):
        model.norm.weight.data[0] += 9.0

    spoilt, doctor, held_out = copy.deepcopy(a_patient()[0]), *a_patient()[1:]
    bugs = {"spoil": Mutant("spoil", "norm", "in place", action=spoil)}
    monkeypatch.setattr("smol.bench.parity.MUTANTS", bugs)
    with pytest.raises(AssertionError, match="cries where there is no bug"):
        examine(spoilt, doctor, held_out)


@pytest.mark.parametrize("layer", [1, None])
def test_prompts_of_the_real_model_see_bugs(few_bugs, layer, capsys):
    """Here with a small model in its place."""
    patient, _, held_out = a_patient()
    prompts = {"long": held_out[:1], "short": held_out[1:2, :9]}
    found = real(patient, prompts, layer)
    assert found["layer"] == layer and len(found["argmax"]) == len(found["loss"]) == 2
    assert found["unseen"][-2:] == ["gradient_cut", "cache_not_reset"]
    assert found["argmax_all"] >= max(found["argmax"])
    assert {"shapes": 0, "count": 1}.items() <= found.items()
    assert "its answer sees" in capsys.readouterr().out


def test_a_random_model_is_skipped_with_its_reason(capsys):
    found = real_patient(types.SimpleNamespace(weights="random"))
    assert set(found) == {"weights", "skipped"} and "random" in found["skipped"]
    assert found["skipped"] in capsys.readouterr().out


def test_a_model_that_differs_is_refused(monkeypatch, reference_of_parity):
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="not the same model"):
        patch.setattr("smol.bench.parity.ladder", says(False))
        parity()
    for name, result in {"patients": ([], {}), "real_patient": {}}.items():
        monkeypatch.setattr(f"smol.bench.parity.{name}", lambda *args, r=result: r)
    found = parity()
    assert set(found) == {"weights", "rungs", "bugs", "real", "patients", "by_bug"}
    assert len(found["rungs"]) == 11 and found["bugs"] == len(MUTANTS)


@pytest.fixture
def reference_of_parity(monkeypatch):
    reference = tiny_reference()
    reference.weights = "random"
    monkeypatch.setattr("smol.bench.parity.load_reference", lambda: reference)


def test_the_stored_figures_of_parity():
    """Every patient has its figures, and the ladder all bugs with their places."""
    stored = json.loads((ROOT / "assets/results/parity.json").read_text(encoding="utf-8"))
    stored = stored["parity"]
    assert stored["bugs"] == len(MUTANTS) and list(stored["by_bug"]) == list(MUTANTS)
    assert [one["seed"] for one in stored["patients"]] == list(range(5))
    for one in stored["patients"]:
        assert one["ladder"] == one["places"] == stored["bugs"]
        assert one["healthy_right"] == one["prompts"] == 64
        argmax = one["argmax"]
        assert argmax["least"] <= argmax["median"] <= argmax["most"] <= argmax["all"]
    for check in ("loss", "ladder"):
        seen = sum(row[check] for row in stored["by_bug"].values())
        assert seen == sum(one[check] for one in stored["patients"])
    found = stored["real"]
    assert found["weights"] == "packaged"
    for one in (found, found["everywhere"]):
        assert len(one["argmax"]) == len(one["loss"]) == len(found["prompts"])
        assert set(one["unseen"]) < set(MUTANTS)


def test_the_patient_is_that_of_notebook_3(capsys):
    """The same code where a cell defines it; the same weights, to the bit, after twenty steps."""
    steps = inspect.signature(trained_patient).parameters["steps"].default
    notebook = nbformat.read(ROOT / "notebooks/03_parity.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    first = next(i for i, cell in enumerate(cells) if "def said_twice(" in cell)
    last = next(i for i, cell in enumerate(cells) if "held_out = said_twice(64)" in cell)
    assert sum(f"range({steps})" in cell for cell in cells[first : last + 1]) == 1
    space = {"torch": torch, "F": F, "SmolLM2": SmolLM2, "SMALL": SMALL}
    space |= {"dataclasses": dataclasses, "__name__": "notebook"}
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        for i, cell in enumerate(cells[first : last + 1]):
            cell = cell.replace(f"range({steps})", "range(20)")
            linecache.cache[f"cell {i}"] = len(cell), None, cell.splitlines(True), f"cell {i}"
            exec(compile(cell, f"cell {i}", "exec"), space)
    same_code(space["said_twice"], space["loss_of"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{name}: same code as smol.bench.patient" for name in ("said_twice", "loss_of")
    ]
    patient, _, held_out = a_patient()
    assert torch.equal(held_out, space["held_out"])
    for key, tensor in patient.state_dict().items():
        assert torch.equal(tensor, space["patient"].state_dict()[key]), key
