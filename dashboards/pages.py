"""Rows -> the pages of a night: the front page, a page for each kernel, the rooflines, and the list of series."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dashboards.columns import write_csv
from dashboards.environment import tell_environment
from dashboards.figures import draw_picture, stand_alone
from dashboards.folder import Files
from dashboards.heat import HeatMap, tell_cell
from dashboards.incidents import PLACES, list_incidents
from dashboards.machines import list_references, name_machines, tell_card
from dashboards.reference_nights import draw_reference_nights, mark_references
from dashboards.rooflines import draw_rooflines
from dashboards.rows import STATE_ORDER, KernelRows, LayerRows, Row, count_states, group, make_safe
from dashboards.series.views import Background, name_page
from dashboards.sparks import draw_spark
from dashboards.svg import Drawing, Mark, draw_key
from dashboards.templating import render
from tasks.judgement.references import SLOW_MACHINE
from tasks.nights import Night
from tasks.records import Point, State
from tasks.tuning.listed import tell_states

MOST_TO_LOOK_AT = 200
"""Rows of the front page; of more, the worst, and a link to all."""
GONE = (State.MISSING, State.FAILED, State.WRONG)
"""States of series that have no time tonight and should have one."""
MOST_GONE = 6


@dataclass(frozen=True, slots=True)
class LayerView:
    """One section on the page of a kernel."""

    rows: LayerRows
    compare_page: str
    """"" where nothing was timed."""
    cases: tuple[tuple[str, list[Row]], ...]
    """(case, its rows) in the order of the table."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One line of what somebody has to look at."""

    kernel: str
    layer: LayerRows
    row: Row
    href: str
    """The page of its series, or its row on the page of its kernel if it was never timed."""
    card: str
    """Which GPU measured the row, "" where there is but one."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a kernel has a time."""

    kernel: KernelRows
    num_timed: int
    num_unsupported: int
    num_failed: int
    """Those that should have a time: wrong, crashed, hung, out of memory, missing."""
    num_models: int

    @property
    def share(self) -> float:
        """Of what can run here."""
        return self.num_timed / max(self.num_timed + self.num_failed, 1)


def render_index(night: Night, kernels: Sequence[KernelRows], maps: Sequence[HeatMap], background: Background) -> str:
    """The page of the night: what is open, what to look at, how far everything moved, coverage, machines, weights."""
    seconds = list(night.run.stage_seconds.values())
    incidents = list_incidents(night, kernels)
    attention = _list_attention(night, kernels)
    return render(
        "index.html.jinja",
        here="index.html",
        run=night.run,
        pages=background.pages,
        kernels=kernels,
        incidents=incidents,
        places={place: number for place in PLACES if (number := sum(view.place == place for view in incidents))},
        counts=count_states(night.verdicts),
        gone=[item for item in attention if item.row.state in GONE][:MOST_GONE],
        environment=tell_environment(night),
        maps=maps,
        tell_cell=tell_cell,
        attention=attention[:MOST_TO_LOOK_AT],
        num_attention=len(attention),
        jumps=_list_jumps(night, kernels),
        listed_sets=[listed for listed in night.tuned_sets if not listed.is_fresh],
        set_counts=tell_states([listed.state for listed in night.tuned_sets]),
        coverage=[_cover(kernel) for kernel in kernels],
        wall_time=_tell_wall_time(night),
        longest_stage=max([*seconds, 1e-9]),
        hosts=night.hosts,
        machines=name_machines(night.hosts),
        references=list_references(night),
        reference_legend={
            name: Markup(draw_key(mark, dashed=False)) for name, mark in mark_references(night.reference_trends).items()
        },
        reference_charts={
            device: (make_safe(device), Markup(drawing.svg))
            for device, drawing in _draw_references(night, background).items()
        },
        ceilings={host.host_id: [c for c in night.ceilings if c.host_id == host.host_id] for host in night.hosts},
        receipts=night.receipts,
    )


def render_kernel(night: Night, kernel: KernelRows, compare_pages: Mapping[str, str], background: Background) -> str:
    """The page of one kernel: the table of every layer."""
    columns = night.trends.columns
    return render(
        "kernel.html.jinja",
        here=f"kernel-{kernel.slug}.html",
        run=night.run,
        pages=background.pages,
        kernel=kernel,
        layers=[
            LayerView(layer, compare_pages.get(layer.key, ""), tuple(group(layer.rows, lambda r: r.case_label).items()))
            for layer in kernel.layers
        ],
        sparks={row.series: draw_spark(columns[row.series]) for row in kernel.rows if row.series in columns},
        links={row.series: name_page(row) for row in kernel.rows if row.series in columns},
        num_nights=max((len(columns[row.series]) for row in kernel.rows if row.series in columns), default=1),
    )


def render_series_list(night: Night, kernels: Sequence[KernelRows], background: Background) -> str:
    """The page on which a series is found."""
    rows = [row for kernel in kernels for row in kernel.rows]
    return render(
        "list.html.jinja",
        here="series.html",
        run=night.run,
        pages=background.pages,
        choices={
            "kernel": [kernel.name for kernel in kernels],
            "model": {layer.model for kernel in kernels for layer in kernel.layers},
            "provider": {row.provider for row in rows},
            "device": {row.series.device_name for row in rows},
            "timer": {row.series.timer for row in rows},
            "state": {row.state for row in rows if row.state},
        },
    )


