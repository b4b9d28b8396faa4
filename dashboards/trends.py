"""Nights -> charts of how series, errors and reference kernels moved; nothing of a record is set as text."""

import math
import statistics
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dashboards.axes import OCTAVE_TICKS, line_style, make_axes, tell_octave, write_beside
from dashboards.rows import Row, group
from dashboards.svg import BAD, GOOD, INK, SURFACE, Mark, Tag, finish_svg
from dashboards.words import tell_ratio
from tasks import changepoint
from tasks.accuracy import ERROR_JUMP, compare_errors
from tasks.records import Point, Series, State

TREND_WIDTH = 320
TREND_HEIGHT = 180
MIN_TREND = 3
"""Nights that make a trend: how two differ is told by the verdicts."""
MOST_ERROR_RATIO = 16.0
"""Where the axis of errors ends: what is further from 1 is drawn there."""
NIGHT_FORMATS = ("%d %b", "%d %b %Y", "%d %b %H:%M", "%d %b %H:%M:%S")


def draw_trend(
    rows: Sequence[Row], trends: Mapping[Series, tuple[Point, ...]], marks: Mapping[str, Mark], chart_id: str
) -> str | None:
    """Every provider of one case over the nights, in percent of its own earlier nights.

    Percent, because providers differ by factors and a regression by a few percent would vanish on shared microseconds.
    A line stands at the night since which a change of any of them holds, and a ring around the first night of each
    settled regime of its history (tasks/changepoint.py). None if no provider has MIN_TREND nights.
    """
    told = [row for row in rows if len(trends.get(row.series, ())) >= MIN_TREND]
    if not told:
        return None
    figure, axes = make_axes(TREND_WIDTH, TREND_HEIGHT, left=46, bottom=26)
    tags: dict[str, Tag] = {}
    nights = _place_nights([trends[row.series] for row in told])
    for row in told:
        points = trends[row.series]
        edge = {State.SLOW: BAD, State.FAST: GOOD}.get(row.state or State.SAME, "")
        _plot_trend(axes, row.provider, points, nights, marks[row.provider], edge)
        tags |= _tag_trend(row.provider, points, marks[row.provider])
        tags |= _ring_changes(axes, row.provider, points, nights, marks[row.provider])
    _tick_nights(axes, nights)
    _tick_percents(axes, 6)
    stands = _mark_since(axes, told, trends, nights)
    changes = ", ".join(f"{row.provider} {_percents(trends[row.series])[-1][0]:+z.1f}%" for row in told)
    label = f"Trend of {rows[0].case_label} over the nights; the last night against the earlier ones: {changes}."
    return finish_svg(figure, chart_id, " ".join([label, *stands]), tags)


