"""The page of one series: charts, what happened to it, where its numbers come from, and the numbers themselves."""

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from markupsafe import Markup

from dashboards.figures import draw_picture
from dashboards.paper import Paper
from dashboards.rows import make_safe
from dashboards.series import sheets
from dashboards.series.chronicle import Regime, find_events, find_provenance, find_regimes
from dashboards.series.views import Background, SeriesView
from dashboards.svg import finish_svg
from dashboards.templating import render
from tasks.judgement.histories import Floats, History

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class RegimeLine:
    """A regime as the page tells it."""

    first: datetime
    last: datetime
    num_nights: int
    regime: Regime


def render_series(view: SeriesView, background: Background) -> Files:
    """The files of one series: its page, and pictures of its charts where somebody has to look at it."""
    histories = background.histories
    regimes = find_regimes(view.history)
    events = find_events(view.history, histories, background.kinds, view.marks)
    papers = {"nights": sheets.draw_history(view.history, view.floors_us, background.calendar, regimes, events)}
    if len(view.history) >= sheets.ENOUGH_NIGHTS:
        papers["spread"] = sheets.draw_spread(view.history, regimes)
    if view.samples_us:
        papers["samples"] = sheets.draw_samples(view.samples_us)
    charts = {name: _finish(paper, name, view, regimes) for name, paper in papers.items()}
    stem = view.path.rpartition("/")[2].removesuffix(".html")
    files: Files = {}
    if view.is_told:
        files = {f"figures/{stem}-{name}.png": draw_picture(paper.figure) for name, paper in papers.items()}
    decimals = find_decimals(view.history)
    between, within = sheets.measure_spread(view.history, regimes)
    page = render(
        "series.html.jinja",
        root="../",
        view=view,
        suite=background.suite,
        pages=background.pages,
        charts=charts,
        stem=stem,
        frame=(sheets.LEFT, sheets.WIDTH - sheets.RIGHT),
        regimes=[_tell_regime(regime, view, background) for regime in regimes],
        events=[(_start(view, background, event.row), event) for event in reversed(events)],
        provenances=find_provenance(regimes, view.history, histories),
        between=between,
        within=within,
        first=_start(view, background, 0),
        last=_start(view, background, len(view.history) - 1),
        references=make_safe(device) if (device := view.series.device_name) in background.references else "",
        decimals=decimals,
        data=Markup(tell_data(view.history, view.floors_us, decimals)),
    )
    return {view.path: page.encode(), **files}


def _finish(paper: Paper, name: str, view: SeriesView, regimes: tuple[Regime, ...]) -> Markup:
    """The chart as markup, with what it shows in words."""
    history = view.history
    if name == "nights":
        told = (f"{r.relative_change:+.1%} in night {r.first + 1}" for r in regimes[1:] if r.relative_change)
        changes = "; ".join(told) or "none"
        label = f"Time per call over {len(history)} nights, last {history.median_us[-1]:.4g} us. Changes: {changes}."
    elif name == "spread":
        label = f"Histogram of {len(history)} nights around the level of their regime, in percent."
    else:
        label = f"The {len(view.samples_us)} samples of the night in the order taken."
    return Markup(finish_svg(paper.figure, name, label, {}))


def _start(view: SeriesView, background: Background, row: int) -> datetime:
    return background.histories.runs[int(view.history.nights[row])].started_at


def _tell_regime(regime: Regime, view: SeriesView, background: Background) -> RegimeLine:
    first, last = (_start(view, background, row) for row in (regime.first, regime.last))
    return RegimeLine(first, last, regime.last - regime.first + 1, regime)


def tell_data(history: History, floors_us: Floats, decimals: int) -> str:
    """The numbers of the nights as lines that the page's script reads and hands out as CSV.

    To save bytes on ten thousand pages, an empty cell repeats the one above it, an empty night is the next one, and
    times are whole steps of the last decimal: from the median of the night before, down to p20 and up to p80.
    """
    nights = history.nights
    follows = np.diff(nights, prepend=-2) == 1
    column = ["" if is_next else str(night) for night, is_next in zip(nights.tolist(), follows, strict=True)]
    times = (history.median_us, history.p20_us, history.p80_us)
    median, low, high = (np.rint(of_nights * 10**decimals).astype(np.int64) for of_nights in times)
    steps = (map(str, told.tolist()) for told in (np.diff(median, prepend=0), median - low, high - median))
    told = (column, *steps, _repeat(history.relative_error, "%.4g"), _repeat(floors_us, "%.5g"))
    return "\n".join(",".join(cells).rstrip(",") for cells in zip(*told, strict=True))


def find_decimals(history: History) -> int:
    """With which the shortest time has five digits."""
    return max(0, 4 - math.floor(math.log10(max(float(history.median_us.min()), 1e-6))))


def _repeat(values: Floats, form: str) -> list[str]:
    """Cells, empty where the one above is the same; of what is not known, none."""
    changes = np.flatnonzero(np.diff(np.nan_to_num(values, nan=-1.0), prepend=-2.0))
    cells, before = [""] * len(values), ""
    for row in changes.tolist():
        told = form % values[row] if np.isfinite(values[row]) else "none"
        cells[row], before = "" if told == before else told, told
    return cells
