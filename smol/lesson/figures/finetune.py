"""The figures of notebook 9's first half: what the mistakes of fine-tuning cost."""

from smol.lesson.figures.style import BLUE, GREEN, INK, figure, styled

__all__ = ["traps"]


@styled(dpi=110)
def traps(rows: dict[str, dict]):
    """Right answers by mistake, as `python -m smol.bench traps` stores its rows: their mean as a
    bar, each seed as a point. The first is the run without one, in green."""
    shares = {name: _right(row["runs"]) for name, row in rows.items() if _right(row["runs"])}
    fig, ax = figure(8.8, 0.3 * len(shares) + 0.9)
    told = []
    for y, (name, points) in enumerate(shares.items()):
        mean = sum(points) / len(points)
        ax.barh(y, mean, color=BLUE if y else GREEN, height=0.66)
        ax.plot(points, [y] * len(points), "o", color=INK, ms=4, mec="white", mew=0.6, zorder=3)
        ended = [run["ended"] for run in rows[name]["runs"]]
        ended = 100 * sum(ended) / len(ended)
        said = f"  {mean:.0f} %" + (f"; {ended:.0f} % of the replies end" if ended < 90 else "")
        ax.annotate(said, (max(points), y), va="center", fontsize=9)
        told.append(f"{name} {mean:.0f} %")
    ax.set_yticks(range(len(shares)), [rows[name]["says"] for name in shares])
    ax.set(xlabel="right answers of all questions, %", xlim=(0, 108))
    ax.set_ylim(len(shares) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    return fig, f"right answers by mistake, the mean of all seeds: {', '.join(told)}"


def _right(runs: list[dict]) -> list[float]:
    """Per cent of all questions, for each run in which some were asked."""
    counts = [[run[k] for k in ("plain", "open", "long") if k in run] for run in runs]
    return [100 * sum(c[0] for c in run) / sum(c[1] for c in run) for run in counts if run]