def draw_errors(
    rows: Sequence[Row], trends: Mapping[Series, tuple[Point, ...]], marks: Mapping[str, Mark], chart_id: str
) -> str | None:
    """The relative error of every series over the nights, as a multiple of its own earlier nights' median.

    The band is what nobody needs to look at; tonight's largest jump of each provider is told in words. None if no
    series has MIN_TREND nights.
    """
    ratios = {row: _error_ratios(row, trends.get(row.series, ())) for row in rows}
    curves = {row: found for row, found in ratios.items() if len(found) >= MIN_TREND}
    if not curves:
        return None
    figure, axes = make_axes(TREND_WIDTH, TREND_HEIGHT, left=46, bottom=26)
    axes.set_yscale("log", base=2)
    axes.axhspan(1 / ERROR_JUMP, ERROR_JUMP, color=INK, alpha=0.06, linewidth=0)
    tags: dict[str, Tag] = {}
    nights = _place_nights([[point for point, _ in found] for found in curves.values()])
    for n, (row, found) in enumerate(curves.items()):
        _plot_errors(axes, row, found, nights, marks[row.provider], f"line-{n}")
        tags[f"line-{n}"] = Tag(row.provider, tuple(_tell_error(row, *pair) for pair in found))
    jumped = [row for row in curves if row.error_jumped]
    for row in _furthest_of_each_provider(jumped):
        slot = marks[row.provider].slot
        _mark_jump(axes, row, curves[row][-1], nights, marks[row.provider])
        tags |= {f"{part}-{slot}": Tag(row.provider) for part in ("last", "word")}
    _tick_nights(axes, nights)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.4), max(high, 2.5))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in OCTAVE_TICKS if tick / 2 <= MOST_ERROR_RATIO]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tell_octave(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    told = ", ".join(f"{row.provider} at {_tell_jump(row)}" for row in jumped)
    label = f"Trend of the relative error over the nights, {len(curves)} series; jumps tonight: {told or 'none'}."
    return finish_svg(figure, chart_id, label, tags)


def draw_references(
    trends: Mapping[str, tuple[Point, ...]], marks: Mapping[str, Mark], chart_id: str, slow: float
) -> str | None:
    """The reference kernels of one device over the nights, in percent of their earlier nights.

    They never change: a night on which they moved is one of another machine, whatever its series say. None if none
    has MIN_TREND nights.

    Args:
        slow: the share from which a change has a colour.
    """
    told = {name: points for name, points in trends.items() if len(points) >= MIN_TREND}
    if not told:
        return None
    figure, axes = make_axes(TREND_WIDTH, TREND_HEIGHT, left=46, bottom=26)
    nights = _place_nights(list(told.values()))
    tags: dict[str, Tag] = {}
    for name, points in told.items():
        change = _percents(points)[-1][0] / 100
        edge = BAD if change > slow else GOOD if change < -slow else ""
        _plot_trend(axes, name, points, nights, marks[name], edge)
        tags |= _tag_trend(name, points, marks[name])
    _tick_nights(axes, nights)
    _tick_percents(axes, 2.5)
    changes = ", ".join(f"{name} {_percents(points)[-1][0]:+z.1f}%" for name, points in told.items())
    label = f"Trend of the reference kernels over the nights; the last night against the earlier ones: {changes}."
    return finish_svg(figure, chart_id, label, tags)


def _plot_trend(
    axes: Axes, name: str, points: tuple[Point, ...], at: Mapping[Point, float], mark: Mark, edge: str
) -> None:
    """Nights in percent with the last one marked, and told in words where it has an edge colour."""
    nights = [at[point] for point in points]
    medians, lows, highs = zip(*_percents(points), strict=True)
    axes.fill_between(nights, lows, highs, color=mark.colour, alpha=0.2, linewidth=0, gid=f"band-{mark.slot}")
    (line,) = axes.plot(nights, medians, line_style(name), color=mark.colour, marker=mark.marker)
    line.set(linewidth=1.5, markersize=5, markeredgecolor=SURFACE, markeredgewidth=0.5, clip_on=False)
    line.set_gid(f"line-{mark.slot}")
    (last,) = axes.plot(nights[-1], medians[-1], mark.marker, color=mark.colour, markersize=9)
    last.set(markeredgecolor=edge or INK, markeredgewidth=2 if edge else 1, clip_on=False, gid=f"last-{mark.slot}")
    if edge:
        write_beside(axes, f"{medians[-1]:+.0f}%", (nights[-1], medians[-1]), edge, "right", f"word-{mark.slot}")


def _ring_changes(
    axes: Axes, name: str, points: tuple[Point, ...], at: Mapping[Point, float], mark: Mark
) -> dict[str, Tag]:
    """A ring around the first night of each regime, that says how far its times are from those of the one before."""
    tags, percents = {}, _percents(points)
    for n, change in enumerate(changepoint.find_changes([point.median_us for point in points])):
        point, gid = points[change.index], f"change-{mark.slot}-{n}"
        (ring,) = axes.plot(at[point], percents[change.index][0], "o", color="none", markersize=13)
        ring.set(markeredgecolor=INK, markeredgewidth=1.2, clip_on=False, gid=gid)
        told = f"{name} {change.relative_change:+.1%} from {point.started_at:%Y-%m-%d} on, run {point.run_id}"
        tags[gid] = Tag(name, (told,))
    return tags


def _mark_since(
    axes: Axes, rows: Sequence[Row], trends: Mapping[Series, tuple[Point, ...]], at: Mapping[Point, float]
) -> list[str]:
    """A line with its date at each night since which a change stands; returns a sentence for each."""
    began = [
        (row, point)
        for row in rows
        for point in trends[row.series]
        if row.verdict and row.verdict.since_run == point.run_id
    ]
    sentences = []
    low, high = axes.get_ylim()
    for n, (run_id, found) in enumerate(group(began, lambda pair: pair[1].run_id).items()):
        day, place = f"{found[0][1].started_at:%d %b}", at[found[0][1]]
        axes.axvline(place, color=INK, linewidth=1, linestyle=":", gid=f"since-{n}")
        height = _find_room(low, high, is_above=any(row.state is State.SLOW for row, _ in found))
        side: Literal["left", "right"] = "left" if place < sum(axes.get_xlim()) / 2 else "right"
        write_beside(axes, f"since {day}", (place, height), INK, side, f"since-word-{n}")
        sentences.append(f"{', '.join(row.provider for row, _ in found)} so since {day}, run {run_id}.")
    return sentences


def _find_room(low: float, high: float, is_above: bool) -> float:
    """Where a word is clear of curves at 0 % and of one above or below them: beyond 0 %, or else halfway between."""
    if not is_above:
        return -_find_room(-high, -low, is_above=True)
    return low + 0.06 * (high - low) if -low > 0.25 * (high - low) else high / 2


def _tag_trend(name: str, points: tuple[Point, ...], mark: Mark) -> dict[str, Tag]:
    """What the artists of `_plot_trend` say."""
    tips = tuple(_tell_point(name, point) for point in points)
    around = {f"{part}-{mark.slot}": Tag(name) for part in ("band", "word")}
    return {f"line-{mark.slot}": Tag(name, tips), f"last-{mark.slot}": Tag(name, tips[-1:]), **around}


def _plot_errors(
    axes: Axes, row: Row, ratios: list[tuple[Point, float]], at: Mapping[Point, float], mark: Mark, gid: str
) -> None:
    """One series' error over the nights."""
    nights = [at[point] for point, _ in ratios]
    heights = [_clip_ratio(ratio) for _, ratio in ratios]
    (line,) = axes.plot(nights, heights, line_style(row.provider), color=mark.colour, marker=mark.marker)
    line.set(linewidth=1.2, markersize=5, markeredgecolor=SURFACE, markeredgewidth=0.5, clip_on=False, gid=gid)


def _mark_jump(axes: Axes, row: Row, last: tuple[Point, float], at: Mapping[Point, float], mark: Mark) -> None:
    """The last night of a series whose error jumped, marked and told in words."""
    place, edge = (at[last[0]], _clip_ratio(last[1])), BAD if last[1] > 1 else GOOD
    (point,) = axes.plot(*place, mark.marker, color=mark.colour, markersize=9)
    point.set(markeredgecolor=edge, markeredgewidth=2, clip_on=False, gid=f"last-{mark.slot}")
    write_beside(axes, _tell_jump(row), place, edge, "right", f"word-{mark.slot}")


def _place_nights(trends: Sequence[Sequence[Point]]) -> dict[Point, float]:
    """Where on the axis each night stands: at its time, or one step apart where a clock went back between two."""
    pairs = [pair for points in trends for pair in pairwise(points)]
    nights = [point for points in trends for point in points]
    if all(earlier.started_at <= later.started_at for earlier, later in pairs):
        return {point: point.started_at.timestamp() for point in nights}
    order = TopologicalSorter({point.run_id: set[str]() for point in nights})
    for earlier, later in pairs:
        order.add(later.run_id, earlier.run_id)
    steps = {run_id: float(step) for step, run_id in enumerate(order.static_order())}
    return {point: steps[point.run_id] for point in nights}


def _tick_percents(axes: Axes, least: float) -> None:
    """Room for changes of `least` percent at least, in whole percents."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -least), max(high, least))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f}%" if round(value) else "0%"))


def _tick_nights(axes: Axes, nights: Mapping[Point, float]) -> None:
    """Only the first and the last night are named, as shortly as tells them apart."""
    ends = min(nights, key=lambda point: nights[point]), max(nights, key=lambda point: nights[point])
    first, last = (point.started_at for point in ends)
    formats = (form for form in NIGHT_FORMATS if first.strftime(form) != last.strftime(form))
    form = next(formats, NIGHT_FORMATS[-1])
    axes.set_xticks([nights[point] for point in ends], [first.strftime(form), last.strftime(form)])
    left, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")


def _percents(points: tuple[Point, ...]) -> list[tuple[float, float, float]]:
    """Median, p20 and p80 of every night as percent change against the median of all nights but the last."""
    usual = statistics.median(point.median_us for point in points[:-1])
    return [
        (100 * (p.median_us / usual - 1), 100 * (p.p20_us / usual - 1), 100 * (p.p80_us / usual - 1)) for p in points
    ]


def _error_ratios(row: Row, points: tuple[Point, ...]) -> list[tuple[Point, float]]:
    """Every night with its error as a multiple of the row's earlier nights; none without earlier nights."""
    if row.earlier_error is None:
        return []
    return [
        (point, compare_errors(point.relative_error, row.earlier_error))
        for point in points
        if point.relative_error is not None
    ]


def _furthest_of_each_provider(rows: Sequence[Row]) -> list[Row]:
    """The row of each provider whose error is furthest from that of its earlier nights."""
    by_provider = group(rows, lambda row: row.provider).values()
    return [max(found, key=lambda row: abs(math.log(_clip_ratio(row.error_ratio or 0.0)))) for found in by_provider]


def _clip_ratio(ratio: float) -> float:
    """Onto the axis of errors."""
    return min(max(ratio, 1 / MOST_ERROR_RATIO), MOST_ERROR_RATIO)


def _tell_jump(row: Row) -> str:
    """Case and ratio."""
    return f"{row.case_label} {tell_ratio(row.error_ratio or 0.0)}"


def _tell_error(row: Row, point: Point, ratio: float) -> str:
    """What hovering over a point of the errors' trend says."""
    close = f", {point.share_close:.2%} close" if point.share_close is not None else ""
    night = f"{point.started_at:%Y-%m-%d %H:%M} UTC"
    told = f"{row.provider}, {row.case_label}, {night}: relative error {point.relative_error:.3g} ({tell_ratio(ratio)})"
    return f"{told}{close}, run {point.run_id}"


def _tell_point(provider: str, point: Point) -> str:
    """What hovering over a point of a trend says."""
    spread = f"(p20 {point.p20_us:.4g}, p80 {point.p80_us:.4g})"
    return f"{provider}, {point.started_at:%Y-%m-%d %H:%M} UTC: {point.median_us:.4g} us {spread}, run {point.run_id}"
