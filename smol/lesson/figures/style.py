"""The one style of all figures, and the parts that several are drawn from.

Opaque white, so that a figure reads the same in a light and in a dark notebook; the palette of
Okabe and Ito, which colour-blind readers can tell apart; and for each figure a sentence that says
what it shows: its alt text, and the text/plain output that the tests compare.
"""

import base64
import functools
import io
import re

from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import FancyBboxPatch, Rectangle

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


def as_png(draw, *args, dpi: int = DPI, **kwargs) -> tuple[bytes, str, tuple[int, int]]:
    """What `draw` draws, in the one style; its alt text; its width and height on a page."""
    with rc_context(STYLE):
        fig, alt = draw(*args, **kwargs)
        png = io.BytesIO()
        fig.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    width, height = (int(96 * size) for size in fig.get_size_inches())
    return _smaller(png), alt, (width, height)


def styled(draw=None, *, dpi: int = DPI):
    """Makes of `draw` a function that displays what it draws, with its alt text.

    A large picture with little in it but text keeps its bytes down with a smaller `dpi`.
    """
    if draw is None:
        return functools.partial(styled, dpi=dpi)

    def drawn(*args, **kwargs) -> None:
        from IPython.display import display

        png, alt, (width, height) = as_png(draw, *args, dpi=dpi, **kwargs)
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


def figure(width: float, height: float, columns: int = 1, rows: int = 1, **kwargs):
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # inches: nothing touches the edge
    return fig, fig.subplots(rows, columns, **kwargs)


def blank(ax, xlim, ylim) -> None:
    ax.set(xlim=xlim, ylim=ylim)
    ax.axis("off")


def box(ax, x, y, width, height, text, color=BLUE, size=9.5, filled=False):
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


def arrow(ax, start, end, color=SOFT):
    look = {"arrowstyle": "-|>", "color": color, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=start, arrowprops=look)


def written(pieces, columns: int = 84):
    """A figure of text: `pieces` are (text, background or None, underlined or not).

    A PNG and no HTML, because GitHub strips the colours of styled HTML. A "\n" ends a line; a word
    that does not fit goes to the next one, without the space that it begins with. The rest of a
    word, as a token or a comma may be one, has a margin of eight columns to stay with it.
    """
    rows, placed = lines_of(pieces, columns)
    fig, ax = figure((columns + 8) * 0.0755 + 0.16, rows * 0.235 + 0.16)  # inches, at 9 points
    write(ax, placed, columns + 8, rows)
    return fig


def lines_of(pieces, columns: int) -> tuple[int, list[tuple]]:
    """How many lines `pieces` make; for each word (column, row, text, background, underlined)."""
    placed, x, y = [], 0, 0
    for text, back, under in pieces:
        for word in re.findall(r"\n| *[^ \n]+| +", text):
            if word == "\n" or (x and x + len(word) > columns + 8 * (word[0] != " ")):
                x, y, word = 0, y + 1, word.lstrip(" \n")
            for start in range(0, len(word), columns + 8):  # a word longer than a line is cut
                x, y = (0, y + 1) if start else (x, y)
                placed.append((x, y, word[start : start + columns + 8], back, under))
                x += len(placed[-1][2])
    return y + 1, placed


def write(ax, placed: list[tuple], columns: int, rows: int) -> None:
    """Writes what `lines_of` placed into a field of so many columns and rows."""
    blank(ax, (0, columns), (rows, 0))
    look = {"family": "monospace", "fontsize": 9, "va": "center", "parse_math": False}
    for x, y, text, back, under in placed:
        if back:
            ax.add_patch(Rectangle((x, y + 0.08), len(text), 0.84, color=back, lw=0))
        if under:
            ax.plot([x, x + len(text)], [y + 0.94, y + 0.94], color=INK, lw=1.4)
        ax.text(x, y + 0.5, text, color=INK, **look)


def has_glyphs(text: str) -> bool:
    """Whether the font of `written` can show `text`: DejaVu has no emoji and no Chinese."""
    font = get_font(findfont("DejaVu Sans Mono"))
    return all(font.get_char_index(ord(character)) for character in text)


def shade(color: str, strength: float) -> str:
    """`color` mixed with white: 0 is white, 1 is the color."""
    return to_hex([1 - strength * (1 - part) for part in to_rgb(color)])
