"""Figures that several notebooks show."""

import numpy as np
from matplotlib.patches import Circle, FancyBboxPatch

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    HEAT,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SOFT,
    arrow,
    blank,
    box,
    figure,
    styled,
)

__all__ = ["architecture", "map_strip", "matrices", "speedups"]

SERIES = ("Inspect", "Build", "Parity", "Tokenizer", "Train", "Count", "Generate", "Fast",
          "Fine-tune")  # fmt: skip


@styled
def map_strip(here: int):
    """The series as a line of stations, with the reader at notebook number `here`."""
    fig, ax = figure(8.6, 0.85)
    blank(ax, (0.4, len(SERIES) + 0.6), (-0.75, 0.55))
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


@styled
def architecture(config):
    """The whole model on the left, one block of it on the right, with the shapes between."""
    fig, ax = figure(8.6, 6.45)
    blank(ax, (0, 13.6), (-0.25, 10))
    _whole_model(ax, config, x=2.1)
    stream = 6.1
    _one_block(ax, stream)
    _attention(ax, config, stream)
    _mlp(ax, config, stream)
    said = (
        "causal: no token sees a later one.  (B, T): B texts of T tokens.  "
        f"hd = {config.head_dim}: how many numbers a head has."
    )
    ax.text(13.4, 0.05, said, ha="right", va="center", fontsize=8.5)
    alt = (
        f"the model: embedding, {config.num_hidden_layers} blocks, norm, head; and one block: "
        "norm, attention, add, norm, MLP, add"
    )
    return fig, alt


def _whole_model(ax, config, x: float) -> None:
    """From token ids to logits, bottom to top, its boxes centred at `x`."""
    D, V = config.hidden_size, config.vocab_size
    ax.text(x, 0.35, "token ids  (B, T)", ha="center", fontsize=9.5)
    steps = [
        (1.5, "embed_tokens", BLUE),
        (6.9, "norm", GREEN),
        (8.1, "lm_head", BLUE),
    ]
    for y, text, color in steps:
        box(ax, x, y, 2.5, 0.66, text, color)
    for i in range(3, 0, -1):  # a pile of blocks
        box(ax, x + 0.1 * i, 4.1 + 0.1 * i, 2.5, 1.9, "", SOFT)
    box(ax, x, 4.1, 2.5, 1.9, f"layers\n{config.num_hidden_layers} × Block", RED)
    for a, b in ((0.62, 1.17), (1.83, 3.15), (5.35, 6.57), (7.23, 7.77), (8.43, 9.05)):
        arrow(ax, (x, a), (x, b))
    for y, words in ((0.8, "looks up each token's row"), (6.2, "to one size")):
        ax.text(x + 0.15, y, words, fontsize=8, color=SOFT, va="center", style="italic")
    ax.text(x + 0.15, 8.72, "scores each token", fontsize=8, color=SOFT, style="italic")
    ax.text(x, 9.3, f"logits  (B, T, {V:,})", ha="center", fontsize=9.5)
    ax.text(x + 0.15, 2.35, f"(B, T, {D})", fontsize=8.5, color=SOFT)
    ax.text(x + 0.15, 5.75, f"(B, T, {D})", fontsize=8.5, color=SOFT)
    if config.tie_word_embeddings:
        side = x - 1.55
        ax.plot(
            [x - 1.25, side, side, x - 1.25], [1.5, 1.5, 8.1, 8.1], color=BLUE, lw=1.2, ls="--"
        )
        ax.text(side - 0.12, 4.8, "one matrix (tied)", rotation=90, va="center", ha="right")


def _one_block(ax, stream: float) -> None:
    """One block, blown up: its frame and the residual stream at x = `stream`, with two sums."""
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
    ax.plot([stream, stream], [0.75, 9.2], color=INK, lw=2.6, solid_capstyle="round")
    arrow(ax, (stream, 9.0), (stream, 9.35), INK)
    ax.text(
        stream - 0.2, 2.9, "residual stream", rotation=90, ha="right", va="center", fontsize=8.5
    )
    for y in (4.75, 8.65):
        ax.add_patch(Circle((stream, y), 0.2, facecolor="white", edgecolor=INK, lw=1.4, zorder=5))
        ax.text(stream, y - 0.01, "+", ha="center", va="center", fontsize=11, zorder=6)
        arrow(ax, (9.7, y), (stream + 0.22, y))
    for x, y, words in (  # what each part is for
        (9.95, 1.25, "norm: to one size"),
        (10.8, 4.27, "what has been read"),
        (10.65, 5.35, "norm: to one size"),
        (9.9, 7.5, "how far each pattern fits"),
        (10.9, 8.0, "what to write for each"),
    ):
        ax.text(x, y, words, fontsize=8, color=SOFT, va="center", style="italic")


