"""Rows and charts -> HTML. The templates hold the markup and escape every value; this file prepares what they show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dashboards.charts import draw_latency, draw_speedups
from dashboards.flags import list_flags
from dashboards.incidents import PLACES, list_incidents, name_anchor, tell_again
from dashboards.machines import list_references, name_machines, tell_card
from dashboards.rows import STATE_ORDER, KernelRows, LayerRows, Panel, Row, count_states, group, is_vllm
from dashboards.svg import Mark, draw_key
from dashboards.trends import MIN_TREND, draw_errors, draw_references, draw_trend
from dashboards.trials import tell_device
from dashboards.words import tell_change, tell_day, tell_figure, tell_half_width, tell_ratio, tell_size, tell_utc
from tasks.nights import Night
from tasks.records import Point
from tasks.references import SLOW_MACHINE


@dataclass(frozen=True, slots=True)
class PanelView:
    """One set of axes on the page of a kernel."""

    title: str
    """Options, and device and timer where the layer has several; "" if there is nothing to tell apart."""
    timer: str
    anchor: str
    """Of the first panel of a timer in the layer; "" for the others."""
    latency: Markup | None
    speedups: Markup | None
    trends: tuple[tuple[str, Markup], ...]
    """(case, chart) of every case with nights enough."""
    errors: Markup | None
    """The relative errors of all cases over the nights."""


@dataclass(frozen=True, slots=True)
class LayerView:
    """One section on the page of a kernel."""

    rows: LayerRows
    panels: tuple[PanelView, ...]
    cases: tuple[tuple[str, list[Row]], ...]
    """(case, its rows) in the order of the table."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One line of what somebody has to look at."""

    kernel: str
    layer: LayerRows
    row: Row
    href: str
    """The layer's section on the page of its kernel, or there what the row's timer gave, if that is not shown first."""
    card: str
    """Which GPU measured the row, "" where there is but one."""


def render_index(night: Night, kernels: tuple[KernelRows, ...]) -> str:
    """The page of the run: incidents, verdicts, what to look at, the kernels, the machines and the weights."""
    seconds = list(night.run.stage_seconds.values())
    incidents = list_incidents(night, kernels)
    return _render(
        "index.html.jinja",
        night,
        kernels,
        incidents=incidents,
        places={place: number for place in PLACES if (number := sum(view.place == place for view in incidents))},
        counts=count_states(night.verdicts),
        attention=_list_attention(night, kernels),
        jumps=_list_jumps(night, kernels),
        wall_time=_tell_wall_time(night),
        longest_stage=max([*seconds, 1e-9]),
        hosts=night.hosts,
        machines=name_machines(night.hosts),
        references=list_references(night),
        reference_legend={name: Markup(draw_key(mark, dashed=False)) for name, mark in _mark_references(night).items()},
        reference_trends=_draw_references(night),
        ceilings={host.host_id: [c for c in night.ceilings if c.host_id == host.host_id] for host in night.hosts},
        receipts=night.receipts,
    )


def render_kernel(night: Night, kernels: tuple[KernelRows, ...], kernel: KernelRows, marks: Mapping[str, Mark]) -> str:
    """The page of one kernel: charts, trends and the table of every layer."""
    numbers = count()
    providers = sorted({row.provider for row in kernel.rows})
    return _render(
        "kernel.html.jinja",
        night,
        kernels,
        here=kernel.name,
        kernel=kernel,
        layers=[_view_layer(layer, kernel, marks, numbers) for layer in kernel.layers],
        legend={name: Markup(draw_key(marks[name], dashed=is_vllm(name))) for name in providers},
        num_nights=max(map(len, kernel.trends.values()), default=1),
        min_trend=MIN_TREND,
    )


