"""Rows and trends -> charts. The only file that draws; nothing of a record is set as text, so nothing can be markup."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from dashboards.rows import Panel, Row, group, is_vllm
from dashboards.svg import BAD, GOOD, GRID, INK, NUM_COLOURS, SURFACE, Mark, Tag, finish_svg
from dashboards.words import tell_ratio
from tasks.accuracy import ERROR_JUMP, compare_errors
from tasks.records import Point, Series, State, Status

WIDTH = 420
"""Pixels of a chart before the page scales it; text is 11 to 12 of them."""
LATENCY_HEIGHTS = (320, 460)
TREND_WIDTH = 320
TREND_HEIGHT = 180
BAR_HEIGHT = 16
CASE_GAP = 10
FINE_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
OCTAVE_TICKS = tuple(2.0**n for n in range(-12, 13))
MOST_RATIO_TICKS = 6
"""On the axis of speed-ups; more labels would touch."""
MOST_ERROR_RATIO = 16.0
"""Where the axis of errors ends: what is further from 1 is drawn there."""
NIGHT_FORMATS = ("%d %b", "%d %b %Y", "%d %b %H:%M", "%d %b %H:%M:%S")


def assign_marks(pages: Iterable[Iterable[str]]) -> dict[str, Mark]:
    """One colour and marker per provider for all pages of the site; on one page nobody shares either without need.

    Who meets the most others chooses first: who meets fewer than there are colours always finds a free one.

    Args:
        pages: the providers of each page.
    """
    on_pages = [set(page) for page in pages]
    met = {name: set().union(*(page for page in on_pages if name in page)) for name in set().union(*on_pages)}
    marks: dict[str, Mark] = {}
    free = [Mark(slot) for slot in range(NUM_COLOURS * len(met))]
    for name in sorted(met, key=lambda name: (-len(met[name]), name)):
        near = [marks[other] for other in met[name] if other in marks]
        colours, markers = {mark.colour for mark in near}, {mark.marker for mark in near}
        marks[name] = min(free, key=lambda mark: (mark.colour in colours, mark.marker in markers))
        free.remove(marks[name])
    return marks


def draw_latency(panel: Panel, marks: Mapping[str, Mark], chart_id: str) -> str | None:
    """Microseconds per call by tokens, both logarithmic, with the band from p20 to p80; None if nothing was timed."""
    timed = [row for row in panel.rows if row.median_us is not None]
    if not timed:
        return None
    shortest, tallest = LATENCY_HEIGHTS
    height = min(max(_measure_bars(panel)[1], shortest), tallest)  # as tall as the bars beside it, within reason
    figure, axes = _make_axes(WIDTH, height, left=58, bottom=48)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    tags = {}
    tokens = sorted({row.num_tokens for row in panel.rows})
    for provider, rows in group(timed, lambda row: row.provider).items():
        _plot_curve(axes, tokens, rows, marks[provider])
        tags[f"line-{marks[provider].slot}"] = Tag(provider, tuple(_tell_row(row) for row in rows))
        tags |= {f"{part}-{marks[provider].slot}": Tag(provider) for part in ("band", "spread")}
    tokens = sorted({row.num_tokens for row in timed})
    if len(tokens) == 1:  # a log axis of no width would put the points outside of it
        axes.set_xlim(tokens[0] / 2, tokens[0] * 2)
    _tick_tokens(axes, tokens)
    _tick_microseconds(axes)
    axes.set_xlabel("tokens in the batch (M)")
    axes.set_ylabel("us per call")
    largest = ", ".join(f"{row.provider} {row.median_us:.4g}" for row in timed if row.num_tokens == tokens[-1])
    label = f"Line chart: microseconds per call by tokens, {tokens[0]} to {tokens[-1]}. At M={tokens[-1]}: {largest}."
    return finish_svg(figure, chart_id, label, tags)


def draw_speedups(panel: Panel, marks: Mapping[str, Mark], chart_id: str) -> str | None:
    """Bars from 1 to each provider's speed-up, grouped by tokens; None if there is nothing to compare with."""
    shown, height = _measure_bars(panel)
    ratios = [row.speedup for row in shown if row.speedup is not None]
    if not ratios:
        return None
    by_tokens = group(shown, lambda row: row.num_tokens)
    figure, axes = _make_axes(WIDTH, height, left=58, bottom=48)
    axes.set_xscale("log", base=2)
    _limit_ratios(axes, ratios)
    tags: dict[str, Tag] = {}
    centres, top = [], 0.0
    for rows in by_tokens.values():
        for n, row in enumerate(sorted(rows, key=lambda row: row.provider)):
            gid = f"bar-{len(tags) // 3}"
            _draw_bar(axes, row, top + n, marks[row.provider], gid)
            tags[gid] = Tag(row.provider, (_tell_row(row),))
            tags |= {f"{gid}-body": Tag(row.provider), f"{gid}-word": Tag(row.provider)}
        centres.append(top + (len(rows) - 1) / 2)
        top += len(rows) + CASE_GAP / BAR_HEIGHT
    axes.set_yticks(centres, [f"M={tokens}" for tokens in by_tokens])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(top - CASE_GAP / BAR_HEIGHT - 0.3, -0.7)
    axes.grid(visible=False, axis="y")
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xlabel("slower  \N{LEFTWARDS ARROW}  speed-up  \N{RIGHTWARDS ARROW}  faster")
    best = max(shown, key=lambda row: row.speedup or 0.0)
    largest = f"{best.provider} {best.speedup:.2f} at M={best.num_tokens}"
    label = f"Bar chart: speed-up by provider and tokens. Largest: {largest}."
    return finish_svg(figure, chart_id, label, tags)


