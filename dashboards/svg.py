"""A matplotlib figure -> an SVG that lives inside an HTML page: themed by CSS, unique ids, a title on every point."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Transform
from matplotlib.typing import ColorType

from dashboards.paths import tell_outline, tell_path

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<")
"""One more than there are colours, so that colour and marker together repeat after 90 slots only."""
NUM_COLOURS = 9

INK = "#010200"
GRID = "#010201"
SURFACE = "#010202"
BAD = "#010203"
GOOD = "#010204"
THEME = {INK: "currentColor", GRID: "var(--grid)", SURFACE: "var(--surface)", BAD: "var(--bad)", GOOD: "var(--good)"}
THEME |= {f"#0103{slot:02x}": f"var(--series-{slot})" for slot in range(NUM_COLOURS)}
INK_RGB: tuple[float, ...] = to_rgb(INK)
THEME_OF_RGB: dict[tuple[float, ...], str] = {to_rgb(stand_in): variable for stand_in, variable in THEME.items()}
TEXT_SIZE = 11
ANCHORS = {"center": "middle", "right": "end"}


@dataclass(frozen=True, slots=True)
class Mark:
    """How one provider looks in every chart."""

    slot: int

    @property
    def colour(self) -> str:
        """A stand-in that becomes a CSS variable in the SVG."""
        return f"#0103{self.slot % NUM_COLOURS:02x}"

    @property
    def marker(self) -> str:
        """A matplotlib marker."""
        return MARKERS[self.slot % len(MARKERS)]


@dataclass(frozen=True, slots=True)
class Tag:
    """What an artist of a chart says about itself; it is found by its gid."""

    provider: str
    tips: tuple[str, ...] = ()
    """One line for each of its points; () for what only surrounds them."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart that can become markup and a picture."""

    figure: Figure
    chart_id: str
    """Unique in its page."""
    label: str
    """What it shows, for those who cannot see it."""
    tags: Mapping[str, Tag] = field(default_factory=dict)

    @property
    def svg(self) -> str:
        """An element for an HTML page."""
        return finish_svg(self.figure, self.chart_id, self.label, self.tags)


class Pen(RendererBase):
    """What matplotlib's artists draw with on a page.

    Its own writes a file for printers; to cut that down to what a page needs took longer than all the drawing.
    """

    def __init__(self, figure: Figure, chart_id: str, tags: Mapping[str, Tag]) -> None:
        super().__init__()
        self.width, self.height = (float(inches) * 72 for inches in figure.get_size_inches())
        self.parts: list[str] = []
        """Of the SVG, in order."""
        self._chart_id = chart_id
        self._tags = tags
        self._open: list[Tag | None] = []
        self._markers: dict[str, str] = {}
        self._flip = Affine2D().scale(1, -1).translate(0, self.height)

    def open_group(self, _kind: str, gid: str | None = None) -> None:
        """An artist begins; one that has a tag says whose it is."""
        tag = self._tags.get(gid or "")
        self._open.append(tag)
        if tag:
            self.parts.append(f'<g data-provider="{escape(tag.provider)}">')

    def close_group(self, _kind: str) -> None:
        """An artist ends."""
        if self._open.pop():
            self.parts.append("</g>")

    def draw_path(
        self, gc: GraphicsContextBase, path: Path, transform: Transform, rgbFace: ColorType | None = None
    ) -> None:
        """A line, or an area."""
        if steps := tell_path(path, transform + self._flip):
            self.parts.append(f'<path d="{steps}" style="{tell_style(gc, rgbFace)}"/>')

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: ColorType | None = None,
    ) -> None:
        """The same shape at many points, each with its title if the artist has them."""
        outline = tell_outline(marker_path, marker_trans + Affine2D().scale(1, -1))
        if outline not in self._markers:
            self._markers[outline] = f"{self._chart_id}-{len(self._markers)}"
            self.parts.append(f'<defs><path id="{self._markers[outline]}" d="{outline}"/></defs>')
        tag = self._open[-1]
        tips = iter(tag.tips if tag else ())
        self.parts.append(f'<g style="{tell_style(gc, rgbFace)}">')
        for x, y in (trans + self._flip).transform(path.vertices).tolist():
            if math.isfinite(x + y):
                place = f'x="{x:.5g}" y="{y:.5g}" href="#{self._markers[outline]}"'
                tip = next(tips, None)
                title = "/>" if tip is None else f' class="point"><title>{escape(tip)}</title></use>'
                self.parts.append(f"<use {place}{title}")
        self.parts.append("</g>")

    def write(self, x: float, y: float, text: str, align: str, colour: str) -> None:
        """A word that begins, has its middle or ends at a place, which is where its letters stand."""
        anchor = f' text-anchor="{ANCHORS[align]}"' if align in ANCHORS else ""
        fill = f' style="fill:{THEME.get(colour, colour)}"' if colour != INK else ""
        self.parts.append(f'<text x="{x:.5g}" y="{self.height - y:.5g}"{anchor}{fill}>{escape(text)}</text>')


def tell_style(gc: GraphicsContextBase, face: ColorType | None) -> str:
    """How something is drawn, in CSS, without what an SVG of a page has by itself."""
    told = []
    *stroke, opacity = to_rgba(gc.get_rgb())
    if face is None:
        told.append("fill:none")
    else:
        *fill, opacity = to_rgba(face)
        told += [f"fill:{THEME_OF_RGB[tuple(fill)]}"] if tuple(fill) != INK_RGB else []
    told += [f"opacity:{opacity:g}"] if opacity != 1 else []
    if width := gc.get_linewidth():
        told.append(f"stroke:{THEME_OF_RGB[tuple(stroke)]}")
        told += [f"stroke-width:{width:g}"] if width != 1 else []
        dashes = gc.get_dashes()[1]
        told += [] if dashes is None else [f"stroke-dasharray:{','.join(f'{length:g}' for length in np.ravel(dashes))}"]
    return ";".join(told)


def finish_svg(figure: Figure, chart_id: str, label: str, tags: Mapping[str, Tag]) -> str:
    """A figure as an SVG element for an HTML page, the same bytes for the same figure.

    Args:
        chart_id: unique in the page; every id of the SVG starts with it.
        label: what the chart shows, for those who cannot see it.
        tags: gid of an artist -> its provider and the titles of its points.
    """
    pen = Pen(figure, chart_id, tags)
    figure.draw(pen)
    return (
        f'<svg viewBox="0 0 {pen.width:g} {pen.height:g}" role="img" aria-label="{escape(label)}" tabindex="0"'
        f' class="chart" fill="{THEME[INK]}" font-size="{TEXT_SIZE}" stroke-linejoin="round">{"".join(pen.parts)}</svg>'
    )


def draw_key(mark: Mark, dashed: bool) -> str:
    """The sample of a provider's line and marker that stands in a legend."""
    style = MarkerStyle(mark.marker)
    outline = tell_outline(style.get_path(), style.get_transform() + Affine2D().scale(9, -9))
    colour = THEME[mark.colour]
    dash = ' stroke-dasharray="4 2"' if dashed else ""
    return (
        '<svg class="key" viewBox="-14 -6 28 12" aria-hidden="true">'
        f'<path d="M-14 0L14 0" style="stroke:{colour}"{dash}/>'
        f'<path d="{outline}" style="fill:{colour};stroke:var(--surface)"/></svg>'
    )