def render_rooflines(night: Night, kernels: Sequence[KernelRows], background: Background) -> Files:
    """The page of rooflines, and a picture of each."""
    found = draw_rooflines(night, kernels)
    page = render(
        "rooflines.html.jinja",
        here="rooflines.html",
        run=night.run,
        pages=background.pages,
        rooflines=[(one, Markup(one.drawing.svg)) for one in found],
        legend={kernel.name: Markup(draw_key(Mark(slot), dashed=False)) for slot, kernel in enumerate(kernels)},
        slugs={kernel.name: kernel.slug for kernel in kernels},
    )
    pictures = {f"figures/roofline-{one.slug}.png": draw_picture(one.drawing.figure) for one in found}
    return {"rooflines.html": page.encode(), **pictures}


def render_references(night: Night, background: Background) -> Files:
    """The reference kernels of each device over the nights, as files that many pages show."""
    files: Files = {}
    for device, drawing in _draw_references(night, background).items():
        stem = f"figures/references-{make_safe(device)}"
        svg = drawing.svg
        files |= {f"{stem}-{theme}.svg": stand_alone(svg, theme).encode() for theme in ("light", "dark")}
        files[f"{stem}.png"] = draw_picture(drawing.figure)
    columns = ("device", "reference", "run_id", "started_at", "median_us", "p20_us", "p80_us")
    lines = (
        dict(zip(columns, (device, name, p.run_id, p.started_at, p.median_us, p.p20_us, p.p80_us), strict=True))
        for (device, name), points in night.reference_trends.items()
        for p in points
    )
    return files | {"data-references.csv": write_csv(columns, lines).encode()}


def _list_attention(night: Night, kernels: Sequence[KernelRows]) -> list[Attention]:
    """Every row that is neither same nor new nor unsupported, worst state first."""
    found = _list_rows(night, kernels, lambda row: row.is_loud)
    return sorted(found, key=lambda item: STATE_ORDER.index(item.row.verdict.state) if item.row.verdict else 0)


def _list_jumps(night: Night, kernels: Sequence[KernelRows]) -> list[Attention]:
    """Every check that is still within tolerance, with another error than before, largest growth first.

    The timers of a case share one check: it is told once.
    """
    found = _list_rows(night, kernels, lambda row: row.error_jumped)
    checks = {(item.row.series.case_key, item.row.provider, item.row.series.device_name): item for item in found[::-1]}
    return sorted(checks.values(), key=lambda item: item.row.error_ratio or 0.0, reverse=True)


def _list_rows(night: Night, kernels: Sequence[KernelRows], wanted: Callable[[Row], bool]) -> list[Attention]:
    """The wanted rows of all kernels, with the link to their series."""
    return [
        Attention(
            kernel=kernel.name,
            layer=layer,
            row=row,
            href=name_page(row) if row.series in night.trends.columns else f"kernel-{kernel.slug}.html#{row.anchor}",
            card=tell_card(row, night),
        )
        for kernel in kernels
        for layer in kernel.layers
        for row in layer.rows
        if wanted(row)
    ]


def _cover(kernel: KernelRows) -> Coverage:
    """Count the series of a kernel."""
    is_timed = [row.median_us is not None for row in kernel.rows]
    num_unsupported = sum(row.status == "unsupported" for row in kernel.rows)
    models = {layer.model for layer in kernel.layers}
    num_failed = len(is_timed) - sum(is_timed) - num_unsupported
    return Coverage(kernel, sum(is_timed), num_unsupported, num_failed, len(models))


def list_reference_devices(night: Night) -> dict[str, dict[str, tuple[Point, ...]]]:
    """By device of tonight, the nights of each reference kernel."""
    tonight = {host.device.name for host in night.hosts}
    devices: dict[str, dict[str, tuple[Point, ...]]] = {}
    for (device, name), points in night.reference_trends.items():
        if device in tonight:
            devices.setdefault(device, {})[name] = points
    return devices


def _draw_references(night: Night, background: Background) -> dict[str, Drawing]:
    """By device."""
    types = {host.device.name: host.device.type for host in night.hosts}
    marks = mark_references(night.reference_trends)
    return {
        device: draw_reference_nights(trends, marks, background.calendar, SLOW_MACHINE[types[device]], f"r{number}")
        for number, (device, trends) in enumerate(list_reference_devices(night).items())
    }


def _tell_wall_time(night: Night) -> str:
    """Hours, minutes and seconds from start to finish."""
    if night.run.finished_at is None:
        return "not finished"
    seconds = round((night.run.finished_at - night.run.started_at).total_seconds())
    if seconds < 0:
        return "unknown: the clock went back meanwhile"
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    told = [f"{hours} h" if hours else "", f"{minutes} min" if seconds >= 60 else "", f"{seconds % 60} s"]
    return " ".join(filter(None, told))
