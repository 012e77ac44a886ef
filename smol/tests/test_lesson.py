"""same_code sees every difference that matters; every exercise rejects a wrong answer."""

import ast
import codecs
import linecache
import math
import operator
import re
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smol import BPETokenizer, SmolLM2Config, count, lesson, plots, stories
from smol.model import SmolLM2
from smol.mutants import MUTANTS

RMSNORM = '''
class RMSNorm(nn.Module):
    """Another docstring."""

    def __init__(self, dim, eps):
        super().__init__()  # a comment
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)
'''


def define(source: str, name: str):
    """`source` run as a notebook cell runs, its lines known to linecache only."""
    file = f"<cell of {name} {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace = {"nn": nn, "torch": torch, "__name__": "__main__"}
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]


class TestSameCode:
    def test_docstrings_comments_and_hints_may_differ(self, capsys):
        lesson.same_code(define(RMSNORM, "RMSNorm"))
        assert capsys.readouterr().out == "RMSNorm: same code as smol.model\n"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("x.float()", "x"),
            ("mean(-1", "mean(-2"),
            ("self.eps)", "1e-6)"),
            ("    def forward", "    @torch.no_grad()\n    def forward"),
            ("dim, eps)", "dim, eps=1e-6)"),
        ],
    )
    def test_anything_else_is_shown(self, capsys, old, new):
        assert old in RMSNORM
        lesson.same_code(define(RMSNORM.replace(old, new), "RMSNorm"))
        out = capsys.readouterr().out
        assert out.startswith("RMSNorm: differs from smol.model\n")
        assert "\n+" in out

    def test_methods_left_out_are_named(self, capsys):
        partial = RMSNORM[: RMSNORM.index("    def forward")]
        lesson.same_code(define(partial, "RMSNorm"))
        assert "same code as smol.model (left out here: forward)" in capsys.readouterr().out

    def test_a_method_too_many_is_shown(self, capsys):
        lesson.same_code(define(RMSNORM + "    def extra(self):\n        pass\n", "RMSNorm"))
        assert "differs" in capsys.readouterr().out

    def test_unknown_names_are_refused(self):
        with pytest.raises(ValueError, match="the package has no Nothing"):
            lesson.same_code(define("def Nothing():\n    return 1\n", "Nothing"))


def parameters(config, tied=1):
    D, F_, V = config.hidden_size, config.intermediate_size, config.vocab_size
    kv = config.num_key_value_heads * config.head_dim
    heads = 1 if config.tie_word_embeddings else 2
    block = 2 * D * D + 2 * D * kv + 3 * D * F_ + 2 * D
    return (heads if tied else 1) * V * D + config.num_hidden_layers * block + D


def rope(x, positions, theta, sign=1.0):
    half = x.size(-1) // 2
    angles = sign * positions.float()[:, None] * theta ** (-torch.arange(half).float() / half)
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


def window(T, S, size, extra=0):
    return torch.ones(T, S, dtype=torch.bool).tril(S - T).triu(S - T - size + 1 + extra)


def loss(logits, ids, shift=1):
    labels = ids[:, shift:]
    return F.cross_entropy(
        logits[:, : labels.size(1)].reshape(-1, logits.size(-1)), labels.reshape(-1)
    )


def exp_loss(logits, ids):
    p = logits[:, :-1].exp() / logits[:, :-1].exp().sum(-1, keepdim=True)
    return -p.gather(-1, ids[:, 1:, None]).log().mean()


def unmoved(model, ids, change=1):
    other = ids.clone()
    other[:, -1] = (other[:, -1] + change) % 256
    return torch.equal(model(other)[:, :-1], model(ids)[:, :-1])


