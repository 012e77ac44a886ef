"""Every figure of the series, in one style; `python -m smol.plots` draws the README's.

Opaque white, so that a figure reads the same in a light and in a dark notebook; the palette of
Okabe and Ito, which colour-blind readers can tell apart; and for each figure a sentence that says
what it shows: its alt text, and the text/plain output that the tests compare.
"""

import base64
import dataclasses
import html
import io
import json
import math
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.ticker import LogFormatter

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
INK, SOFT, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#cfe3f1", SKY, BLUE, "#00304d"])
SERIES = ("Inspect", "Build", "Parity", "Tokenizer", "Train", "Count", "Generate")

STYLE = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
DPI = 160


def _png(draw, *args, **kwargs) -> tuple[bytes, str, tuple[int, int]]:
    """What `draw` draws, in the one style; its alt text; its width and height on a page."""
    with rc_context(STYLE):
        fig, alt = draw(*args, **kwargs)
        png = io.BytesIO()
        fig.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    width, height = (int(96 * size) for size in fig.get_size_inches())
    return _smaller(png), alt, (width, height)


def _styled(draw):
    """Makes of `draw` a function that displays what it draws, with its alt text."""

    def drawn(*args, **kwargs) -> None:
        from IPython.display import display

        png, alt, (width, height) = _png(draw, *args, **kwargs)
        data = {
            "image/png": base64.b64encode(png).decode(),
            "text/plain": f"Figure: {alt}",
        }
        about = {"image/png": {"width": width, "height": height, "alt": alt}}
        display(data, raw=True, metadata=about)

    drawn.__name__, drawn.__doc__ = draw.__name__, draw.__doc__
    return drawn


def _smaller(png: io.BytesIO) -> bytes:
    """The picture with 128 colours: a third of the bytes, and no difference to the eye."""
    from PIL import Image

    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def _figure(width: float, height: float, columns: int = 1, **kwargs):
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # inches: nothing touches the edge
    return fig, fig.subplots(1, columns, **kwargs)


def _blank(ax, xlim, ylim) -> None:
    ax.set(xlim=xlim, ylim=ylim)
    ax.axis("off")


def _box(ax, x, y, width, height, text, color=BLUE, size=9.5, filled=False):
    """A rounded box with its centre at (x, y)."""
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            linewidth=1.4,
            edgecolor=color,
            facecolor=color if filled else "white",
        )
    )
    ink = "white" if filled and color in (BLUE, GREEN, RED) else INK  # the others are too light
    ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=size)


def _arrow(ax, start, end, color=SOFT):
    arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=start, arrowprops=arrow)


@_styled
def map_strip(here: int):
    """The series as a line of stations, with the reader at notebook number `here`."""
    fig, ax = _figure(8.6, 0.85)
    _blank(ax, (0.4, len(SERIES) + 0.6), (-0.75, 0.55))
    ax.plot([1, len(SERIES)], [0, 0], color=FAINT, lw=4, zorder=1)
    ax.plot([1, here], [0, 0], color=BLUE, lw=4, zorder=1)
    for number, name in enumerate(SERIES, 1):
        done, current = number < here, number == here
        color = RED if current else BLUE if done else "#b8b8b8"
        ax.plot(number, 0, "o", ms=17 if current else 12, color=color, zorder=2)
        weight = "bold" if current else "normal"
        ax.text(number, 0, str(number), ha="center", va="center", color="white", fontsize=9)
        ax.text(number, -0.62, name, ha="center", fontsize=9, weight=weight)
    return fig, f"the series, {' · '.join(SERIES)}; you are at {here}, {SERIES[here - 1]}"


