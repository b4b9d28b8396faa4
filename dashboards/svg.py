"""A matplotlib figure -> an SVG that lives inside an HTML page: themed by CSS, unique ids, a title on every point."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
"""One more than there are colours, so that colour and marker together repeat after 72 slots only."""
NUM_COLOURS = 8

INK = "#010200"
GRID = "#010201"
SURFACE = "#010202"
BAD = "#010203"
GOOD = "#010204"
THEME = {INK: "currentColor", GRID: "var(--grid)", SURFACE: "var(--surface)", BAD: "var(--bad)", GOOD: "var(--good)"}
THEME |= {f"#0103{slot:02x}": f"var(--series-{slot})" for slot in range(NUM_COLOURS)}
LONG_PATH = 1000
"""Characters of a path from which on it is told step by step: a year of nights in half the bytes."""
_PATH_COMMANDS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


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


def finish_svg(figure: Figure, chart_id: str, label: str, tags: Mapping[str, Tag]) -> str:
    """Save a figure as an SVG element for an HTML page, the same bytes for the same figure.

    Args:
        chart_id: unique in the page; every id of the SVG starts with it.
        label: what the chart shows, for those who cannot see it.
        tags: gid of an artist -> its provider and the titles of its points.
    """
    raw = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kernel-nightly"}):
        FigureCanvasSVG(figure).print_svg(raw, metadata={"Date": None})  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(raw.getvalue())
    _strip_namespaces(root)
    for child in [child for child in root if child.tag == "metadata" or child.find("style") is not None]:
        root.remove(child)
    _tag_artists(root, tags)
    _prefix_ids(root, chart_id)
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": label, "tabindex": "0", "class": "chart"}
    _apply_theme(root)
    return ElementTree.tostring(root, encoding="unicode")


def draw_key(mark: Mark, dashed: bool) -> str:
    """The sample of a provider's line and marker that stands in a legend."""
    style = MarkerStyle(mark.marker)
    outline = style.get_path().transformed(style.get_transform() + Affine2D().scale(9, -9))
    steps = []
    for points, code in outline.iter_segments(curves=True):
        command = _PATH_COMMANDS[code]
        steps.append(command if command == "Z" else command + " ".join(f"{value:.2f}" for value in points))
    colour = THEME[mark.colour]
    dash = ' stroke-dasharray="4 2"' if dashed else ""
    return (
        '<svg class="key" viewBox="-14 -6 28 12" aria-hidden="true">'
        f'<path d="M-14 0L14 0" style="stroke:{colour}"{dash}/>'
        f'<path d="{"".join(steps)}" style="fill:{colour};stroke:var(--surface)"/></svg>'
    )


def _strip_namespaces(root: ElementTree.Element) -> None:
    """HTML knows SVG's names without namespaces, and `href` without xlink."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if "}" in name]:
            element.attrib[name.rpartition("}")[2]] = element.attrib.pop(name)


def _tag_artists(root: ElementTree.Element, tags: Mapping[str, Tag]) -> None:
    """Put provider and titles on the groups that carry a gid."""
    for group in root.iter("g"):
        tag = tags.get(group.get("id", ""))
        if tag is None:
            continue
        group.set("data-provider", tag.provider)
        for shape in group.iterfind("defs/path"):
            shape.attrib.pop("style", None)  # the point's own style says the same, and there CSS can change it
        points = list(group.iter("use")) or list(group.iter("path"))
        for point, tip in zip(points, tag.tips, strict=False):
            point.set("class", "point")
            ElementTree.SubElement(point, "title").text = tip


def _prefix_ids(root: ElementTree.Element, chart_id: str) -> None:
    """Make ids and the references to them unique in the page; drop the ids that nothing refers to."""
    used = {match for e in root.iter() for value in e.attrib.values() for match in re.findall(r"#([\w.-]+)", value)}
    for element in root.iter():
        if element.get("id") in used:
            element.set("id", f"{chart_id}-{element.get('id')}")
        else:
            element.attrib.pop("id", None)
        for name in ("href", "clip-path"):
            if name in element.attrib:
                element.set(name, element.attrib[name].replace("#", f"#{chart_id}-"))


def _apply_theme(root: ElementTree.Element) -> None:
    """Stand-in colours -> CSS variables, the page's font, and two decimals where matplotlib writes six."""
    for element in root.iter():
        style = re.sub(r" font-family: [^;]*;", "", element.get("style", ""))
        if style:
            element.set("style", re.sub(r"#01\w{4}\b", lambda found: THEME.get(found[0], found[0]), style))
        if len(element.get("d", "")) > LONG_PATH:
            element.set("d", shorten_path(element.attrib["d"]))
        for name in {"d", "x", "y", "transform"} & element.attrib.keys():
            element.set(name, re.sub(r"(\.\d\d)\d+", r"\1", " ".join(element.attrib[name].split())))
        for child in element:
            child.tail = None
        if len(element):
            element.text = None


def shorten_path(path: str) -> str:
    """The same path in steps of tenths of a pixel, level ones in one; a path with curves as it is."""
    words = path.split()
    short, place, at, level = list[str](), (0, 0), 0, 0
    while at < len(words):
        command = words[at]
        if command in "zZ":
            short.append("z")
            at += 1
            continue
        if command not in "ML":
            return path
        x, y = round(float(words[at + 1]) * 10), round(float(words[at + 2]) * 10)
        if command == "M":
            short.append(f"M{tell_tenths(x)} {tell_tenths(y)}")
        elif y == place[1]:
            level += x - place[0]
            if words[at + 3 : at + 4] != ["L"] or round(float(words[at + 5]) * 10) != y:
                short.append(f"h{tell_tenths(level)}")
                level = 0
        else:
            short.append(f"l{tell_tenths(x - place[0])} {tell_tenths(y - place[1])}")
        place, at = (x, y), at + 3
    return "".join(short).replace(" -", "-")


@cache
def tell_tenths(tenths: int) -> str:
    """A number of tenths as short as it goes: 2.5, .5, -.5."""
    return f"{tenths / 10:g}".replace("0.", ".") if abs(tenths) < 10 else f"{tenths / 10:g}"
