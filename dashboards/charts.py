"""Rows -> charts of one night; nothing of a record is set as text, so nothing can be markup."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dashboards.axes import (
    BAR_HEIGHT,
    CASE_GAP,
    OCTAVE_TICKS,
    RIGHT,
    TOP,
    Axis,
    Tick,
    draw_bar,
    draw_dot,
    draw_x,
    draw_y,
    line_style,
    round_decades,
    tell_octave,
    widen,
    write_beside,
)
from dashboards.paper import Paper
from dashboards.rows import Panel, Row, group
from dashboards.svg import BAD, INK, NUM_COLOURS, SURFACE, Drawing, Mark, Tag
from dashboards.words import tell_half_width
from tasks.records import Status

WIDTH = 420
"""Pixels of a chart before the page scales it; text is 11 of them."""
LEFT, BOTTOM = 58, 48
"""Margins in pixels."""
DIGIT_WIDTH = 7.0
"""Pixels of a digit of that text in DejaVu Sans, the widest that pages are seen in."""
CURVES_HEIGHTS = (320, 460)
FINE_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
MOST_RATIO_TICKS = 6
"""On the axis of speed-ups; more labels would touch."""


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


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a curve shows of a row."""

    label: str
    """Of its axis."""
    find: Callable[[Row, float], float]
    """Its value at a time per call in microseconds."""


def find_throughput(row: Row, us: float) -> float:
    """Tera floating-point operations per second."""
    return row.measurement.check.flops / us / 1e6 if row.measurement else math.nan


def find_bandwidth(row: Row, us: float) -> float:
    """Least gigabytes moved per second."""
    return row.measurement.check.bytes_moved / us / 1e3 if row.measurement else math.nan


THROUGHPUT = Quantity("TFLOP/s", find_throughput)
BANDWIDTH = Quantity("GB/s", find_bandwidth)


def draw_curves(panel: Panel, marks: Mapping[str, Mark], chart_id: str, quantity: Quantity) -> Drawing | None:
    """A quantity by tokens, both logarithmic, with the band from p20 to p80 of the times.

    None for fewer than two sizes: the table and the bars tell a single one.
    """
    timed = [row for row in panel.rows if row.median_us is not None]
    tokens = sorted({row.num_tokens for row in timed})
    if len(tokens) < 2:
        return None
    shortest, tallest = CURVES_HEIGHTS
    paper = Paper(WIDTH, min(max(_measure_bars(panel)[1], shortest), tallest))  # as tall as the bars beside it
    values = [quantity.find(row, us) for row in timed for us in (row.p20_us, row.median_us, row.p80_us) if us]
    across = Axis(*widen(tokens, 0.05, 2), LEFT, WIDTH - LEFT - RIGHT, is_log=True)
    low, high = widen(values, 0.06, 1.5)
    up = Axis(low, high, BOTTOM, paper.height - BOTTOM - TOP - 8, is_log=True)
    draw_x(paper, across, BOTTOM, _tick_tokens(tokens, across), "tokens in the batch (M)")
    draw_y(paper, up, LEFT, round_decades(low, high), quantity.label)
    tags = {}
    for provider, rows in group(timed, lambda row: row.provider).items():
        slot = marks[provider].slot
        _plot_curve(paper, across, up, sorted({row.num_tokens for row in panel.rows}), rows, marks[provider], quantity)
        tags[f"line-{slot}"] = Tag(provider, tuple(tell_row(row) for row in rows))
        tags |= {f"{part}-{slot}": Tag(provider) for part in ("band", "spread")}
    largest = ", ".join(
        f"{row.provider} {quantity.find(row, row.median_us or math.nan):.4g}"
        for row in timed
        if row.num_tokens == tokens[-1]
    )
    label = f"Line chart: {quantity.label} by tokens, {tokens[0]} to {tokens[-1]}. At M={tokens[-1]}: {largest}."
    return Drawing(paper.figure, chart_id, label, tags)


def draw_speedups(panel: Panel, marks: Mapping[str, Mark], chart_id: str) -> Drawing | None:
    """Bars from 1 to each provider's speed-up, grouped by tokens; None if there is nothing to compare with."""
    shown, height = _measure_bars(panel)
    ratios = [row.speedup.ratio for row in shown if row.speedup]
    if not ratios:
        return None
    paper = Paper(WIDTH, height)
    axis, ticks = _span_ratios(ratios)
    draw_x(paper, axis, BOTTOM, ticks, "slower  \N{LEFTWARDS ARROW}  speed-up  \N{RIGHTWARDS ARROW}  faster")
    one = float(axis.place(1.0))
    paper.line([one, one], [BOTTOM, height - TOP], INK, linewidth=1)
    tags: dict[str, Tag] = {}
    top = float(height - TOP)
    for tokens, rows in group(shown, lambda row: row.num_tokens).items():
        for n, row in enumerate(sorted(rows, key=lambda row: row.provider)):
            gid = f"bar-{len(tags) // 3}"
            _draw_speedup(paper, axis, row, top - BAR_HEIGHT * (n + 0.5), marks[row.provider], gid)
            tags[gid] = Tag(row.provider, (tell_row(row),))
            tags |= {f"{gid}-body": Tag(row.provider), f"{gid}-word": Tag(row.provider)}
        paper.write(LEFT - 6, top - BAR_HEIGHT * len(rows) / 2, f"M={tokens}", "right")
        top -= BAR_HEIGHT * len(rows) + CASE_GAP
    best = max(shown, key=lambda row: row.speedup.ratio if row.speedup else 0.0)
    largest = f"{best.provider} {max(ratios):.2f} at M={best.num_tokens}"
    label = f"Bar chart: speed-up by provider and tokens. Largest: {largest}."
    return Drawing(paper.figure, chart_id, label, tags)


