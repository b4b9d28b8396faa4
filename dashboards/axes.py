"""Two axes on a paper: quiet grids and ticks, values to pixels, bars and words beside points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from dashboards.paper import Paper
from dashboards.rows import is_vllm
from dashboards.svg import INK, SURFACE, Mark
from tasks.judgement.histories import Floats

OCTAVE_TICKS = tuple(2.0**n for n in range(-12, 13))
RIGHT, TOP = 14, 12
"""Margins in pixels."""
BAR_HEIGHT = 16
CASE_GAP = 10
Tick = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Axis:
    """What the pixels of one direction stand for."""

    low: float
    high: float
    start: float
    """Pixel of low, from the left or from below."""
    length: float
    is_log: bool

    def place(self, values: ArrayLike) -> Floats:
        """Pixels of values."""
        found, low, high = np.asarray(values, dtype=np.float64), self.low, self.high
        share = np.log(found / low) / math.log(high / low) if self.is_log else (found - low) / (high - low)
        return np.asarray(self.start + self.length * share)

    def holds(self, value: float) -> bool:
        """Whether it is between the ends."""
        return self.low <= value <= self.high


def widen(values: Sequence[float], share: float, least: float) -> tuple[float, float]:
    """Ends of a logarithmic axis with a share of room beyond all values, `least` times apart at least."""
    low, high = min(values), max(values)
    room = max((high / low) ** share, math.sqrt(max(least / (high / low), 1.0)))
    return low / room, high * room


def draw_x(paper: Paper, axis: Axis, bottom: float, ticks: Sequence[Tick], label: str) -> None:
    """Ticks under a plot, its foot, and what they are of."""
    xs = [float(axis.place(value)) for value, _ in ticks]
    foot = (axis.start, bottom, axis.start + axis.length, bottom)
    paper.rules([foot, *((x, bottom, x, paper.height - TOP) for x in xs)])
    for x, (_, text) in zip(xs, ticks, strict=True):
        paper.write(x, bottom - 13, text, "center")
    paper.write(axis.start + axis.length / 2, 10, label, "center")


def draw_y(paper: Paper, axis: Axis, left: float, ticks: Sequence[Tick], label: str) -> None:
    """Ticks beside a plot, and above it what they are of."""
    ys = [float(axis.place(value)) for value, _ in ticks]
    paper.rules([(left, y, paper.width - RIGHT, y) for y in ys])
    for y, (_, text) in zip(ys, ticks, strict=True):
        paper.write(left - 6, y, text, "right")
    paper.write(2, paper.height - 6, label)


def round_decades(low: float, high: float) -> list[Tick]:
    """Ticks at 1, 2 and 5 per decade on short axes, at decades on long ones, in plain figures."""
    steps = (1, 2, 5) if high / low < 500 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = (step * 10.0**decade for decade in range(first, last + 1) for step in steps)
    return [(value, f"{value:g}") for value in values if low <= value <= high]


def draw_bar(
    paper: Paper, mark: Mark, start: float, end: float, y: float, gid: str, word: str, side: Literal["left", "right"]
) -> None:
    """A bar between two pixels with the provider's marker and a word at its end."""
    half = 0.36 * BAR_HEIGHT
    paper.boxes([(start, y - half, end - start, 2 * half)], mark.colour, 0.55, f"{gid}-body")
    draw_dot(paper, mark, end, y, gid)
    write_beside(paper, word, end, y, side, INK, f"{gid}-word")


def draw_dot(paper: Paper, mark: Mark, x: float, y: float, gid: str) -> None:
    """A provider's marker."""
    paper.line([x], [y], mark.colour, gid, marker=mark.marker, markersize=8, markeredgecolor=SURFACE)


def write_beside(
    paper: Paper, text: str, x: float, y: float, side: Literal["left", "right"], colour: str, gid: str
) -> None:
    """Text clear of the marker at a point; its `side` end is the one next to the marker."""
    paper.write(x + (9 if side == "left" else -9), y, text, side, colour, gid)


def line_style(provider: str) -> object:
    """vLLM's curves are dashed."""
    return (0, (4, 2)) if is_vllm(provider) else "-"


def tell_octave(ratio: float) -> str:
    """A power of two as it is: 1/64 has no short decimal."""
    return f"{ratio:g}\N{MULTIPLICATION SIGN}" if ratio >= 1 else f"1/{1 / ratio:g}\N{MULTIPLICATION SIGN}"