def draw_trend(
    rows: Sequence[Row], trends: Mapping[Series, tuple[Point, ...]], marks: Mapping[str, Mark], chart_id: str
) -> str | None:
    """Every provider of one case over the nights, in percent of its own earlier nights.

    Percent, because providers differ by factors and a regression by a few percent would vanish on shared microseconds.
    None if no provider has two nights.
    """
    told = [row for row in rows if len(trends.get(row.series, ())) > 1]
    if not told:
        return None
    figure, axes = _make_axes(TREND_WIDTH, TREND_HEIGHT, left=46, bottom=26)
    tags = {}
    for row in told:
        points = trends[row.series]
        _plot_trend(axes, row, points, marks[row.provider])
        tips = tuple(_tell_point(row.provider, point) for point in points)
        tags[f"line-{marks[row.provider].slot}"] = Tag(row.provider, tips)
        tags[f"last-{marks[row.provider].slot}"] = Tag(row.provider, tips[-1:])
        tags |= {f"{part}-{marks[row.provider].slot}": Tag(row.provider) for part in ("band", "word")}
    nights = sorted(point.started_at for row in told for point in trends[row.series])
    _tick_nights(axes, nights[0], nights[-1])
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -6), max(high, 6))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f}%" if round(value) else "0%"))
    changes = ", ".join(f"{row.provider} {_percents(trends[row.series])[-1][0]:+.1f}%" for row in told)
    label = f"Trend of {rows[0].case_label} over the nights; the last night against the earlier ones: {changes}."
    return finish_svg(figure, chart_id, label, tags)