def _plot_curve(
    paper: Paper, across: Axis, up: Axis, tokens: list[int], rows: list[Row], mark: Mark, quantity: Quantity
) -> None:
    """One provider's medians with the band from p20 to p80 behind them; a case that was not timed leaves a gap."""
    timed = {
        row.num_tokens: [quantity.find(row, us or math.nan) for us in (row.median_us, row.p20_us, row.p80_us)]
        for row in rows
    }
    xs = across.place(tokens)
    medians, low, high = up.place([timed.get(count, [math.nan] * 3) for count in tokens]).T
    paper.band(xs, low, high, mark.colour, f"band-{mark.slot}")
    stems = np.column_stack([low, high, np.full(len(xs), math.nan)]).ravel()
    paper.line(np.repeat(xs, 3), stems, mark.colour, f"spread-{mark.slot}", linewidth=3, alpha=0.5)
    look = {"marker": mark.marker, "markersize": 8, "markeredgecolor": SURFACE, "markeredgewidth": 0.8}
    style = line_style(rows[0].provider)
    paper.line(xs, medians, mark.colour, f"line-{mark.slot}", linewidth=1.8, linestyle=style, **look)


def _draw_speedup(paper: Paper, axis: Axis, row: Row, y: float, mark: Mark, gid: str) -> None:
    """A bar from 1 to the speed-up with the provider's marker at its end, or the status where there is no speed-up."""
    one = float(axis.place(1.0))
    if row.speedup is None:
        draw_dot(paper, mark, one, y, gid)
        write_beside(paper, row.status.replace("_", " "), one, y, "left", BAD, f"{gid}-word")
        return
    ratio = row.speedup.ratio
    side: Literal["left", "right"] = "left" if ratio >= 1 else "right"
    end = float(axis.place(ratio))
    draw_bar(paper, mark, one, end, y, gid, f"{ratio:.2f}\N{MULTIPLICATION SIGN}", side)


def _tick_tokens(tokens: list[int], across: Axis) -> list[Tick]:
    """A tick at every batch size whose label is clear of the next one's, and the last one always."""
    kept: list[Tick] = []
    nearest = math.inf
    for count in reversed(tokens):
        x, half_width = float(across.place(count)), DIGIT_WIDTH * len(str(count)) / 2
        if x + half_width <= nearest:
            kept.append((count, str(count)))
            nearest = x - half_width - DIGIT_WIDTH
    return kept


def _span_ratios(ratios: list[float]) -> tuple[Axis, list[Tick]]:
    """Room for the labels beyond the longest bars, and ticks that suit the span."""
    low, high = math.log2(min([*ratios, 0.8])), math.log2(max([*ratios, 1.25]))
    room = 0.2 * (high - low)
    axis = Axis(2 ** (low - room), 2 ** (high + room), LEFT, WIDTH - LEFT - RIGHT, is_log=True)
    fine = high - low < 1.5
    inside = [tick for tick in (FINE_TICKS if fine else OCTAVE_TICKS) if axis.holds(tick)]
    step = math.ceil(len(inside) / MOST_RATIO_TICKS)
    kept = inside[inside.index(1.0) % step :: step]
    return axis, [(tick, f"{tick:g}\N{MULTIPLICATION SIGN}" if fine else tell_octave(tick)) for tick in kept]


def _measure_bars(panel: Panel) -> tuple[list[Row], int]:
    """The rows that get a bar or a word, and the height of the chart that holds them."""
    shown = [row for row in panel.rows if row.speedup or _failed(row)]
    return shown, 64 + BAR_HEIGHT * len(shown) + CASE_GAP * len({row.num_tokens for row in shown})


def _failed(row: Row) -> bool:
    """Tried and came to nothing, other than by being unsupported."""
    return row.measurement is not None and row.status not in (Status.OK, Status.UNSUPPORTED)


def tell_row(row: Row) -> str:
    """What hovering over a point of tonight says."""
    if row.median_us is None:
        return f"{row.provider}, {row.case_label}: {row.status}"
    median = f"{row.median_us:.4g} us {tell_half_width(row.half_width)}".strip()
    told = f"{row.provider}, {row.case_label}: {median} (p20 {row.p20_us:.4g}, p80 {row.p80_us:.4g})"
    if not row.speedup:
        return told
    times = f"{row.speedup.ratio:.2f}\N{MULTIPLICATION SIGN} {tell_half_width(row.speedup.half_width)}".strip()
    alone = ", timed alone" if row.speedup.is_timed_alone else ""
    return f"{told}, {times} {row.reference}{alone}"
