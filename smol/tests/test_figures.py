"""Every figure is drawn, and says in words what it shows."""

import ast
import base64
import importlib
import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from smol import BPETokenizer, SmolLM2Config, stories
from smol.lesson import figures
from smol.lesson.figures.style import figure, has_glyphs, shade, styled, written
from smol.parity import MUTANTS

FOLDER = Path(figures.__file__).parent
FILES = sorted(f for f in FOLDER.glob("*.py") if f.name[:2] != "__" and f.name != "style.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_figure_of_a_file_is_one_of_the_package(file):
    module = importlib.import_module(f"smol.lesson.figures.{file.stem}")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    public = [n.name for n in body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
    assert sorted(module.__all__) == sorted(public), f"complete __all__ in {file.name}"
    for name in public:
        assert getattr(figures, name, None) is getattr(module, name), (
            f"figures.{name} is not {file.name}'s: import * from it in figures/__init__.py"
        )


def test_no_two_figures_have_one_name():
    names = [f.stem for f in FILES]  # figures.train is the file and can be no figure
    for file in FILES:
        names += importlib.import_module(f"smol.lesson.figures.{file.stem}").__all__
    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_coloured_texts_say_what_they_show(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kwargs: shown.append(data))
    trained = BPETokenizer.train(["aa aa"], 258)
    figures.tokens(trained, ["aa aa", "<é>\n", "文"])
    alt = "2 tokens: aa|·aa; 5 tokens: <|c3|a9|>|↵; 3 tokens: e6|96|87"
    story = stories.write(1, seed=0)[0]
    figures.surprise(story, stories.read(story))
    figures.attended(trained, trained.encode("aa <"), torch.tensor([0.25, 0.75, 0.0, 0.0]))
    figures.likelihood(trained, trained.encode("<aa"), [-0.6, -9.0])
    said = [data["text/plain"] for data in shown]
    assert said[0] == f"Figure: {alt}"
    assert f"{-stories.log_prob(story):.1f} nats" in said[1]
    assert said[2].endswith("where '<' comes next, in 3 tokens")
    assert said[3] == "Figure: 2 tokens and their 10 nats of surprise"
    assert all("text/html" not in data and data["image/png"] for data in shown)


def test_a_text_is_written_word_by_word_each_with_its_shade_and_no_character_lost():
    pieces = [
        ("It snored $x^2$,", None, False),
        (" twice", "#ffcc00", True),
        (".\n\n", None, False),
    ]
    ax = written([*pieces, ("a" * 25, None, False), (" end", "#00ff00", False)], 12).axes[0]
    places = [(text.get_position(), text.get_text()) for text in ax.texts]
    assert places == [
        ((0, 0.5), "It"),
        ((2, 0.5), " snored"),
        ((0, 1.5), "$x^2$,"),  # does not fit, and loses the space that it begins with
        ((6, 1.5), " twice"),
        ((12, 1.5), "."),  # a full stop stays with its word
        ((0, 3.5), "a" * 20),
        ((0, 4.5), "a" * 5),
        ((5, 4.5), " end"),
    ]
    backs = [(patch.get_xy(), patch.get_width()) for patch in ax.patches]
    assert backs == [((6, 1.08), 6), ((5, 4.08), 4)]
    assert [list(line.get_xdata()) for line in ax.lines] == [[6, 12]]  # underlined: twice
    assert shade("#0072B2", 0.0) == "#ffffff" and shade("#0072B2", 1.0) == "#0072b2"
    assert has_glyphs("é…·↵→") and not has_glyphs("a文") and not has_glyphs("🎉")


def test_a_picture_may_have_fewer_dots_and_is_as_wide_on_the_page(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a[0], k)))

    def line():
        fig, ax = figure(4.0, 2.0)
        ax.plot([0, 1])
        return fig, "a line"

    for draw in (styled(line), styled(dpi=80)(line)):
        draw()
    about = [options["metadata"]["image/png"] for _, options in shown]
    assert about[0] == about[1] == {"width": 384, "height": 192, "alt": "a line"}
    pictures = [Image.open(io.BytesIO(base64.b64decode(d["image/png"]))) for d, _ in shown]
    assert [picture.size for picture in pictures] == [(640, 320), (320, 160)]