@_styled
def architecture(config):
    """The whole model on the left, one block of it on the right, with the shapes between."""
    D, F, V, H, K, hd = (
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    fig, ax = _figure(8.6, 6.3)
    _blank(ax, (0, 13.6), (0, 10))

    # The model, bottom to top.
    x = 2.1
    ax.text(x, 0.35, "token ids  (B, T)", ha="center", fontsize=9.5)
    steps = [
        (1.5, "embed_tokens", BLUE),
        (6.9, "norm", GREEN),
        (8.1, "lm_head", BLUE),
    ]
    for y, text, color in steps:
        _box(ax, x, y, 2.5, 0.66, text, color)
    for i in range(3, 0, -1):  # a pile of blocks
        _box(ax, x + 0.1 * i, 4.1 - 0.1 * i, 2.5, 1.9, "", SOFT)
    _box(ax, x, 4.1, 2.5, 1.9, f"layers\n{config.num_hidden_layers} × Block", RED)
    for a, b in ((0.62, 1.17), (1.83, 3.15), (5.05, 6.57), (7.23, 7.77), (8.43, 9.05)):
        _arrow(ax, (x, a), (x, b))
    ax.text(x, 9.3, f"logits  (B, T, {V:,})", ha="center", fontsize=9.5)
    ax.text(x + 0.15, 2.35, f"(B, T, {D})", fontsize=8.5, color=SOFT)
    ax.text(x + 0.15, 5.75, f"(B, T, {D})", fontsize=8.5, color=SOFT)
    if config.tie_word_embeddings:
        side = x - 1.55
        ax.plot(
            [x - 1.25, side, side, x - 1.25], [1.5, 1.5, 8.1, 8.1], color=BLUE, lw=1.2, ls="--"
        )
        ax.text(side - 0.12, 4.8, "one matrix (tied)", rotation=90, va="center", ha="right")

    # One block, blown up.
    ax.add_patch(
        FancyBboxPatch(
            (5.2, 0.5),
            8.2,
            9.1,
            boxstyle="round,pad=0,rounding_size=0.2",
            linewidth=1.3,
            edgecolor=RED,
            facecolor="#fffaf6",
        )
    )
    for y in (3.15, 5.05):
        target = 0.55 if y < 4 else 9.55
        ax.plot([3.35, 5.2], [y, target], color=RED, lw=0.9, ls=":")
    stream = 6.1
    ax.plot([stream, stream], [0.75, 9.2], color=INK, lw=2.6, solid_capstyle="round")
    _arrow(ax, (stream, 9.0), (stream, 9.35), INK)
    ax.text(
        stream - 0.2, 2.9, "residual stream", rotation=90, ha="right", va="center", fontsize=8.5
    )
    for y in (4.75, 8.65):
        ax.add_patch(Circle((stream, y), 0.2, facecolor="white", edgecolor=INK, lw=1.4, zorder=5))
        ax.text(stream, y - 0.01, "+", ha="center", va="center", fontsize=11, zorder=6)
        ax.plot([stream, 9.7], [y, y], color=SOFT, lw=1.3, zorder=1)
    # attention
    ax.plot([stream, 7.45], [1.25, 1.25], color=SOFT, lw=1.3)
    _box(ax, 8.6, 1.25, 2.4, 0.58, "input_layernorm", GREEN, 8.5)
    for px, name, heads in ((7.65, "q_proj", H), (9.7, "k_proj", K), (11.75, "v_proj", K)):
        _arrow(ax, (8.6, 1.54), (px, 2.0))
        _box(ax, px, 2.3, 1.75, 0.58, f"{name}\n{D} → {heads} × {hd}", BLUE, 7.5)
        _arrow(ax, (px, 2.6), (px, 2.94 if name != "v_proj" else 3.42))
    for px in (7.65, 9.7):
        _box(ax, px, 3.15, 1.1, 0.4, "RoPE", ORANGE, 8)
        _arrow(ax, (px, 3.35), (px, 3.42))
    _box(ax, 9.7, 3.66, 5.85, 0.46, "causal softmax(q kᵀ / √hd) v", PURPLE, 8.5)
    _arrow(ax, (9.7, 3.9), (9.7, 4.05))
    _box(ax, 9.7, 4.28, 1.9, 0.44, f"o_proj  {D} → {D}", BLUE, 7.5)
    ax.plot([9.7, 9.7], [4.5, 4.75], color=SOFT, lw=1.3)
    # MLP
    ax.plot([stream, 7.2], [5.35, 5.35], color=SOFT, lw=1.3)
    _box(ax, 8.85, 5.35, 3.3, 0.58, "post_attention_layernorm", GREEN, 8.5)
    for px, name in ((8.2, "gate_proj"), (11.2, "up_proj")):
        _arrow(ax, (9.1, 5.64), (px, 6.1))
        _box(ax, px, 6.4, 2.1, 0.58, f"{name}\n{D} → {F:,}", BLUE, 7.5)
    _box(ax, 8.2, 7.12, 1.1, 0.4, "SiLU", ORANGE, 8)
    _arrow(ax, (8.2, 6.69), (8.2, 6.92))
    ax.add_patch(Circle((9.7, 7.12), 0.2, facecolor="white", edgecolor=INK, lw=1.4))
    ax.text(9.7, 7.11, "×", ha="center", va="center", fontsize=11)
    _arrow(ax, (8.75, 7.12), (9.5, 7.12))
    ax.plot([11.2, 11.2], [6.69, 7.12], color=SOFT, lw=1.3)
    _arrow(ax, (11.2, 7.12), (9.9, 7.12))
    _arrow(ax, (9.7, 7.32), (9.7, 7.72))
    _box(ax, 9.7, 8.0, 2.1, 0.56, f"down_proj\n{F:,} → {D}", BLUE, 7.5)
    ax.plot([9.7, 9.7], [8.28, 8.65], color=SOFT, lw=1.3)
    alt = (
        f"the model: embedding, {config.num_hidden_layers} blocks, norm, head; and one block: "
        "norm, attention, add, norm, MLP, add"
    )
    return fig, alt


@_styled
def parameter_bars(groups: dict[str, int]):
    """How many parameters each group of tensors holds, the largest first."""
    total = sum(groups.values())
    names = sorted(groups, key=groups.get)
    fig, ax = _figure(7.6, 0.42 * len(names) + 0.7)
    colors = {"embed_tokens": ORANGE, "self_attn": PURPLE, "mlp": BLUE, "norm": GREEN}
    for y, name in enumerate(names):
        color = next((c for part, c in colors.items() if part in name), SOFT)
        ax.barh(y, groups[name] / 1e6, color=color, height=0.68)
        share = f"{groups[name]:,}  ({groups[name] / total:.1%})"
        ax.text(groups[name] / 1e6 + total / 4e8, y, share, va="center", fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="millions of parameters", xlim=(0, max(groups.values()) / 1e6 * 1.35))
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    top = names[-1]
    return fig, f"parameters by group, {total:,} in all; the largest is {top}, {groups[top]:,}"


@_styled
def weight_histograms(samples: dict[str, np.ndarray], std: float):
    """The distribution of some tensors' entries beside the normal they started from."""
    fig, axes = _figure(8.6, 2.3, len(samples), sharey=True)
    grid = np.linspace(-4 * std, 4 * std, 200)
    normal = np.exp(-((grid / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    for ax, (name, values) in zip(axes, samples.items(), strict=True):
        ax.hist(values, bins=80, range=(-4 * std, 4 * std), density=True, color=SKY)
        ax.plot(grid, normal, color=INK, lw=1.2)
        ax.set(title=name, yticks=[], xticks=[-0.1, 0, 0.1], xlabel="a weight")
        ax.spines["left"].set_visible(False)
    return fig, f"histograms of {len(samples)} tensors against a normal of standard deviation 1/24"


@_styled
def residual_growth(sizes: dict[str, list[float]]):
    """The RMS of the residual stream after the embedding and after every block."""
    fig, ax = _figure(7.6, 2.6)
    for color, (name, values) in zip(PALETTE, sizes.items(), strict=False):
        ax.plot(range(len(values)), values, "o-", color=color, ms=4, label=name)
    ax.set(xlabel="blocks passed", ylabel="RMS", yscale="log", title="Size of a token's vector")
    ax.grid(axis="y")
    if len(sizes) > 1:
        ax.legend()
    return fig, "the size of the residual stream after each block, on a log scale"


@_styled
def rope_dials(head_dim: int, theta: float, positions: int = 6):
    """Four of a head's pairs as clock hands, at the first few positions."""
    pairs = [0, head_dim // 16, head_dim // 8, head_dim // 2 - 1]
    fig, axes = _figure(8.6, 2.6, 4)
    for ax, pair in zip(axes, pairs, strict=True):
        turn = theta ** (-2 * pair / head_dim)
        _blank(ax, (-1.35, 1.35), (-1.45, 1.35))
        ax.set_aspect("equal")
        ax.add_patch(Circle((0, 0), 1, facecolor="#fafafa", edgecolor=FAINT, lw=1.5))
        for position in range(positions):
            x, y = math.cos(position * turn), math.sin(position * turn)
            shade = HEAT(0.4 + 0.6 * position / (positions - 1))
            _arrow(ax, (0, 0), (x, y), shade)
            if position in (0, 1, positions - 1) and turn > 0.1:
                ax.text(1.17 * x, 1.17 * y, position, ha="center", va="center", fontsize=8)
        if turn <= 0.1:
            ax.text(1.05, 0, f"0–{positions - 1}", va="center", fontsize=8)
        once = 2 * math.pi / turn
        ax.set_title(f"pair {pair}", ha="center", x=0.5)
        ax.text(0, -1.4, f"once in {once:,.0f} tokens", ha="center", fontsize=8.5, color=SOFT)
    return fig, (
        f"pairs {', '.join(map(str, pairs))} of a head as clock hands at positions 0 to "
        f"{positions - 1}: the first turns by 1 radian per token, the last hardly at all"
    )


@_styled
def rope_wavelengths(head_dim: int, thetas: dict[str, float], context: int):
    """How many tokens each pair needs for one full turn, for several thetas."""
    fig, ax = _figure(7.6, 2.9)
    pairs = np.arange(head_dim // 2)
    for color, (name, theta) in zip(PALETTE, thetas.items(), strict=False):
        ax.semilogy(pairs, 2 * np.pi * theta ** (2 * pairs / head_dim), "o-", ms=3.5, color=color)
        last = 2 * math.pi * theta ** (2 * pairs[-1] / head_dim)
        ax.text(pairs[-1] + 0.4, last, name, color=color, va="center", fontsize=9)
    ax.axhline(context, color=SOFT, lw=1, ls="--")
    ax.text(0, context * 1.25, f"context: {context:,} tokens", fontsize=9, color=SOFT)
    ax.set(xlabel="pair", ylabel="tokens for one turn", xlim=(-0.7, head_dim // 2 + 5))
    ax.grid(axis="y")
    return fig, f"tokens for one full turn of each pair, for theta {' and '.join(thetas)}"


@_styled
def rope_scores(curves: dict[str, np.ndarray]):
    """The score of a query and an equal key against the distance between them."""
    fig, ax = _figure(7.6, 2.7)
    for color, (name, scores) in zip(PALETTE, curves.items(), strict=False):
        ax.plot(np.arange(len(scores)), scores, color=color, lw=1.2, label=name)
    ax.axhline(0, color=SOFT, lw=0.8)
    ax.set(xlabel="distance in tokens", ylabel="score", xscale="symlog")
    ax.set_xlim(0, max(len(s) for s in curves.values()) - 1)
    ax.legend()
    return fig, f"score against distance for {' and '.join(curves)}: high when near, then it sways"


@_styled
def head_groups(num_heads: int, num_kv_heads: int):
    """Which key/value head each query head reads, with repeat_interleave and with repeat."""
    fig, axes = _figure(8.6, 2.2, 2)
    group = num_heads // num_kv_heads
    wirings = {
        "repeat_interleave: h // group": [h // group for h in range(num_heads)],
        "repeat: h mod K  (wrong)": [h % num_kv_heads for h in range(num_heads)],
    }
    for ax, (title, reads) in zip(axes, wirings.items(), strict=True):
        _blank(ax, (-1.3, num_heads - 0.4), (-0.45, 1.5))
        ax.set_title(title)
        spread = (num_heads - 1) / num_kv_heads
        for k in range(num_kv_heads):
            kx = (k + 0.5) * spread
            _box(ax, kx, 0, 0.85, 0.3, f"kv {k}", PALETTE[k % 6], 8.5, filled=True)
            for h in (h for h in range(num_heads) if reads[h] == k):
                ax.plot([h, kx], [0.85, 0.15], color=PALETTE[k % 6], lw=1.6)
        for h in range(num_heads):
            _box(ax, h, 1, 0.72, 0.3, str(h), PALETTE[reads[h] % 6], 8.5, filled=True)
        ax.text(-1.25, 1, "query", va="center", fontsize=8.5, color=SOFT)
    return fig, (
        f"{num_heads} query heads and {num_kv_heads} key/value heads: neighbours share with "
        "repeat_interleave, every third one with repeat"
    )


@_styled
def matrices(panels: dict[str, np.ndarray]):
    """Maps (masks or attention weights, rows = queries) side by side: dark is much, or may."""
    fig, axes = _figure(2.75 * len(panels), 2.9, len(panels), squeeze=False)
    for ax, (title, matrix) in zip(axes[0], panels.items(), strict=True):
        ax.imshow(matrix, cmap=HEAT, vmin=0, vmax=max(1e-9, float(np.nanmax(matrix))))
        ax.set_title(title)
        T, S = matrix.shape
        ax.set(xlabel="key", ylabel="query")
        for axis, count in ((ax.xaxis, matrix.shape[1]), (ax.yaxis, matrix.shape[0])):
            axis.set_ticks(range(0, count, 1 if count <= 12 else 4))
            axis.set_ticks(np.arange(count + 1) - 0.5, minor=True)
        if T < S:  # the queries are the last of S positions
            ax.set_yticks(range(T), range(S - T, S))
        ax.grid(which="minor", color=FAINT, lw=0.6)
        ax.spines[:].set_visible(False)
        ax.tick_params(which="both", length=0)
    return fig, f"rows of queries against columns of keys: {', '.join(panels)}"


@_styled
def curves(lines: dict[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str, alt: str):
    """A few functions over one axis."""
    fig, ax = _figure(6.4, 2.7)
    for color, (name, (x, y)) in zip(PALETTE, lines.items(), strict=False):
        ax.plot(x, y, color=color, label=name)
    ax.axhline(0, color=SOFT, lw=0.8)
    ax.axvline(0, color=SOFT, lw=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig, alt


@_styled
def divergence(lines: dict[str, list[float]]):
    """How far each broken model is from the reference after every block, on a log scale."""
    fig, ax = _figure(7.6, 3.0)
    floor = 1e-9
    dashes = ("-", "-", (0, (2, 2)), ":")  # the third often hides the second
    for color, dash, (name, values) in zip(PALETTE, dashes, lines.items(), strict=False):
        ax.semilogy(np.maximum(values, floor), "o", ls=dash, ms=3.5, color=color, label=name)
    ax.axhline(floor, color=SOFT, lw=1, ls="--")
    ax.text(0, floor * 1.6, "0: exact", fontsize=9, color=SOFT)
    ax.set(xlabel="blocks passed", ylabel="largest difference / largest value")
    ax.grid(axis="y")
    ax.legend(fontsize=9)
    return fig, f"difference from the reference after each block, for {', '.join(lines)}"


@_styled
def bug_table(caught: dict[str, dict[str, bool]]):
    """Which check catches which bug: rows are bugs, columns checks, filled is caught."""
    bugs, checks = list(caught), list(next(iter(caught.values())))
    matrix = np.array([[caught[bug][check] for check in checks] for bug in bugs])
    half = (len(bugs) + 1) // 2
    fig, axes = _figure(9.6, 0.2 * half + 1.2, 2)
    totals = [
        f"{name.replace(' ', chr(10), 1)}\n{int(n)} / {len(bugs)}"
        for name, n in zip(checks, matrix.sum(0), strict=True)
    ]
    for ax, rows in zip(axes, (slice(half), slice(half, None)), strict=True):
        part = matrix[rows]
        ax.imshow(part, cmap=ListedColormap(["#f0f0f0", BLUE]), vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(len(part)), bugs[rows], fontsize=8.5)
        ax.set_xticks(range(len(checks)), totals, fontsize=8.5)
        ax.xaxis.tick_top()
        ax.set_xticks(np.arange(len(checks) - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(len(part) - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", lw=1.2)
        ax.tick_params(which="both", length=0)
        ax.spines[:].set_visible(False)
    return fig, f"{len(bugs)} bugs against {len(checks)} checks: {', '.join(checks)}"


# -- text, coloured -------------------------------------------------------------------------------

TINTS = ("#cfe3f1", "#fbe8c0", "#c9ebdf", "#f7d5c4", "#f0dfea")


def _coloured(rows: list[str], alt: str) -> None:
    """Displays rows of HTML on white, so that they read the same in a dark notebook."""
    from IPython.display import display

    page = f"background:white;color:{INK};padding:8px;line-height:1.9;font-size:14px"
    body = "".join(f"<div>{row}</div>" for row in rows)
    page = f'<div style="{page}" role="img" aria-label="{html.escape(alt)}">{body}</div>'
    display({"text/html": page, "text/plain": f"Figure: {alt}"}, raw=True)


def _visible(token: bytes) -> str:
    """A token as it can be shown: white space as signs, bytes that are no character as hex."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return token.hex(" ")
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "→")


def tokens(tokenizer, texts: list[str]) -> None:
    """Texts cut into tokens, each in a colour; "·" is a space, "e4" a byte of a character."""
    rows, said = [], []
    for text in texts:
        pieces = [_visible(tokenizer.token_bytes(i)) for i in tokenizer.encode(text)]
        marked = "".join(
            f'<code style="background:{TINTS[k % len(TINTS)]};color:{INK};padding:2px 1px">'
            f"{html.escape(piece)}</code>"
            for k, piece in enumerate(pieces)
        )
        rows.append(f'{marked} <span style="color:{SOFT}">&nbsp;{len(pieces)}</span>')
        said.append(f"{len(pieces)} tokens: {'|'.join(pieces)}")
    _coloured(rows, "; ".join(said))


def surprise(text: str, choices: list) -> None:
    """A story in which what was chosen is coloured by how surprising it was, in nats."""
    spans = {}  # several may be made at one place: which rule, then which name
    for choice in choices:
        end, nats = spans.get(choice.start, (0, 0.0))
        spans[choice.start] = max(end, choice.end), nats - math.log(choice.probability)
    marked, at = "", 0
    for start, (end, nats) in sorted(spans.items()):
        if start >= at:  # else it stands within the last one's first word
            marked += html.escape(text[at:start])
            alpha = min(1.0, nats / 6)
            part = html.escape(text[start:end])
            marked += f'<span style="background:rgba(230,159,0,{alpha:.2f})">{part}</span>'
            at = end
    marked = (marked + html.escape(text[at:])).replace("\n", "<br>")
    total = sum(nats for _, nats in spans.values())
    _coloured([marked], f"where a story's {total:.1f} nats of surprise sit: {len(spans)} places")


def attended(tokenizer, ids: list[int], weights) -> None:
    """Tokens coloured by how much a head attends to them at the last place but one, where it has
    to predict the last token, which is underlined."""
    marked = ""
    for i, weight in zip(ids, [*weights.tolist()[: len(ids) - 1], 0.0], strict=True):
        text = html.escape(tokenizer.token_bytes(i).decode(errors="replace"))
        shade = f"background:rgba(0,114,178,{0.6 * weight:.2f})"  # dark text stays readable
        marked += f'<span style="{shade}">{text}</span>'
    marked = marked.replace("\n", "<br>")
    start = marked.rindex("<span")
    next_one = tokenizer.decode(ids[-1:])
    _coloured(
        [f"{marked[:start]}<u>{marked[start:]}</u>"],
        f"where a head looks, at the place where {next_one!r} comes next, in {len(ids)} tokens",
    )


# -- the tokenizer --------------------------------------------------------------------------------


@_styled
def pipeline(tokenizer, text: str):
    """One text on its way to ids: the pieces, their bytes, the tokens, the ids, each in a row."""
    pieces = [piece.encode() for piece in tokenizer.pieces(text)]
    ids = tokenizer.encode(text)
    parts = [tokenizer.token_bytes(i) for i in ids]
    total = len(text.encode())
    fig, ax = _figure(8.6, 2.9)
    _blank(ax, (-3.2, total), (-0.6, 3.6))
    for y, name in enumerate(("ids", "tokens", "bytes", "pieces")):
        ax.text(-0.5, y, name, ha="right", va="center", fontsize=9, color=SOFT)

    def row(y, items, labels, colors, size):
        x = 0
        for k, (item, label) in enumerate(zip(items, labels, strict=True)):
            _box(
                ax,
                x + len(item) / 2,
                y,
                len(item) - 0.15,
                0.62,
                label,
                colors[k % len(colors)],
                size,
            )
            x += len(item)

    row(3, pieces, [_visible(piece) for piece in pieces], [SOFT], 10)
    single = [bytes([b]) for b in text.encode()]
    row(2, single, [b.hex() for b in single], ["#b8b8b8"], 7.5)
    row(1, parts, [_visible(part) for part in parts], PALETTE, 10)
    row(0, parts, [str(i) for i in ids], PALETTE, 9)
    return fig, (
        f"{text!r} becomes {len(pieces)} pieces, {total} bytes and {len(ids)} tokens: "
        f"{'|'.join(_visible(part) for part in parts)}"
    )


@_styled
def merge_tree(tokenizer, word: str):
    """How one token was put together: bytes at the bottom, and over each merge its rank."""
    made = {a + b: (rank, a, b) for rank, (a, b) in reversed([*enumerate(tokenizer.merges)])}
    token = word.encode()
    fig, ax = _figure(8.6, 3.4)
    places = {}

    def draw(token: bytes, start: int) -> tuple[float, float]:
        """Draws the tree of a token whose first byte stands at `start`; its root's place."""
        if token not in made:
            ax.text(start, 0, _visible(token), ha="center", va="center", fontsize=11)
            return start, 0.0
        rank, left, right = made[token]
        places[rank] = token
        ends = draw(left, start), draw(right, start + len(left))
        x, y = sum(x for x, _ in ends) / 2, max(y for _, y in ends) + 1
        for end in ends:
            ax.plot([end[0], end[0], x], [end[1] + 0.25, y, y], color=SOFT, lw=1.2, zorder=1)
        label = f"{_visible(token)}\n{rank + 1}"
        back = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": BLUE}
        ax.text(x, y, label, ha="center", va="center", fontsize=9, bbox=back, zorder=2)
        return x, y

    _, height = draw(token, 0)
    _blank(ax, (-0.7, len(token) - 0.3), (-0.5, height + 0.6))
    order = ", ".join(f"{_visible(places[rank])} ({rank + 1})" for rank in sorted(places))
    return fig, f"the merges that make {_visible(token)}, with their ranks: {order}"


@_styled
def compression(lines: dict[str, tuple[list[int], list[float]]]):
    """Bytes a token against the size of the vocabulary, for several texts."""
    fig, ax = _figure(7.2, 3.0)
    for color, (name, (sizes, values)) in zip(PALETTE, lines.items(), strict=False):
        ax.plot(sizes, values, "o-", ms=4, color=color, label=name)
    ax.set_xscale("log", base=2)
    sizes = max((x for x, _ in lines.values()), key=len)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8.5)
    ax.minorticks_off()
    ax.set(xlabel="size of the vocabulary", ylabel="bytes per token", ylim=(0.8, None))
    ax.grid(axis="y")
    ax.legend()
    last = ", ".join(f"{name} {values[-1]:.1f}" for name, (_, values) in lines.items())
    return fig, f"bytes per token grow with the vocabulary, on a log scale; at the largest: {last}"


# -- training -------------------------------------------------------------------------------------


@_styled
def schedules(rates: dict[str, list[float]]):
    """Each schedule's part of the full learning rate, step by step."""
    fig, ax = _figure(6.4, 2.3)
    for color, (name, values) in zip(PALETTE, rates.items(), strict=False):
        ax.plot(values, color=color, label=name)
    ax.set(xlabel="step", ylabel="part of the full rate", ylim=(0, 1.05))
    ax.legend(loc=(0.3, 0.1))
    return fig, f"learning rates by step: {' and '.join(rates)} warm up and end near 0"


@_styled
def sweep(rates: list[float], losses: list[float]):
    """The loss that each learning rate came to."""
    fig, ax = _figure(6.4, 2.4)
    ax.plot(rates, losses, "o-", color=BLUE)
    ax.set(xscale="log", xlabel="learning rate", ylabel="nats per token")
    ax.grid(axis="y")
    return fig, f"the loss against {len(rates)} learning rates, on a log scale"


@_styled
def training(log: list[dict], lines: dict[str, float], top: float | None = None):
    """A run's loss and held-out loss against what knows less, or all there is to know."""
    fig, ax = _figure(7.6, 3.6)
    held_out = [row for row in log if "val_loss" in row]
    rows = [row for row in log if "loss" in row]
    for style, part, key in (("-", rows, "loss"), ("o-", held_out, "val_loss")):
        name = "training" if key == "loss" else "held out"
        color = SKY if key == "loss" else BLUE
        ax.plot(
            [row["step"] for row in part],
            [row[key] for row in part],
            style,
            color=color,
            label=name,
        )
    for name, value in lines.items():
        ax.axhline(value, color=RED if "floor" in name else SOFT, lw=1.2, ls="--")
        ax.annotate(
            f" {name} {value:.2f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    ax.set(xlabel="step", ylabel="nats per token", ylim=(0, top), xlim=(0, None))
    ax.legend(loc="best")
    named = f", with lines for {', '.join(lines)}" if lines else ""
    return fig, f"training and held-out loss by step{named}"


@_styled
def by_depth(sizes: dict[str, list[float]], gradients: dict[str, list[float]]):
    """The stream's size after each block, and the length of each block's gradient; log scales."""
    fig, axes = _figure(8.4, 2.9, 2)
    for ax, lines, title in (
        (axes[0], sizes, "size of the stream after the block"),
        (axes[1], gradients, "length of the block's gradient"),
    ):
        for color, (name, values) in zip((BLUE, RED), lines.items(), strict=False):
            ax.plot(range(1, len(values) + 1), values, "o-", ms=3, color=color, label=name)
        ax.set(yscale="log", xlabel="block", title=title)
        for axis_ticks in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            axis_ticks(LogFormatter(minor_thresholds=(2, 0.5)))
        ax.grid(axis="y")
    axes[1].legend(loc="upper right")
    return fig, f"stream and gradient, first block to last, for: {', '.join(gradients)}"


@_styled
def speedups(
    contestants: list[dict],
    machine: str,
    what: str = "training speed",
    base: str = "transformers' in fp32",
):
    """How many times as fast as the first one each contestant of `smol.bench` was."""
    fig, ax = _figure(7.6, 0.4 + 0.34 * len(contestants))
    names = [row["name"] for row in contestants]
    values = [row["speedup"] for row in contestants]
    colors = [ORANGE if "transformers" in name else BLUE for name in names]
    bars = ax.barh(names, values, color=colors, height=0.7)
    ax.bar_label(bars, [f"{value:.2f} ×" for value in values], padding=4)
    ax.invert_yaxis()
    ax.set(title=f"{what}, {base} = 1 ({machine})")
    ax.set(xticks=[], xlim=(0, 1.15 * max(values)))
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0)
    said = ", ".join(f"{n} {v:.2f}" for n, v in zip(names, values, strict=True))
    return fig, f"{what} on {machine} against {base}: {said}"


# -- counting -------------------------------------------------------------------------------------


@_styled
def flops_by_length(config):
    """What part of a forward pass each kind of product takes, as sequences grow."""
    from smol.count import crossover_length, forward_flops

    lengths = np.unique(np.geomspace(16, config.max_position_embeddings, 60).astype(int))
    kinds = {
        "MLPs": ("gate_proj", "up_proj", "down_proj"),
        "q, k, v, o": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "head": ("lm_head",),
        "scores and values": ("scores", "values"),
    }
    counts = [forward_flops(config, int(T)) for T in lengths]
    parts = [[sum(c[n] for n in names) / c["total"] for c in counts] for names in kinds.values()]
    fig, ax = _figure(7.4, 3.2)
    ax.stackplot(lengths, parts, colors=(BLUE, SKY, GREEN, ORANGE), labels=list(kinds))
    at = crossover_length(config)
    ax.axvline(at, color=INK, lw=1, ls=":")
    ax.annotate(f" {at:,}", (at, 1.0), va="bottom", fontsize=9)
    ax.set(xscale="log", xlim=(16, lengths[-1]), ylim=(0, 1), xlabel="T, tokens")
    ax.set(ylabel="part of the FLOPs")
    ax.set_xticks([16, 64, 256, 1024, 4096, 8192], ["16", "64", "256", "1,024", "4,096", "8,192"])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig, f"the part of scores and values grows with T and passes the MLPs' at {at:,} tokens"


@_styled
def cache_growth(config):
    """Bytes of a KV cache against its length, for grouped heads and for one to each query."""
    from smol.count import cache_bytes, checkpoint_bytes

    fig, ax = _figure(6.6, 2.8)
    longest = config.max_position_embeddings
    wide = dataclasses.replace(config, num_key_value_heads=config.num_attention_heads)
    for it, color in ((config, BLUE), (wide, RED)):
        ends = [0, cache_bytes(it, longest) / 1e6]
        ax.plot([0, longest], ends, color=color, label=f"{it.num_key_value_heads} kv heads")
    weights = checkpoint_bytes(config) / 1e6
    ax.axhline(weights, color=SOFT, ls="--", lw=1.2, label="all weights")
    ax.set(xlabel="tokens in the cache", ylabel="MB in bf16", xlim=(0, longest), ylim=(0, None))
    ax.grid(axis="y")
    ax.legend()
    heads = config.num_key_value_heads, config.num_attention_heads
    return (
        fig,
        f"cache size against length for {heads[0]} and {heads[1]} kv heads, and the weights",
    )


@_styled
def memory_by_batch(config, seq_len: int):
    """What training holds at its peak, by batch size, with plain and with chunked loss."""
    from smol.count import training_memory

    fig, axes = _figure(8.2, 2.9, 2, sharey=True)
    batches = (1, 2, 4, 8, 16, 32)
    for ax, chunk, title in zip(axes, (None, 4096), ("all logits", "in chunks"), strict=True):
        bottom = np.zeros(len(batches))
        memory = [training_memory(config, B, seq_len, chunk=chunk) for B in batches]
        for part, color in zip(memory[0], (BLUE, SKY, GREEN, PURPLE, ORANGE), strict=False):
            if part != "total":
                values = np.array([m[part] / 1e9 for m in memory])
                ax.bar([str(B) for B in batches], values, bottom=bottom, color=color, label=part)
                bottom += values
        ax.set(title=f"loss: {title}", xlabel=f"sequences of {seq_len:,} tokens")
        ax.grid(axis="y")
    axes[0].set_ylabel("GB")
    axes[0].legend(fontsize=8.5)
    return (
        fig,
        "training memory by batch: activations and logits grow, the chunked loss caps these",
    )


@_styled
def roofline(peak: float, bandwidth: float, points: dict[str, tuple[float, float, float]]):
    """FLOPs per second against FLOPs per byte: the bound; (intensity, rate, part of the bound)."""
    fig, ax = _figure(6.8, 3.2)
    low = min(0.1, *(x / 2 for x, *_ in points.values()))
    high = max(1000.0, *(2 * x for x, *_ in points.values()))
    x = np.geomspace(low, high, 100)
    ax.plot(x, np.minimum(peak, x * bandwidth), color=INK)
    for color, (name, (intensity, rate, part)) in zip(PALETTE, points.items(), strict=False):
        ax.plot([intensity], [rate], "o", ms=8, color=color)
        ax.annotate(f"  {name}, {part:.0%}", (intensity, rate), va="top")
    ax.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="FLOP/s")
    ax.grid()
    return fig, f"the roofline of this machine, with {' and '.join(points)} under it"


@_styled
def scaling(
    sizes: list[int],
    losses: list[float],
    slope: float,
    intercept: float,
    spread: tuple[float, float],
):
    """A power law through all points but the last, which it was to predict; and how far apart the
    predictions lie (`spread`) that leave out one point each."""
    fig, ax = _figure(6.4, 2.9)
    x = np.geomspace(min(sizes) / 1.2, max(sizes) * 1.2, 50)
    ax.plot(x, np.exp(intercept) * x**slope, color=SOFT, lw=1.2, ls="--", label="fitted to four")
    ax.plot(sizes[:-1], losses[:-1], "o", color=BLUE, label="measured before")
    ax.vlines(sizes[-1], *spread, color=SOFT, lw=5, alpha=0.4, label="predicted by three")
    ax.plot(sizes[-1:], losses[-1:], "o", color=RED, label="measured after")
    ax.set(xscale="log", yscale="log", xlabel="parameters", ylabel="nats per token")
    ax.minorticks_off()
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8.5)
    low, high = min(*losses, spread[0]), max(*losses, spread[1])
    ticks = np.arange(math.floor(2 * low), math.ceil(2 * high) + 1) / 2
    ax.set_yticks(ticks, [f"{tick}" for tick in ticks])
    ax.legend()
    return (
        fig,
        f"loss against size, a line through {len(sizes) - 1} points and one to be predicted",
    )


# -- generation -----------------------------------------------------------------------------------


@_styled
def next_tokens(names: list[str], p: list[float], level: float, what: str):
    """Probabilities of the likeliest next tokens, and the level that the true ones have."""
    fig, ax = _figure(8.2, 2.5)
    ax.bar(range(len(p)), p, color=[BLUE if x > level / 2 else RED for x in p], width=0.75)
    ax.axhline(level, color=INK, ls="--", lw=1.2)
    ax.text(len(p) - 0.4, level * 1.04, what, ha="right", va="bottom")
    ax.set_xticks(range(len(p)), names, rotation=60, ha="right", rotation_mode="anchor")
    ax.set(ylabel="probability", xlim=(-0.6, len(p) - 0.4))
    ax.tick_params(axis="x", length=0)
    return fig, f"probability of the {len(p)} likeliest next tokens, and a line for {what}"


@_styled
def filters(names: list[str], panels: dict[str, tuple[list[float], list[float]]]):
    """For each panel the probabilities of the same tokens before (grey) and after (blue)."""
    fig, axes = _figure(2.3 * len(panels), 0.7 + 0.2 * len(names), len(panels), sharey=True)
    rows = range(len(names))
    for ax, (title, (before, after)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        ax.barh(rows, before, color="#c9c9c9", height=0.85)
        ax.barh(rows, after, color=BLUE, height=0.45)
        ax.set(title=title, xticks=[0, 0.2, 0.4], xlim=(0, 0.52), xlabel="probability")
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes = np.atleast_1d(axes)
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    return fig, f"next-token probabilities before and after: {', '.join(panels)}"


@_styled
def by_temperature(shares: dict[float, float], level: float):
    """The share of stories that the grammar can read, by the temperature they were drawn at."""
    fig, ax = _figure(6.4, 2.6)
    ax.axhline(level, color=SOFT, ls="--", lw=1.2)
    ax.text(max(shares), level, "the grammar's own", ha="right", va="bottom", color=SOFT)
    drawn = {T: share for T, share in shares.items() if T > 0}
    ax.plot(list(drawn), list(drawn.values()), "o-", color=BLUE)
    if 0.0 in shares:  # one story, whatever the seed: no share
        ax.plot([0], [shares[0.0]], "o", color=BLUE, mfc="white")
        ax.annotate(" greedy: one story", (0, shares[0.0]), va="bottom", fontsize=9)
    ax.set(xlabel="temperature", ylabel="stories read", ylim=(-0.03, 1.12))
    ax.set_yticks([0, 0.5, 1], ["none", "half", "all"])
    ax.grid(axis="y")
    return fig, f"share of stories that the grammar can read at {len(shares)} temperatures"


@_styled
def token_times(lines: dict[str, tuple[list[int], list[float]]]):
    """Milliseconds for one more token against how many stand before it."""
    fig, ax = _figure(6.4, 2.7)
    for color, (name, (x, seconds)) in zip((RED, BLUE), lines.items(), strict=False):
        ax.plot(x, [1000 * s for s in seconds], color=color, label=name, lw=1.4)
    ax.set(xlabel="tokens before it", ylabel="ms per token", ylim=(0, None))
    ax.grid(axis="y")
    ax.legend()
    return fig, f"time of one more token against those before it: {', '.join(lines)}"


@_styled
def by_batch(seconds: dict[int, float]):
    """Time of one decode step against the conversations it serves, beside what it would be if
    they took turns."""
    fig, ax = _figure(6.4, 2.7)
    names, times = [str(B) for B in seconds], [1000 * s for s in seconds.values()]
    turns = [B * times[0] for B in seconds]
    ax.bar(names, turns, color="#dddddd", width=0.7, label="one after another (computed)")
    ax.bar(names, times, color=BLUE, width=0.45, label="together (measured)")
    ax.set(xlabel="conversations in the batch", ylabel="ms per step")
    ax.legend()
    return fig, f"time of a decode step for {', '.join(names)} conversations at once"


def likelihood(tokenizer, ids: list[int], logprobs: list[float]) -> None:
    """A text whose tokens are the darker the less likely the model found them."""
    marked = ""
    for i, logprob in zip(ids, logprobs, strict=True):
        text = html.escape(tokenizer.token_bytes(i).decode(errors="replace"))
        alpha = min(1.0, max(0.0, -logprob / 6))
        marked += f'<span style="background:rgba(230,159,0,{alpha:.2f})">{text}</span>'
    total = -sum(logprobs)
    _coloured(
        [marked.replace("\n", "<br>")], f"{len(ids)} tokens and their {total:.0f} nats of surprise"
    )


# -- the README's ---------------------------------------------------------------------------------


def results(bugs: int, caught: dict[str, int], log: list[dict]):
    """How many of the planted bugs each check catches; how near the floor a model came."""
    fig, (left, right) = _figure(9.4, 2.7, 2)
    colors = [SOFT] * (len(caught) - 1) + [BLUE]
    named = {"count": "parameter count", "one argmax": "one right answer", "ladder": "our ladder"}
    names = [named.get(name, name) for name in caught]
    bars = left.barh(names, list(caught.values()), color=colors, height=0.7)
    left.bar_label(bars, padding=4)
    left.invert_yaxis()
    left.set(title=f"{bugs} bugs planted: caught by", xticks=[], xlim=(0, 1.15 * bugs))
    left.spines["bottom"].set_visible(False)
    left.tick_params(length=0)
    held_out = [row for row in log if "val_loss" in row]
    last = held_out[-1]
    floor = last["val_loss"] / (1 + last["val_over_floor"])
    for rows, key, style, color, name in (
        (log, "loss", "-", SKY, "training"),
        (held_out, "val_loss", "o-", BLUE, "held out"),
    ):
        points = [(row["step"], row[key]) for row in rows if key in row]
        right.plot(*zip(*points, strict=True), style, color=color, ms=3.5, label=name)
    right.axhline(floor, color=RED, lw=1.4, ls="--", label="the floor: the corpus' entropy")
    right.set(title="a loss that cannot be beaten", xlabel="step", ylabel="nats per token")
    right.set(ylim=(0, 1.5), xlim=(0, None), xticks=range(0, log[-1]["step"], 2000))
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.legend()
    found = ", ".join(f"{n} {k}" for n, k in zip(names, caught.values(), strict=True))
    return fig, (
        f"Left, how many of {bugs} planted bugs each check catches: {found}. Right, training and "
        f"held-out loss come down to {last['val_over_floor']:.1%} above the floor of {floor:.2f} "
        "nats per token."
    )


def results_from(root: Path) -> tuple[bytes, str]:
    """The README's picture and its alt text, from the stored results of `python -m smol.bench`."""
    measured = json.loads((root / "assets/results/parity.json").read_text())["parity"]
    lines = (root / "assets/smol-stories/metrics.jsonl").read_text().splitlines()
    png, alt, _ = _png(results, measured["bugs"], measured["caught"], list(map(json.loads, lines)))
    return png, alt


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    picture, alt = results_from(root)
    (root / "assets/results.png").write_bytes(picture)
    print(f"assets/results.png: {alt}")
