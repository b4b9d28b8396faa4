"""What every chart has in common: quiet axes, text beside a point, and how ratios are told."""

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards.rows import is_vllm
from dashboards.svg import GRID, INK

OCTAVE_TICKS = tuple(2.0**n for n in range(-12, 13))


def make_axes(width: int, height: int, left: int, bottom: int) -> tuple[Figure, Axes]:
    """A figure of width x height pixels with margins in pixels, quiet axes and a grid behind the data."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    inner_width, inner_height = width - left - 14, height - bottom - 12
    axes = figure.add_axes((left / width, bottom / height, inner_width / width, inner_height / height))
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=11, color=GRID)
    axes.xaxis.label.set(color=INK, size=12)
    axes.yaxis.label.set(color=INK, size=12)
    return figure, axes


def line_style(provider: str) -> str:
    """vLLM's curves are dashed."""
    return "--" if is_vllm(provider) else "-"


def write_beside(
    axes: Axes, text: str, point: tuple[float, float], colour: str, anchor: Literal["left", "right"], gid: str
) -> None:
    """Text clear of the marker at a point; its `anchor` end is the one next to the marker."""
    offset = (9, 0) if anchor == "left" else (-9, 0)
    written = axes.annotate(text, point, offset, textcoords="offset points", color=colour, ha=anchor, va="center")
    written.set(size=11, gid=gid)


def tell_octave(ratio: float) -> str:
    """A power of two as it is: 1/64 has no short decimal."""
    return f"{ratio:g}\N{MULTIPLICATION SIGN}" if ratio >= 1 else f"1/{1 / ratio:g}\N{MULTIPLICATION SIGN}"
