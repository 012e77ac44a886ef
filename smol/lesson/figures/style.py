"""The one style of all figures, and the parts that several are drawn from.

Opaque white, so that a figure reads the same in a light and in a dark notebook; the palette of
Okabe and Ito, which colour-blind readers can tell apart; and for each figure a sentence that says
what it shows: its alt text, and the text/plain output that the tests compare.
"""

import base64
import functools
import html
import io

from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

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


def coloured(rows: list[str], alt: str) -> None:
    """Displays rows of HTML on white, so that they read the same in a dark notebook."""
    from IPython.display import display

    page = f"background:white;color:{INK};padding:8px;line-height:1.9;font-size:14px"
    body = "".join(f"<div>{row}</div>" for row in rows)
    page = f'<div style="{page}" role="img" aria-label="{html.escape(alt)}">{body}</div>'
    display({"text/html": page, "text/plain": f"Figure: {alt}"}, raw=True)
