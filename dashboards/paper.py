"""A figure that is drawn in pixels, without matplotlib's axes: they take ten times as long as what they hold."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike

from dashboards.svg import GRID, INK, TEXT_SIZE, Pen
from tasks.judgement.histories import Floats

MIDDLE = 4
"""Pixels from the middle of a word to its foot."""


class Word(Artist):
    """A text on one line: an SVG aligns it itself; to measure it would take longer than all the rest."""

    def __init__(self, x: float, y: float, text: str, align: Literal["left", "center", "right"], colour: str) -> None:
        super().__init__()
        self.x, self.y, self.text, self.align = x, y, text, align
        self._colour: ColorType = colour

    def get_color(self) -> ColorType:
        return self._colour

    def set_color(self, colour: ColorType) -> None:
        self._colour = colour

    def draw(self, renderer: RendererBase) -> None:
        renderer.open_group("text", self.get_gid())
        if isinstance(renderer, Pen):
            renderer.write(self.x, self.y, self.text, self.align, str(self._colour))
        else:  # a picture: nobody else aligns the word
            look: dict[str, Any] = {"color": self._colour, "ha": self.align, "fontsize": TEXT_SIZE}
            text = Text(self.x, self.y, self.text, va="baseline", **look)
            text.set_transform(self.get_transform())
            if figure := self.get_figure():
                text.set_figure(figure)
            text.draw(renderer)
        renderer.close_group("text")


class Paper:
    """So many pixels, counted from the lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        self.figure.patch.set_visible(False)
        self._scale = Affine2D().scale(1 / 72) + self.figure.dpi_scale_trans

    def line(self, xs: ArrayLike, ys: ArrayLike, colour: str = INK, gid: str = "", **look: Any) -> None:
        """A line through points; what is not a number is a gap."""
        line = Line2D(
            np.asarray(xs), np.asarray(ys), color=colour, **{"linewidth": 1.3, "solid_capstyle": "butt", **look}
        )
        self._add(line, gid)

    def rules(self, ends: Sequence[tuple[float, float, float, float]]) -> None:
        """The lines of a grid: left, lower, right and upper end of each."""
        gap = (np.nan, np.nan)
        points = np.array([place for x, y, to_x, to_y in ends for place in ((x, y), (to_x, to_y), gap)])
        if len(points):
            xs, ys = points.T
            self.line(xs, ys, GRID, linewidth=0.8)

    def band(self, xs: Floats, low: Floats, high: Floats, colour: str, gid: str = "") -> None:
        """The area between two lines, to the pixel: it only shades. What is not a number is a gap."""
        known = np.flatnonzero(np.isfinite(low))
        parts = [part for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(part) > 1]
        if not parts:
            return
        outlines, codes = [], list[Any]()
        for part in parts:
            sides = [np.column_stack([xs[part], low[part]]), np.column_stack([xs[part], high[part]])[::-1]]
            outlines += [*sides, sides[0][:1]]
            codes += [Path.MOVETO, *[Path.LINETO] * (2 * len(part) - 1), Path.CLOSEPOLY]
        path = Path(np.concatenate(outlines).round(), codes)
        self._add(PathPatch(path, facecolor=colour, alpha=0.2, linewidth=0), gid)

    def boxes(
        self, boxes: Sequence[tuple[float, float, float, float]], colour: str, alpha: float, gid: str = ""
    ) -> None:
        """Filled rectangles: left, bottom, width and height of each."""
        outlines = [
            [(left, bottom), (left + width, bottom), (left + width, bottom + height), (left, bottom + height), (0, 0)]
            for left, bottom, width, height in boxes
        ]
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(boxes)
        path = Path(np.concatenate(outlines), codes)
        self._add(PathPatch(path, facecolor=colour, alpha=alpha, linewidth=0), gid)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        align: Literal["left", "center", "right"] = "left",
        colour: str = INK,
        gid: str = "",
    ) -> None:
        """A word whose `align` end is at x and whose middle is at y."""
        self._add(Word(x, y - MIDDLE, text, align, colour), gid)

    def _add(self, artist: Artist, gid: str) -> None:
        artist.set_transform(self._scale)
        if gid:
            artist.set_gid(gid)
        self.figure.add_artist(artist)


class Panel:
    """A part of a paper with a scale of its own, a grid and its ticks at the left."""

    def __init__(self, paper: Paper, left: float, bottom: float, width: float, height: float) -> None:
        self.paper = paper
        self.left, self.bottom, self.width, self.height = left, bottom, width, height
        self.low, self.high = 0.0, 1.0

    def scale(self, low: float, high: float, ticks: Sequence[tuple[float, str]]) -> None:
        """Choose what the lower and the upper edge stand for, and draw the grid."""
        self.low, self.high = low, high
        ys = self.y(np.array([value for value, _ in ticks])).tolist()
        self.paper.rules([(self.left, y, self.left + self.width, y) for y in ys])
        for y, (_, text) in zip(ys, ticks, strict=True):
            self.paper.write(self.left - 6, y, text, "right")

    def x(self, places: Floats) -> Floats:
        """Pixels of places from 0 to 1."""
        return self.left + self.width * places

    def y(self, values: Floats) -> Floats:
        """Pixels of values, to half of one; what is beyond an edge is drawn at it."""
        share = (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low)
        return np.asarray(np.round(2 * (self.bottom + self.height * share)) / 2)

    def title(self, text: str) -> None:
        """What the panel shows, above it."""
        self.paper.write(self.left, self.bottom + self.height + 11, text)


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between two, at most so many intervals."""
    return [float(tick) for tick in MaxNLocator(most).tick_values(low, high) if low <= tick <= high]