@pytest.mark.parametrize("rate", [2e10, 4e9, 1e7])  # of the bound 2.5e10
def test_a_roofline_shows_points_however_far_below_it(rate, monkeypatch):
    module, kept = importlib.import_module("smol.lesson.figures.count"), []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: None)
    monkeypatch.setattr(module, "figure", lambda *size: kept.append(figure(*size)) or kept[-1])
    figures.roofline(1e11, 5e10, {"prefill": (50.0, 9e10, 0.9), "decode": (0.5, rate, 0.1)})
    ((_, ax),) = kept
    points = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert points == [9e10, rate]
    low, high = ax.get_ylim()
    assert all(low < y < high for y in points)


def test_figures_are_displayed_with_alt_text_and_no_pyplot(monkeypatch):
    shown, save = [], Figure.savefig
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a[0], k)))
    # A sixteenth of the dots: nobody looks at these, and the notebooks draw them in full.
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: save(f, *a, **{**k, "dpi": 40}))
    before = "matplotlib.pyplot" in sys.modules
    figures.map_strip(2)
    figures.architecture(SmolLM2Config())
    figures.parameter_bars({"embed_tokens": 10, "norms": 1})
    figures.transformer(["The", "·cat"], [("·cat", 0.9), ("·sat", 0.004)], SmolLM2Config())
    figures.residual_growth({"the first": [1.0, 900.0], "the others": [1.0, 2.0]})
    figures.attention_to_first([1.0, 150.0], [0.1, 0.8], 0.16)
    figures.rope_dials(64, 1e5)
    figures.rope_wavelengths(64, {"θ = 10,000": 1e4}, 8192)
    figures.norm_arrows()
    figures.rope_pair([(3, 1), (3, 2)], q=(1.0, 0.0), k=(0.6, 0.8))
    shares = np.array([[1.0, 0.0], [0.25, 0.75]])
    hidden = np.where(shares > 0, shares, -np.inf)
    figures.attention_steps({"masked": hidden, "shares": shares}, ["Ann", "she"])
    figures.attention_arrows(shares, ["Ann", "she"])
    figures.head_groups(9, 3)
    figures.matrices({"mask": np.tril(np.ones((4, 4)))})
    figures.head_maps({"the first\nlayer 0, head 1": np.eye(3)}, ["a", "cat", "."])
    figures.curves({"a": (np.arange(3), np.arange(3))}, "x", "y", "a line")
    figures.divergence({"a": [0.0, 1.0]})
    figures.head_maps({"a word said twice": np.eye(4)}, ["a", "b", "a²", "b²"], half=2)
    figures.lens([" ", " ", ".", "\n", " a"], [900, 40, 9, 2, 1], " a")
    figures.bug_table({n: {"one argmax": 0.25, "ladder": True} for n in MUTANTS}, MUTANTS)
    figures.bugs_by_prompt([4, 7, 7], 50)
    figures.rungs()
    figures.questions()
    trained = BPETokenizer.train(["marmalade marmalade"], 270)
    figures.pipeline(trained, "one marmalade")
    figures.merge_tree(trained, " marmalade")
    figures.compression({"a": ([256, 512], [1.0, 2.0])})
    figures.predictions(["a"], ["b"], {"untrained": [0.0005], "trained": [0.9]})
    figures.downhill({"η = 0.4": [0.0, 0.1], "η = 4": [0.0, 1.2], "η = 20": [0.0, 6.0]})
    figures.noisy_slopes({"10 words": [-0.1, 0.1], "100 words": [0.0, 0.01]}, -0.03)
    figures.loop_map()
    figures.loop_map("schedule")
    figures.bowl({"SGD": [(-4.0, 1.0), (-3.0, -1.0)], "AdamW": [(-4.0, 1.0), (0.0, 0.0)]}, 50)
    figures.settling({"η = 4": [0.0, 2.0, 1.0], "η comes down": [0.0, 1.4, 1.4]}, 2)
    figures.schedules({"wsd": [0.1, 1.0, 0.5]})
    figures.sweep([1e-3, 1e-2], [3.0, 4.0])
    figures.training([{"step": 1, "loss": 2.0}, {"step": 2, "val_loss": 1.0}], {"the floor": 0.5})
    figures.by_depth({"as it is": [1.0, 2.0]}, {"as it is": [1.0, 2.0], "broken": [1e-9, 2.0]})
    looked = {"step": 250, "val_loss": 0.8, "again": 2.0, "scores": [0.1, 0.2, 0.0]}
    figures.looking_back([looked, {**looked, "step": 500}])
    figures.checkpoint_parts({"model.safetensors": 1_600_000})
    figures.logits_in_chunks()
    figures.stopped_at({"as it is": [7.0, 5.0]}, "unigram", 5.8)
    rungs = [{"name": "ours", "speedup": 1.0}, {"name": "+ bf16", "speedup": 2.0}]
    figures.speedups(rungs, "a CPU")
    figures.flops_by_length(SmolLM2Config())
    figures.cache_growth(SmolLM2Config())
    figures.causal_pairs(["a", "b"])
    figures.memory_of_a_step(SmolLM2Config(), [(4, 256), (1, 64)])
    moments = {"turn": {"weights": 4e6}, "end": {"weights": 3e6}}
    figures.memory_measured([(0.0, 0), (0.1, 10**6)], {"forward": (0.0, 0.1)}, 10**6, moments)
    figures.chinchilla(134_515_008, 2e12)
    figures.roofline(1e11, 1e10, {"prefill": (50.0, 9e10, 0.9), "decode": (0.5, 3e9, 0.6)})
    figures.scaling([10, 100, 1000], [[3.0, 2.0, 1.5], [3.0, 2.1, 1.4]], [1.3, 1.5])
    figures.next_tokens(["a", "b"], [0.5, 0.1], 0.5, "the truth")
    figures.filters(["a", "b"], {"top-k": ([0.5, 0.4], [1.0, 0.0])})
    figures.by_temperature({0.0: 0.0, 0.5: 0.4, 1.0: 0.6}, 1.0, 48)
    figures.token_times({"without": ([1, 2], [0.1, 0.2]), "with": ([1, 2], [0.1, 0.1])})
    figures.by_batch({1: 0.1, 2: 0.12})
    figures.one_more_token(["a", "b", "c"])
    figures.writing_loop("a text", "b")
    figures.drawn_counts(["a", "b"], [9.0, 4.0], [8, 5])
    figures.padded_masks({"row 0": (["x", "b", "c"], 1, np.tril(np.ones((3, 3))))})
    figures.speculation([0.5, 0.5], [0.2, 0.8])
    assert len(shown) == 60
    for data, options in shown:
        alt = options["metadata"]["image/png"]["alt"]
        assert len(alt) > 5
        assert data["text/plain"] == f"Figure: {alt}"
        assert len(data["image/png"]) > 1000
    said = [data["text/plain"] for data, _ in shown]
    assert any("to those on its right" in text and "after The ·cat 90%" in text for text in said)
    assert any("2 words ask 2 words: 4 pairs, of which the mask lets 3" in text for text in said)
    assert any("4 × 256 tokens the peak is A, 3.6 GB; of 1 × 64" in text for text in said)
    assert any("after 2 words, where the text begins again" in text for text in said)
    assert any("a cache the keys and values of 1, and 3 scores" in text for text in said)
    assert any("0: as it is; 1: one token alone" in t and t.endswith("7: no sine") for t in said)
    assert any("mean, untrained: 7.6; trained: 0.1" in text for text in said)
    assert any(text.endswith("station by station; here: schedule") for text in said)
    lens = "first choice: “·” after 0–1, “.” after 2, “↵” after 3, “·a” after 4; place of the last"
    assert any(lens in text for text in said)
    assert ("matplotlib.pyplot" in sys.modules) == before
