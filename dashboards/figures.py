"""Charts as files of their own: pictures, and SVG for pages that share one."""

import io
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.svg import BAD, GOOD, GRID, INK, NUM_COLOURS, SURFACE, THEME

PICTURE_DPI = 130
PALETTES = {
    "light": dict(
        zip((INK, GRID, SURFACE, BAD, GOOD), ("#1b1f24", "#d9dde3", "#ffffff", "#b3261e", "#146c2e"), strict=True)
    ),
    "dark": dict(
        zip((INK, GRID, SURFACE, BAD, GOOD), ("#e6e9ee", "#363c47", "#14171c", "#ff8a80", "#6dd58c"), strict=True)
    ),
}
"""What stands for each colour of a chart where no style sheet says it; as in style.css."""
SERIES = {
    "light": ("#0066b3", "#c85200", "#00805c", "#9c3fa0", "#3f4854", "#1a8fb8", "#8a6d00", "#c2255c", "#5a4fcf"),
    "dark": ("#4db2ff", "#ff9955", "#3ddc97", "#e58adf", "#d3dae3", "#7fdcf0", "#e6c229", "#ff8fab", "#a99bff"),
}
PARTS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
"""What an artist may have a colour of."""


def list_colours(theme: str) -> dict[str, str]:
    """Stand-in -> colour."""
    return PALETTES[theme] | {f"#0103{slot:02x}": SERIES[theme][slot] for slot in range(NUM_COLOURS)}


def draw_picture(figure: Figure) -> bytes:
    """A figure as PNG in light colours; its artists keep them."""
    palette = list_colours("light")
    for artist in figure.findobj(include_self=False):
        for part in PARTS:
            get, set_to = getattr(artist, f"get_{part}", None), getattr(artist, f"set_{part}", None)
            if get and set_to:
                _repaint(get(), set_to, palette)
    figure.patch.set(visible=True, facecolor=palette[SURFACE])
    raw = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(raw, format="png", dpi=PICTURE_DPI, metadata={"Software": None})
    return raw.getvalue()


def _repaint(value: Any, set_to: Callable[[Any], object], palette: dict[str, str]) -> None:
    """Replace a stand-in, whatever its opacity."""
    for rgba in _list_rgba(value):
        known = palette.get(colors.to_hex(rgba))
        if known:
            set_to((*colors.to_rgb(known), rgba[3]))


def _list_rgba(value: Any) -> Iterable[tuple[float, float, float, float]]:
    """The first colour of an artist's part, which may have none."""
    if isinstance(value, str) and value in ("none", "auto"):
        return ()
    found = colors.to_rgba_array(value)
    return (tuple(found[0]),) if len(found) else ()


def stand_alone(svg: str, theme: str) -> str:
    """A chart of a page as a file of its own, in the colours of a theme."""
    for stand_in, variable in THEME.items():
        svg = svg.replace(variable, list_colours(theme)[stand_in])
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)
