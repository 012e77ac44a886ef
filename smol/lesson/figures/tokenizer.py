"""The figures of notebook 4: text in its tokens, a tokenizer at work, its compression."""

import math

from smol.lesson.figures.style import (
    BLUE,
    ORANGE,
    PALETTE,
    SOFT,
    blank,
    box,
    figure,
    has_glyphs,
    shade,
    styled,
    written,
)

__all__ = ["compression", "merge_tree", "pipeline", "surprise", "tokens"]

TINTS = ("#cfe3f1", "#fbe8c0", "#c9ebdf", "#f7d5c4", "#f0dfea")


def _visible(token: bytes) -> str:
    """A token as it can be shown: white space as signs, bytes that cannot be shown as hex."""
    try:
        text = token.decode().replace(" ", "·").replace("\n", "↵").replace("\t", "→")
    except UnicodeDecodeError:
        return token.hex()
    return text if has_glyphs(text) else token.hex()


@styled
def tokens(tokenizer, texts: list[str]):
    """Texts cut into tokens, each in a colour; "·" is a space, "e4" a byte of a character."""
    pieces, said = [], []
    for text in texts:
        shown = [_visible(tokenizer.token_bytes(i)) for i in tokenizer.encode(text)]
        pieces += [(part, TINTS[k % len(TINTS)], False) for k, part in enumerate(shown)]
        pieces.append((f"  {len(shown)}" + ("\n" if text is not texts[-1] else ""), None, False))
        said.append(f"{len(shown)} tokens: {'|'.join(shown)}")
    return written(pieces), "; ".join(said)


@styled(dpi=100)  # text: legible so, in half the bytes
def surprise(text: str, choices: list):
    """A story in which what was chosen is coloured by how surprising it was, in nats."""
    spans = {}  # several may be made at one place: which rule, then which name
    for choice in choices:
        end, nats = spans.get(choice.start, (0, 0.0))
        spans[choice.start] = max(end, choice.end), nats - math.log(choice.probability)
    pieces, at = [], 0
    for start, (end, nats) in sorted(spans.items()):
        if start >= at:  # else it stands within the last one's first word
            back = shade(ORANGE, min(1.0, nats / 6))
            pieces += [(text[at:start], None, False), (text[start:end], back, False)]
            at = end
    total = sum(nats for _, nats in spans.values())
    alt = f"where a story's {total:.1f} nats of surprise sit: {len(spans)} places"
    return written([*pieces, (text[at:], None, False)]), alt


@styled
def pipeline(tokenizer, text: str):
    """One text on its way to ids, a row each: text, pieces, bytes, tokens, ids."""
    pieces = [piece.encode() for piece in tokenizer.pieces(text)]
    ids = tokenizer.encode(text)
    parts = [tokenizer.token_bytes(i) for i in ids]
    total = len(text.encode())
    fig, ax = figure(8.6, 3.5)
    blank(ax, (-0.16 * total, total), (-0.6, 4.6))
    for y, name in enumerate(("ids", "tokens", "bytes", "pieces", "text")):
        ax.text(-0.5, y, name, ha="right", va="center", fontsize=9, color=SOFT)

    def row(y, items, labels, colors, size):
        x = 0
        for k, (item, label) in enumerate(zip(items, labels, strict=True)):
            box(
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

    letters = [letter.encode() for letter in text]
    row(4, letters, [_visible(letter) for letter in letters], ["white"], 11)
    row(3, pieces, [_visible(piece) for piece in pieces], [SOFT], 10)
    single = [bytes([b]) for b in text.encode()]
    row(2, single, [b.hex() for b in single], ["#b8b8b8"], 7.5)
    row(1, parts, [_visible(part) for part in parts], PALETTE, 10)
    row(0, parts, [str(i) for i in ids], PALETTE, 9)
    return fig, (
        f"{text!r} becomes {len(pieces)} pieces, {total} bytes and {len(ids)} tokens: "
        f"{'|'.join(_visible(part) for part in parts)}"
    )


@styled
def merge_tree(tokenizer, word: str):
    """How one token was put together: bytes at the bottom, and over each merge its rank."""
    made = {a + b: (rank, a, b) for rank, (a, b) in reversed([*enumerate(tokenizer.merges)])}
    token = word.encode()
    fig, ax = figure(8.6, 3.4)
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
    blank(ax, (-0.7, len(token) - 0.3), (-0.5, height + 0.6))
    order = ", ".join(f"{_visible(places[rank])} ({rank + 1})" for rank in sorted(places))
    return fig, f"the merges that make {_visible(token)}, with their ranks: {order}"


@styled
def compression(lines: dict[str, tuple[list[int], list[float]]]):
    """Bytes a token against the size of the vocabulary, for several texts."""
    fig, ax = figure(7.2, 3.0)
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
