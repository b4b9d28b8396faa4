"""The page of a layer with its providers side by side, as vLLM's scripts draw them: rates, speed-ups, configs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from dashboards.bars import draw_configs, draw_utilisation
from dashboards.charts import BANDWIDTH, THROUGHPUT, draw_curves, draw_speedups
from dashboards.figures import draw_picture
from dashboards.rows import KernelRows, LayerRows, Panel, group, is_vllm, make_safe
from dashboards.svg import Drawing, Mark, draw_key
from dashboards.templating import render

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart on the page."""

    title: str
    svg: Markup
    picture: str
    """Its file, beside the page's folder."""


@dataclass(frozen=True, slots=True)
class Section:
    """The charts of one set of options on one device by one timer."""

    title: str
    timer: str
    device: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CompareView:
    """One layer, as plain values that another process can draw."""

    path: str
    """Of its page in the site."""
    kernel: KernelRows
    """Without layers and histories: its name, its baseline."""
    layer: LayerRows
    marks: Mapping[str, Mark]
    pages: tuple[tuple[str, str], ...]

    def find_digest(self, code: str) -> str:
        """Of everything that the page shows.

        Args:
            code: digest of what draws it.
        """
        told = (code, self.path, self.kernel.name, self.layer, sorted(self.marks.items()), self.pages)
        return hashlib.sha256(repr(told).encode()).hexdigest()


def name_compare_page(kernel: KernelRows, layer: LayerRows) -> str:
    """Where the page of a layer is in the site."""
    return f"compare/{kernel.slug}-{layer.anchor.removeprefix('layer-')}.html"


def can_compare(layer: LayerRows) -> bool:
    """Whether there is anything to draw."""
    return any(row.median_us for row in layer.rows)


def render_compare(view: CompareView) -> Files:
    """The files of one layer: the page, and a picture of each of its charts."""
    files: Files = {}
    sections = []
    stem = view.path.removeprefix("compare/").removesuffix(".html")
    for number, (place, titled) in enumerate(_draw_sections(view)):
        charts = []
        for title, drawing in titled:
            picture = f"figures/{stem}-{number}-{make_safe(title).lower()}.png"
            charts.append(Chart(title, Markup(drawing.svg), picture))
            files[picture] = draw_picture(drawing.figure)
        options, device, timer = place
        sections.append(Section(", ".join(filter(None, (options, device, timer))), timer, device, tuple(charts)))
    providers = sorted({row.provider for row in view.layer.rows})
    page = render(
        "compare.html.jinja",
        root="../",
        kernel=view.kernel,
        layer=view.layer,
        pages=view.pages,
        sections=sections,
        legend={name: Markup(draw_key(view.marks[name], dashed=is_vllm(name))) for name in providers},
        timers=tuple(dict.fromkeys(section.timer for section in sections)),
        devices=tuple(dict.fromkeys(section.device for section in sections)),
    )
    return {view.path: page.encode(), **files}


def _draw_sections(view: CompareView) -> list[tuple[tuple[str, str, str], list[tuple[str, Drawing]]]]:
    """Charts by (options, device, timer), those of all options together first."""
    sections: list[tuple[tuple[str, str, str], list[tuple[str, Drawing]]]] = []
    if not view.kernel.gemm_dtype:
        places = group(view.layer.panels, lambda panel: (panel.device_name, panel.timer))
        for number, ((device, timer), panels) in enumerate(places.items()):
            drawing = draw_utilisation(panels, view.marks, f"u{number}")
            sections += [(("", device, timer), [("Bandwidth", drawing)])] if drawing else []
    for number, panel in enumerate(view.layer.panels):
        drawn = _draw_panel(panel, view, number)
        sections += [((panel.options, panel.device_name, panel.timer), drawn)] if drawn else []
    return sections


def _draw_panel(panel: Panel, view: CompareView, number: int) -> list[tuple[str, Drawing]]:
    """The charts of one panel that have anything to show."""
    quantity = THROUGHPUT if view.kernel.gemm_dtype else BANDWIDTH
    drawn = {
        quantity.label: draw_curves(panel, view.marks, f"c{number}", quantity),
        "Speed-up": draw_speedups(panel, view.marks, f"s{number}"),
        "Configs": draw_configs(panel, view.marks, f"t{number}"),
    }
    return [(title, drawing) for title, drawing in drawn.items() if drawing]