def draw_errors(
    rows: Sequence[Row], trends: Mapping[Series, tuple[Point, ...]], marks: Mapping[str, Mark], chart_id: str
) -> str | None:
    """The relative error of every series over the nights, as a multiple of its own earlier nights' median.

    The band is what nobody needs to look at; tonight's largest jump of each provider is told in words. None if no
    series has two nights.
    """
    curves = {row: ratios for row in rows if len(ratios := _error_ratios(row, trends.get(row.series, ()))) > 1}
    if not curves:
        return None
    figure, axes = _make_axes(TREND_WIDTH, TREND_HEIGHT, left=46, bottom=26)
    axes.set_yscale("log", base=2)
    axes.axhspan(1 / ERROR_JUMP, ERROR_JUMP, color=INK, alpha=0.06, linewidth=0)
    tags: dict[str, Tag] = {}
    for n, (row, ratios) in enumerate(curves.items()):
        _plot_errors(axes, row, ratios, marks[row.provider], f"line-{n}")
        tags[f"line-{n}"] = Tag(row.provider, tuple(_tell_error(row, *pair) for pair in ratios))
    jumped = [row for row in curves if row.error_jumped]
    for row in _furthest_of_each_provider(jumped):
        slot = marks[row.provider].slot
        _mark_jump(axes, row, curves[row][-1], marks[row.provider])
        tags |= {f"{part}-{slot}": Tag(row.provider) for part in ("last", "word")}
    nights = sorted(point.started_at for ratios in curves.values() for point, _ in ratios)
    _tick_nights(axes, nights[0], nights[-1])
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.4), max(high, 2.5))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in OCTAVE_TICKS if tick / 2 <= MOST_ERROR_RATIO]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tell_octave(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    told = ", ".join(f"{row.provider} at {_tell_jump(row)}" for row in jumped)
    label = f"Trend of the relative error over the nights, {len(curves)} series; jumps tonight: {told or 'none'}."
    return finish_svg(figure, chart_id, label, tags)


def _make_axes(width: int, height: int, left: int, bottom: int) -> tuple[Figure, Axes]:
    """A figure of width x height pixels with margins in pixels, quiet axes and a grid behind the data."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    inner_width, inner_height = width - left - 14, height - bottom - 12
    axes = figure.add_axes((left / width, bottom / height, inner_width / width, inner_height / height))
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=11, color=GRID)
    axes.xaxis.label.set(color=INK, size=12)
    axes.yaxis.label.set(color=INK, size=12)
    return figure, axes


def _line_style(provider: str) -> str:
    """vLLM's curves are dashed."""
    return "--" if is_vllm(provider) else "-"


def _plot_curve(axes: Axes, tokens: list[int], rows: list[Row], mark: Mark) -> None:
    """One provider's medians with the band from p20 to p80 behind them; a case that was not timed leaves a gap."""
    timed = {row.num_tokens: (row.median_us, row.p20_us, row.p80_us) for row in rows}
    gap = (math.nan, math.nan, math.nan)
    medians, low, high = np.array([timed.get(count, gap) for count in tokens], dtype=float).T
    axes.fill_between(tokens, low, high, color=mark.colour, alpha=0.2, linewidth=0, gid=f"band-{mark.slot}")
    axes.vlines(tokens, low, high, color=mark.colour, linewidth=3, alpha=0.5, gid=f"spread-{mark.slot}")
    (line,) = axes.plot(tokens, medians, _line_style(rows[0].provider), color=mark.colour, marker=mark.marker)
    line.set(linewidth=1.8, markersize=8, markeredgecolor=SURFACE, markeredgewidth=0.8, clip_on=False)
    line.set_gid(f"line-{mark.slot}")


def _draw_bar(axes: Axes, row: Row, y: float, mark: Mark, gid: str) -> None:
    """A bar from 1 to the speed-up with the provider's marker at its end, or the status where there is no speed-up."""
    if row.speedup is None:
        axes.plot(1, y, mark.marker, color=mark.colour, markersize=8, markeredgecolor=SURFACE, gid=gid)
        _write_beside(axes, row.status.replace("_", " "), (1, y), BAD, "left", f"{gid}-word")
        return
    axes.barh(y, row.speedup - 1, left=1, height=0.72, color=mark.colour, alpha=0.55, gid=f"{gid}-body")
    axes.plot(row.speedup, y, mark.marker, color=mark.colour, markersize=8, markeredgecolor=SURFACE, gid=gid)
    side: Literal["left", "right"] = "left" if row.speedup >= 1 else "right"
    _write_beside(axes, f"{row.speedup:.2f}\N{MULTIPLICATION SIGN}", (row.speedup, y), INK, side, f"{gid}-word")


def _plot_trend(axes: Axes, row: Row, points: tuple[Point, ...], mark: Mark) -> None:
    """One series over the nights in percent, its last night marked and told in words if it is fast or slow."""
    nights = [point.started_at.timestamp() for point in points]
    medians, lows, highs = zip(*_percents(points), strict=True)
    axes.fill_between(nights, lows, highs, color=mark.colour, alpha=0.2, linewidth=0, gid=f"band-{mark.slot}")
    (line,) = axes.plot(nights, medians, _line_style(row.provider), color=mark.colour, marker=mark.marker)
    line.set(linewidth=1.5, markersize=5, markeredgecolor=SURFACE, markeredgewidth=0.5, clip_on=False)
    line.set_gid(f"line-{mark.slot}")
    edge = {State.SLOW: BAD, State.FAST: GOOD}.get(row.state or State.SAME)
    (last,) = axes.plot(nights[-1], medians[-1], mark.marker, color=mark.colour, markersize=9)
    last.set(markeredgecolor=edge or INK, markeredgewidth=2 if edge else 1, clip_on=False, gid=f"last-{mark.slot}")
    if edge:
        _write_beside(axes, f"{medians[-1]:+.0f}%", (nights[-1], medians[-1]), edge, "right", f"word-{mark.slot}")


def _plot_errors(axes: Axes, row: Row, ratios: list[tuple[Point, float]], mark: Mark, gid: str) -> None:
    """One series' error over the nights."""
    nights = [point.started_at.timestamp() for point, _ in ratios]
    heights = [_clip_ratio(ratio) for _, ratio in ratios]
    (line,) = axes.plot(nights, heights, _line_style(row.provider), color=mark.colour, marker=mark.marker)
    line.set(linewidth=1.2, markersize=5, markeredgecolor=SURFACE, markeredgewidth=0.5, clip_on=False, gid=gid)


def _mark_jump(axes: Axes, row: Row, last: tuple[Point, float], mark: Mark) -> None:
    """The last night of a series whose error jumped, marked and told in words."""
    at, edge = (last[0].started_at.timestamp(), _clip_ratio(last[1])), BAD if last[1] > 1 else GOOD
    (point,) = axes.plot(*at, mark.marker, color=mark.colour, markersize=9)
    point.set(markeredgecolor=edge, markeredgewidth=2, clip_on=False, gid=f"last-{mark.slot}")
    _write_beside(axes, _tell_jump(row), at, edge, "right", f"word-{mark.slot}")


def _write_beside(
    axes: Axes, text: str, point: tuple[float, float], colour: str, anchor: Literal["left", "right"], gid: str
) -> None:
    """Text clear of the marker at a point; its `anchor` end is the one next to the marker."""
    offset = (9, 0) if anchor == "left" else (-9, 0)
    written = axes.annotate(text, point, offset, textcoords="offset points", color=colour, ha=anchor, va="center")
    written.set(size=11, gid=gid)


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


def _tick_tokens(axes: Axes, tokens: list[int]) -> None:
    """A tick at every batch size, thinned where labels would touch, and the last one always."""
    step = math.ceil(len(tokens) / 10)
    kept = tokens[::-1][::step]
    axes.set_xticks(kept, [str(count) for count in kept])
    axes.xaxis.set_minor_locator(NullLocator())


def _tick_microseconds(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 per decade on short axes, at decades on long ones, in plain figures."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 500 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _tick_nights(axes: Axes, first: datetime, last: datetime) -> None:
    """Only the first and the last night are named, as shortly as tells them apart."""
    formats = (form for form in NIGHT_FORMATS if first.strftime(form) != last.strftime(form))
    form = next(formats, NIGHT_FORMATS[-1])
    axes.set_xticks([first.timestamp(), last.timestamp()], [first.strftime(form), last.strftime(form)])
    left, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")


def _limit_ratios(axes: Axes, ratios: list[float]) -> None:
    """Room for the labels beyond the longest bars, and ticks that suit the span."""
    low, high = math.log2(min([*ratios, 0.8])), math.log2(max([*ratios, 1.25]))
    room = 0.2 * (high - low)
    axes.set_xlim(2 ** (low - room), 2 ** (high + room))
    fine = high - low < 1.5
    ticks = FINE_TICKS if fine else OCTAVE_TICKS
    inside = [tick for tick in ticks if low - room <= math.log2(tick) <= high + room]
    step = math.ceil(len(inside) / MOST_RATIO_TICKS)
    kept = inside[inside.index(1.0) % step :: step]
    axes.set_xticks(kept, [f"{tick:g}\N{MULTIPLICATION SIGN}" if fine else _tell_octave(tick) for tick in kept])
    axes.xaxis.set_minor_locator(NullLocator())


def _measure_bars(panel: Panel) -> tuple[list[Row], int]:
    """The rows that get a bar or a word, and the height of the chart that holds them."""
    shown = [row for row in panel.rows if row.speedup is not None or _failed(row)]
    return shown, 64 + BAR_HEIGHT * len(shown) + CASE_GAP * len({row.num_tokens for row in shown})


def _failed(row: Row) -> bool:
    """Tried and came to nothing, other than by being unsupported."""
    return row.measurement is not None and row.status not in (Status.OK, Status.UNSUPPORTED)


def _tell_row(row: Row) -> str:
    """What hovering over a point of tonight says."""
    if row.median_us is None:
        return f"{row.provider}, {row.case_label}: {row.status}"
    told = f"{row.provider}, {row.case_label}: {row.median_us:.4g} us (p20 {row.p20_us:.4g}, p80 {row.p80_us:.4g})"
    return told + (f", {row.speedup:.2f}\N{MULTIPLICATION SIGN} {row.reference}" if row.speedup is not None else "")


def _tell_octave(ratio: float) -> str:
    """A power of two as it is: 1/64 has no short decimal."""
    return f"{ratio:g}\N{MULTIPLICATION SIGN}" if ratio >= 1 else f"1/{1 / ratio:g}\N{MULTIPLICATION SIGN}"


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