def interleave(weight, heads):
    rows, D = weight.shape
    return weight.view(heads, 2, rows // heads // 2, D).transpose(1, 2).reshape(rows, D)


def cosine_nearest(table, token):
    unit = table / table.norm(dim=-1, keepdim=True)
    cosines = unit @ unit[token]
    cosines[token] = -1.0
    return cosines.argmax().item()


def cache_bytes(config, tokens, size, heads="num_key_value_heads"):
    return 2 * config.num_hidden_layers * getattr(config, heads) * config.head_dim * tokens * size


# check, a right answer, wrong answers: each the likely mistake
def count_pairs(words, numbers, overlap=True):
    counts = {}
    for word, n in zip(words, numbers, strict=True):
        for pair in pairwise(word) if overlap else set(pairwise(word)):
            counts[pair] = counts.get(pair, 0) + n
    return counts


def encode_word(symbols, ranks, first=min):
    while pairs := [p for p in pairwise(symbols) if p in ranks]:
        best = first(pairs, key=lambda pair: ranks[pair][0])
        at = list(pairwise(symbols)).index(best)
        symbols = [*symbols[:at], ranks[best][1], *symbols[at + 2 :]]
    return symbols


def whole_characters(chunks):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(chunk) for chunk in chunks]


def loses_what_is_invalid(chunks):
    printed, waiting = [], b""
    for chunk in chunks:
        waiting += chunk
        printed.append(waiting.decode(errors="ignore"))
        waiting = waiting[len(printed[-1].encode()) :]
    return printed


def in_parts(tokenizer, text):
    start, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens["<|im_end|>"]
    parts = [tokenizer.encode(part, special=False) for part in ("user\n", text)]
    return [start, *parts[0], *parts[1], end, *tokenizer.encode("\n")]


def safe_turn(tokenizer, text, special=False):
    start, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens["<|im_end|>"]
    content = tokenizer.encode(f"user\n{text}", special=special)
    return [start, *content, end, *tokenizer.encode("\n")]


def clip(gradients, longest, at_least=True, together=True):
    norm = sum(g.pow(2).sum() for g in gradients).sqrt()
    norms = [norm if together else g.norm() for g in gradients]
    scales = [longest / n for n in norms]
    return [
        g * (s.clamp(max=1) if at_least else s) for g, s in zip(gradients, scales, strict=True)
    ]


def adamw(w, g, m, v, t, lr, betas, eps, weight_decay, corrected=True, decoupled=True):
    g = g if decoupled else g + weight_decay * w
    m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
    by = [1 - beta**t if corrected else 1 for beta in betas]
    step = (m / by[0]) / ((v / by[1]).sqrt() + eps)
    return w - lr * (step + (weight_decay * w if decoupled else 0)), m, v


def verdict(train, held_out, floor, uniform):
    if held_out < floor:
        return "leak"
    if train < max(floor, held_out / 2):
        return "by heart"
    return "nothing" if held_out >= uniform else "learning"


def most_tokens(config, length, bandwidth, heads="num_key_value_heads"):
    cache = 4 * config.num_hidden_layers * getattr(config, heads) * config.head_dim * length
    return bandwidth / (count.checkpoint_bytes(config) + cache)