def _render(template: str, night: Night, kernels: tuple[KernelRows, ...], here: str = "", **values: object) -> str:
    """Fill a template with what every page has, and with its own values."""
    folder = resources.files("dashboards")
    style, script = (Markup((folder / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    page = _environment().get_template(template)
    return page.render(run=night.run, kernels=kernels, here=here, style=style, script=script, **values)


@cache
def _environment() -> Environment:
    """Templates that escape everything and fail on a name that does not exist."""
    environment = Environment(
        loader=PackageLoader("dashboards"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": tell_figure, "change": tell_change, "size": tell_size, "utc": tell_utc}
    environment.filters |= {"ratio": tell_ratio, "half_width": tell_half_width, "device": tell_device}
    environment.filters |= {"flags": list_flags, "again": tell_again, "day": tell_day, "incident_anchor": name_anchor}
    return environment


def _mark_references(night: Night) -> dict[str, Mark]:
    """How each reference kernel looks."""
    names = sorted({name for _, name in night.reference_trends})
    return {name: Mark(slot) for slot, name in enumerate(names)}


def _draw_references(night: Night) -> list[tuple[str, Markup]]:
    """(device, chart of its reference kernels) of every device with nights enough."""
    marks = _mark_references(night)
    devices: dict[str, dict[str, tuple[Point, ...]]] = {}
    for (device_name, name), points in night.reference_trends.items():
        devices.setdefault(device_name, {})[name] = points
    slow = {host.device.name: SLOW_MACHINE[host.device.type] for host in night.hosts}
    charts = [
        (device, draw_references(trends, marks, f"r{n}", slow[device]))
        for n, (device, trends) in enumerate(devices.items())
        if device in slow
    ]
    return [(device, Markup(svg)) for device, svg in charts if svg]


def _view_layer(layer: LayerRows, kernel: KernelRows, marks: Mapping[str, Mark], numbers: "count[int]") -> LayerView:
    """Draw a layer: a pair of charts and the trends of each panel, one table for all."""
    devices = {panel.device_name for panel in layer.panels}
    panels: list[PanelView] = []
    for panel in layer.panels:
        timer = panel.timer if len(kernel.timers) > 1 else ""
        title = ", ".join(filter(None, [panel.options, panel.device_name if len(devices) > 1 else "", timer]))
        is_first = panel.timer not in {view.timer for view in panels}
        anchor = layer.anchor_of(panel.timer) if is_first else ""
        panels.append(_view_panel(panel, title, anchor, kernel, marks, f"c{next(numbers)}"))
    cases = group(layer.rows, lambda row: row.case_label)
    return LayerView(layer, tuple(panels), tuple(cases.items()))


def _view_panel(
    panel: Panel, title: str, anchor: str, kernel: KernelRows, marks: Mapping[str, Mark], chart_id: str
) -> PanelView:
    """Draw the charts of one panel."""
    trends = []
    for n, (label, rows) in enumerate(group(panel.rows, lambda row: row.case_label).items()):
        svg = draw_trend(rows, kernel.trends, marks, f"{chart_id}t{n}")
        if svg:
            trends.append((label, Markup(svg)))
    latency = draw_latency(panel, marks, f"{chart_id}l")
    speedups = draw_speedups(panel, marks, f"{chart_id}s")
    errors = draw_errors(panel.rows, kernel.trends, marks, f"{chart_id}e")
    return PanelView(title, panel.timer, anchor, _trust(latency), _trust(speedups), tuple(trends), _trust(errors))


def _trust(svg: str | None) -> Markup | None:
    """A chart is markup of our own."""
    return Markup(svg) if svg else None


def _list_attention(night: Night, kernels: tuple[KernelRows, ...]) -> list[Attention]:
    """Every row that is neither same nor new nor unsupported, worst state first."""
    found = _list_rows(night, kernels, lambda row: row.is_loud)
    return sorted(found, key=lambda item: STATE_ORDER.index(item.row.verdict.state) if item.row.verdict else 0)


def _list_jumps(night: Night, kernels: tuple[KernelRows, ...]) -> list[Attention]:
    """Every check that is still within tolerance, with another error than before, largest growth first.

    The timers of a case share one check: it is told once.
    """
    found = _list_rows(night, kernels, lambda row: row.error_jumped)
    checks = {(item.row.series.case_key, item.row.provider, item.row.series.device_name): item for item in found[::-1]}
    return sorted(checks.values(), key=lambda item: item.row.error_ratio or 0.0, reverse=True)


def _list_rows(night: Night, kernels: tuple[KernelRows, ...], wanted: Callable[[Row], bool]) -> list[Attention]:
    """The wanted rows of all kernels, with the link to their layer."""
    return [
        Attention(
            kernel=kernel.name,
            layer=layer,
            row=row,
            href=f"kernel-{kernel.slug}.html#{_find_anchor(kernel, layer, row)}",
            card=tell_card(row, night),
        )
        for kernel in kernels
        for layer in kernel.layers
        for row in layer.rows
        if wanted(row)
    ]


def _find_anchor(kernel: KernelRows, layer: LayerRows, row: Row) -> str:
    """Where on the kernel's page the row is shown."""
    return layer.anchor if row.series.timer == kernel.timers[0] else layer.anchor_of(row.series.timer)


def _tell_wall_time(night: Night) -> str:
    """Hours, minutes and seconds from start to finish."""
    if night.run.finished_at is None:
        return "not finished"
    seconds = round((night.run.finished_at - night.run.started_at).total_seconds())
    if seconds < 0:
        return "unknown: the clock went back meanwhile"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