def _attention(ax, config, stream: float) -> None:
    """What the block's lower half adds to the stream."""
    D, hd = config.hidden_size, config.head_dim
    H, K = config.num_attention_heads, config.num_key_value_heads
    arrow(ax, (stream, 1.25), (7.4, 1.25))
    box(ax, 8.6, 1.25, 2.4, 0.58, "input_layernorm", GREEN, 8.5)
    for px, name, heads in (
        (7.65, "q_proj: asks", H),
        (9.7, "k_proj: label", K),
        (11.75, "v_proj: content", K),
    ):
        arrow(ax, (8.6, 1.54), (px, 1.96))
        box(ax, px, 2.25, 1.75, 0.58, f"{name}\n{D} → {heads} × {hd}", BLUE, 7.5)
        arrow(ax, (px, 2.54), (px, 3.4 if name[0] == "v" else 2.79))
    for px in (7.65, 9.7):
        box(ax, px, 2.97, 0.9, 0.36, "RoPE", ORANGE, 8)
        arrow(ax, (px, 3.15), (px, 3.4))
    look = {"ha": "center", "va": "center", "style": "italic"}
    ax.text(8.675, 2.97, "marks\nthe place", fontsize=8, color=SOFT, **look)
    box(
        ax,
        9.7,
        3.61,
        5.85,
        0.42,
        "compare q with k, mix v:  causal softmax(q kᵀ / √hd) v",
        PURPLE,
        8,
    )
    arrow(ax, (9.7, 3.82), (9.7, 4.07))
    box(ax, 9.7, 4.27, 1.9, 0.4, f"o_proj  {D} → {D}", BLUE, 7.5)
    ax.plot([9.7, 9.7], [4.47, 4.75], color=SOFT, lw=1.3)


def _mlp(ax, config, stream: float) -> None:
    """What the block's upper half adds to the stream."""
    D, F = config.hidden_size, config.intermediate_size
    arrow(ax, (stream, 5.35), (7.2, 5.35))
    box(ax, 8.85, 5.35, 3.3, 0.58, "post_attention_layernorm", GREEN, 8.5)
    for px, name in ((8.2, "gate_proj"), (11.2, "up_proj")):
        arrow(ax, (9.1, 5.64), (px, 6.1))
        box(ax, px, 6.4, 2.1, 0.58, f"{name}\n{D} → {F:,}", BLUE, 7.5)
    box(ax, 8.2, 7.12, 1.1, 0.4, "SiLU", ORANGE, 8)
    arrow(ax, (8.2, 6.69), (8.2, 6.92))
    ax.add_patch(Circle((9.7, 7.12), 0.2, facecolor="white", edgecolor=INK, lw=1.4))
    ax.text(9.7, 7.11, "×", ha="center", va="center", fontsize=11)
    arrow(ax, (8.75, 7.12), (9.5, 7.12))
    ax.plot([11.2, 11.2], [6.69, 7.12], color=SOFT, lw=1.3)
    arrow(ax, (11.2, 7.12), (9.9, 7.12))
    arrow(ax, (9.7, 7.32), (9.7, 7.72))
    box(ax, 9.7, 8.0, 2.1, 0.56, f"down_proj\n{F:,} → {D}", BLUE, 7.5)
    ax.plot([9.7, 9.7], [8.28, 8.65], color=SOFT, lw=1.3)


@styled
def matrices(panels: dict[str, np.ndarray]):
    """Maps (masks or attention weights, rows = queries) side by side: dark is much, or may."""
    fig, axes = figure(2.75 * len(panels), 2.9, len(panels), squeeze=False)
    for ax, (title, matrix) in zip(axes[0], panels.items(), strict=True):
        matrix = np.array(matrix.tolist())  # NumPy warns when it is given a tensor itself
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


@styled
def speedups(
    contestants: list[dict],
    machine: str,
    what: str = "training speed",
    base: str = "transformers' in fp32",
):
    """How many times as fast as the first one each contestant of `smol.bench` was."""
    fig, ax = figure(7.6, 0.4 + 0.34 * len(contestants))
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