def largest_batch(config, length, memory):
    return max(0, (memory - count.checkpoint_bytes(config)) // count.cache_bytes(config, length))


def choices(logits):
    p = logits.softmax(-1)
    return torch.special.entr(p).sum(-1).exp()


def longest_beginning(held, stop):
    return max((n for s in stop for n in range(len(s)) if held.endswith(s[:n])), default=0)


def until(pieces, stop, hold_back=longest_beginning):
    held = ""
    for piece in pieces:
        held += piece
        ends = [(held.index(s) + len(s), held.index(s)) for s in stop if s in held]
        if ends:
            held = held[: min(ends)[1]]
            break
        sure = len(held) - hold_back(held, stop)
        yield held[:sure]
        held = held[sure:]
    yield held


def until_without_holding_back(pieces, stop):
    for piece in pieces:
        if any(s in piece for s in stop):
            yield piece[: min(piece.index(s) for s in stop if s in piece)]
            return
        yield piece


def until_all_is_there(pieces, stop):
    yield from until(["".join(pieces)], stop)


def until_held_back_too_much(pieces, stop):
    yield from until(pieces, stop, lambda held, stop: min(len(held), max(map(len, stop)) - 1))


def beam_search(log_probs, prompt, width, steps):
    ids, scores = torch.tensor([prompt]), torch.zeros(1)
    for _ in range(steps):
        longer = scores[:, None] + log_probs(ids)
        scores, best = longer.flatten().topk(min(width, longer.numel()))
        rows = best // longer.size(1)
        ids = torch.cat((ids[rows], (best % longer.size(1))[:, None]), dim=1)
    return ids[0].tolist()


def speculate(p, q, generator):
    token = torch.multinomial(q, 1, generator=generator).item()
    if torch.rand(1, generator=generator).item() < p[token] / q[token]:
        return token, True
    return torch.multinomial((p - q).clamp(min=0), 1, generator=generator).item(), False


def speculate_anew(p, q, generator):
    """Draws from p where the draft is refused: what the draft likes comes too often."""
    token = torch.multinomial(q, 1, generator=generator).item()
    if torch.rand(1, generator=generator).item() < p[token] / q[token]:
        return token, True
    return torch.multinomial(p, 1, generator=generator).item(), False


EXERCISES = {
    "choices": (
        lesson.check_choices,
        choices,
        [
            lambda x: (-(x.softmax(-1) * x.log_softmax(-1)).sum(-1)).exp(),  # 0 times -inf
            lambda x: torch.special.entr(x.softmax(-1)).sum(-1),
            lambda x: torch.special.entr(x.softmax(-1)).sum().exp(),
        ],
    ),
    "until": (
        lesson.check_until,
        until,
        [
            until_without_holding_back,
            until_all_is_there,
            until_held_back_too_much,
            lambda pieces, stop: pieces,
        ],
    ),
    "beam": (
        lesson.check_beam,
        beam_search,
        [
            lambda f, prompt, width, steps: beam_search(f, prompt, 1, steps),
            lambda f, prompt, width, steps: beam_search(f, prompt, 1000, steps),
            lambda f, prompt, width, steps: beam_search(f, prompt, width, steps)[1:],
            lambda *_: torch.zeros(5),
        ],
    ),
    "speculate": (
        lesson.check_speculate,
        speculate,
        [
            speculate_anew,
            lambda p, q, g: (torch.multinomial(p, 1, generator=g).item(), True),
            lambda p, q, g: (torch.multinomial(q, 1, generator=g).item(), True),
            lambda p, q, g: torch.multinomial(p, 1, generator=g).item(),
        ],
    ),
    "run_flops": (
        lesson.check_run_flops,
        lambda c, s, b, t: s * b * t * count.flops_per_token(c, t),
        [
            lambda c, s, b, t: b * t * count.flops_per_token(c, t),
            lambda c, s, b, t: 6 * s * b * t * count.count_parameters(c)["total"],
        ],
    ),
    "most_tokens": (
        lesson.check_most_tokens,
        most_tokens,
        [
            lambda *a: most_tokens(*a, heads="num_attention_heads"),
            lambda c, n, b: b / count.checkpoint_bytes(c),
            lambda c, n, b: most_tokens(c, n, b) / 2,
        ],
    ),
    "largest_batch": (
        lesson.check_largest_batch,
        largest_batch,
        [
            lambda c, n, m: (m - count.checkpoint_bytes(c)) // count.cache_bytes(c, n),
            lambda c, n, m: m // count.cache_bytes(c, n),
            lambda c, n, m: round(largest_batch(c, n, m) + 0.6),
        ],
    ),
    "training_days": (
        lesson.check_training_days,
        lambda t, n, p, r, e: t / (n * r * e) / 86400,
        [
            lambda t, n, p, r, e: t / (n * r) / 86400,
            lambda t, n, p, r, e: t / (n * r / e) / 86400,
            lambda t, n, p, r, e: t / (n * r * e) / 3600,
        ],
    ),
    "clip": (
        lesson.check_clip,
        clip,
        [
            lambda g, n: clip(g, n, at_least=False),
            lambda g, n: clip(g, n, together=False),
            lambda g, n: [t.clamp(-n, n) for t in g],
            lambda g, n: g[:1],
        ],
    ),
    "adamw": (
        lesson.check_adamw,
        adamw,
        [
            lambda *a: adamw(*a, corrected=False),
            lambda *a: adamw(*a, decoupled=False),
            lambda *a: adamw(*a)[0],
        ],
    ),
    "whole_mean": (
        lesson.check_whole_mean,
        lambda losses, counts: sum(map(operator.mul, losses, counts)) / sum(counts),
        [lambda losses, counts: sum(losses) / len(losses), lambda losses, counts: sum(losses)],
    ),
    "verdict": (
        lesson.check_verdict,
        verdict,
        [
            lambda t, h, f, u: "leak" if min(t, h) < f else verdict(t, h, f, u),
            lambda t, h, f, u: "by heart" if t < h else verdict(t, h, f, u),
            lambda t, h, f, u: "learning",
            lambda t, h, f, u: "nothing" if h >= u else verdict(t, h, f, u),
            lambda t, h, f, u: "by heart" if t < f <= h else verdict(max(t, h / 2), h, f, u),
        ],
    ),
    "count": (
        lesson.check_count,
        parameters,
        [lambda c: parameters(c, tied=0), lambda c: 134_515_008],
    ),
    "cache_bytes": (
        lesson.check_cache_bytes,
        cache_bytes,
        [lambda c, t, s: cache_bytes(c, t, s, "num_attention_heads"), lambda c, t, s: 23_040 * t],
    ),
    "nearest": (
        lesson.check_nearest,
        cosine_nearest,
        [
            lambda table, t: (table @ table[t]).argmax().item(),
            lambda table, t: (table / table.norm(dim=-1, keepdim=True) @ table[t]).argmax().item(),
        ],
    ),
    "layer_norm": (
        lesson.check_layer_norm,
        lambda x, w: F.layer_norm(x, x.shape[-1:], w),
        [
            lambda x, w: F.rms_norm(x, x.shape[-1:], w),
            lambda x, w: (x - x.mean(-1, True)) * w,
            len,
        ],
    ),
    "rope_complex": (
        lesson.check_rope_complex,
        rope,
        [
            lambda x, p, t: rope(x, p, t, -1.0),
            lambda x, p, t: rope(x, p - 100, t),
            lambda x, p, t: torch.complex(x, x),
        ],
    ),
    "sliding_mask": (
        lesson.check_sliding_mask,
        window,
        [lambda T, S, n: window(T, S, n, 1), lambda T, S, n: window(T, S, n).float()],
    ),
    "to_interleaved": (
        lesson.check_to_interleaved,
        interleave,
        [lambda w, h: w, lambda w, h: interleave(w, 1)],
    ),
    "cross_entropy": (lesson.check_cross_entropy, loss, [lambda z, i: loss(z, i, 0), exp_loss]),
    "count_pairs": (
        lesson.check_count_pairs,
        count_pairs,
        [
            lambda words, numbers: count_pairs(words, numbers, overlap=False),
            lambda words, numbers: count_pairs(words, [1] * len(words)),
            lambda words, numbers: [],
        ],
    ),
    "encode_word": (
        lesson.check_encode_word,
        encode_word,
        [lambda s, r: encode_word(s, r, max), lambda s, r: encode_word(s, r, lambda p, key: p[0])],
    ),
    "whole_characters": (
        lesson.check_whole_characters,
        whole_characters,
        [
            lambda chunks: [chunk.decode(errors="replace") for chunk in chunks],
            lambda chunks: [chunk.decode(errors="ignore") for chunk in chunks],
            lambda chunks: ["", *whole_characters(chunks)],
            loses_what_is_invalid,
        ],
    ),
    "bits_per_byte": (
        lesson.check_bits_per_byte,
        lambda loss, tokens, size: loss * tokens / size / math.log(2),
        [
            lambda loss, tokens, size: loss * tokens / size,
            lambda loss, tokens, size: loss / size / math.log(2),
        ],
    ),
    "safe_turn": (
        lesson.check_safe_turn,
        safe_turn,
        [
            lambda t, text: safe_turn(t, text, special=True),
            in_parts,
            lambda t, text: t.encode(f"<|im_start|>user\n{text}<|im_end|>\n", special=False),
        ],
    ),
    "is_causal": (
        lesson.check_is_causal,
        unmoved,
        [lambda m, i: True, lambda m, i: False, lambda m, i: unmoved(m, i, 0)],
    ),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name, capsys):
    check, right, wrong = EXERCISES[name]
    state = torch.get_rng_state()
    check(lambda *_: ...)
    assert capsys.readouterr().out == "not attempted yet\n"
    check(right)
    assert capsys.readouterr().out == "correct\n"
    for answer in wrong:
        check(answer)
        assert capsys.readouterr().out.startswith("not yet: ")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_workshop_quotes_what_the_checks_print(capsys):
    page = (Path(lesson.__file__).parents[1] / "WORKSHOP.md").read_text(encoding="utf-8")
    quotes = re.findall(r"^- Exercise \d\.\d, `([^`]+)`", page, re.MULTILINE)
    for check, _, wrong in EXERCISES.values():
        for answer in wrong:
            check(answer)
    lesson.check_diagnosis("no_mask", 5)
    printed = capsys.readouterr().out
    assert len(quotes) == len(EXERCISES) + 1  # all but 3.4, whose answers are all different
    assert [quote for quote in quotes if quote not in printed] == []


def _sections(notebook) -> list[tuple[str, set[str], set[str]]]:
    """Of each code cell its section, the names it makes at its top level, the names it reads."""
    section, cells = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (\d\.\d+)", cell.source, re.MULTILINE)][-1]
            continue
        tree = ast.parse(cell.source)
        made, read = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                made.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {(a.asname or a.name).split(".")[0] for a in node.names}
        cells.append((section, made, read - made))
    return cells


@pytest.mark.parametrize("number", range(1, 8))
def test_what_the_workshop_skips_nothing_later_needs(number):
    root = Path(lesson.__file__).parents[1]
    page = (root / "WORKSHOP.md").read_text(encoding="utf-8")
    file = next((root / "notebooks").glob(f"0{number}_*.ipynb"))
    cells = _sections(nbformat.read(file, as_version=4))
    lists = [re.findall(r"§(\d\.\d+)", s) for s in re.findall(r"skip ((?:§\d\.\d+,? ?)+)", page)]
    assert ["3.4"] in lists  # the page is read as it is meant
    for skipped in [{s for s in found if s.startswith(f"{number}.")} for found in lists]:
        have, missing = set(), set()
        for section, made, read in cells:
            if section in skipped:
                missing |= made - have
                continue
            assert not read & missing, (file.stem, section, "needs", read & missing)
            have |= made
            missing -= made


def test_every_check_is_tested():
    checks = {getattr(lesson, n) for n in dir(lesson) if n.startswith("check_")}
    tested = {check for check, *_ in EXERCISES.values()}
    assert checks - tested == {lesson.check_diagnosis, lesson.check_own_mutant}


def test_diagnosis(capsys):
    for answer, verdict in (
        (..., "not attempted yet"),
        ("rope_on_q_only", "correct"),
        (
            "no_mask",
            "not yet: it is not no_mask: what does that one change, and where? And yours?",
        ),
        ("nonsense", "not yet: 'nonsense' is none of smol.parity.MUTANTS"),
    ):
        lesson.check_diagnosis(answer, 5)
        assert capsys.readouterr().out == verdict + "\n"


def test_own_mutant(capsys):
    def caught_by(mutant):
        model = mutant(SmolLM2(lesson.SMALL))
        changed = type(model) is not SmolLM2
        return {"early": "gelu" in mutant.diff(), "ladder": changed and "eps" in mutant.diff()}

    for edit, verdict in (
        (..., "not attempted yet"),
        (("+ self.eps)", "+ 2 * self.eps)"), "correct"),
        (("x32 = x.float()", "x32 = x"), "not yet: that is norm_in_input_dtype, one of the fifty"),
        (("F.silu(", "F.gelu("), "not yet: it is caught without the ladder, by: early"),
        (("x.float()", "x.double()"), "not yet: the ladder does not see it either"),
        (("not in the file", "x"), "not yet: it raised ValueError"),
    ):
        lesson.check_own_mutant(edit, caught_by)
        assert capsys.readouterr().out.startswith(verdict)


def test_show_displays_the_source(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    lesson.show(SmolLM2)
    assert "self, input_ids: Tensor, cache: KVCache" in shown[0].data


def test_coloured_texts_say_what_they_show(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kwargs: shown.append(data))
    trained = BPETokenizer.train(["aa aa"], 258)
    plots.tokens(trained, ["aa aa", "<é>\n"])
    alt = "2 tokens: aa|·aa; 5 tokens: <|c3|a9|>|↵"
    assert shown[0]["text/plain"] == f"Figure: {alt}"
    assert "&lt;" in shown[0]["text/html"] and "<é>" not in shown[0]["text/html"]
    story = stories.write(1, seed=0)[0]
    plots.surprise(story, stories.read(story))
    assert f"{-stories.log_prob(story):.1f} nats" in shown[1]["text/plain"]
    plots.attended(trained, trained.encode("aa <"), torch.tensor([0.25, 0.75, 0.0, 0.0]))
    assert shown[2]["text/plain"].endswith("where '<' comes next, in 3 tokens")
    assert shown[2]["text/html"].count("0.45)") == 1
    plots.likelihood(trained, trained.encode("<aa"), [-0.6, -9.0])
    assert shown[3]["text/plain"] == "Figure: 2 tokens and their 10 nats of surprise"
    assert '0.10)">&lt;' in shown[3]["text/html"] and '1.00)">aa' in shown[3]["text/html"]
    assert "<u><span" in shown[2]["text/html"] and "&lt;</span></u>" in shown[2]["text/html"]


def test_figures_are_displayed_with_alt_text_and_no_pyplot(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a[0], k)))
    before = "matplotlib.pyplot" in sys.modules
    plots.map_strip(2)
    plots.architecture(SmolLM2Config())
    plots.parameter_bars({"embed_tokens": 10, "norms": 1})
    plots.weight_histograms({"a": np.zeros(9), "b": np.full(9, 0.1)}, 1 / 24)
    plots.residual_growth({"x": [1.0, 2.0]})
    plots.rope_dials(64, 1e5)
    plots.rope_wavelengths(64, {"θ = 10,000": 1e4}, 8192)
    plots.rope_scores({"θ = 10,000": np.ones(9)})
    plots.head_groups(9, 3)
    plots.matrices({"mask": np.tril(np.ones((4, 4)))})
    plots.curves({"a": (np.arange(3), np.arange(3))}, "x", "y", "a line")
    plots.divergence({"a": [0.0, 1.0]})
    plots.bug_table({name: {"shapes": False, "ladder": True} for name in MUTANTS})
    trained = BPETokenizer.train(["marmalade marmalade"], 270)
    plots.pipeline(trained, "one marmalade")
    plots.merge_tree(trained, " marmalade")
    plots.compression({"a": ([256, 512], [1.0, 2.0])})
    plots.schedules({"wsd": [0.1, 1.0, 0.5]})
    plots.sweep([1e-3, 1e-2], [3.0, 4.0])
    plots.training([{"step": 1, "loss": 2.0}, {"step": 2, "val_loss": 1.0}], {"the floor": 0.5})
    plots.by_depth({"as it is": [1.0, 2.0]}, {"as it is": [1.0, 2.0], "broken": [1e-9, 2.0]})
    plots.speedups([{"name": "ours", "speedup": 1.0}, {"name": "+ bf16", "speedup": 2.0}], "a CPU")
    plots.flops_by_length(SmolLM2Config())
    plots.cache_growth(SmolLM2Config())
    plots.memory_by_batch(SmolLM2Config(), 1024)
    plots.roofline(1e11, 1e10, {"prefill": (50.0, 9e10, 0.9), "decode": (0.5, 3e9, 0.6)})
    plots.scaling([10, 100, 1000], [3.0, 2.0, 1.5], -0.1, 1.2, (1.4, 1.9))
    plots.next_tokens(["a", "b"], [0.5, 0.1], 0.5, "the truth")
    plots.filters(["a", "b"], {"top-k": ([0.5, 0.4], [1.0, 0.0])})
    plots.by_temperature({0.5: 0.4, 1.0: 0.6}, 1.0)
    plots.token_times({"without": ([1, 2], [0.1, 0.2]), "with": ([1, 2], [0.1, 0.1])})
    plots.by_batch({1: 0.1, 2: 0.12})
    assert len(shown) == 31
    for data, options in shown:
        alt = options["metadata"]["image/png"]["alt"]
        assert len(alt) > 5
        assert data["text/plain"] == f"Figure: {alt}"
        assert len(data["image/png"]) > 2000
    assert ("matplotlib.pyplot" in sys.modules) == before
