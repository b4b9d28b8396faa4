"""Rows -> charts of one night; nothing of a record is set as text, so nothing can be markup."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from dashboards.axes import OCTAVE_TICKS, line_style, make_axes, tell_octave, write_beside
from dashboards.rows import Panel, Row, group
from dashboards.svg import BAD, INK, NUM_COLOURS, SURFACE, Mark, Tag, finish_svg
from dashboards.words import tell_half_width
from tasks.records import Status

WIDTH = 420
"""Pixels of a chart before the page scales it; text is 11 to 12 of them."""
LATENCY_HEIGHTS = (320, 460)
BAR_HEIGHT = 16
CASE_GAP = 10
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


def draw_latency(panel: Panel, marks: Mapping[str, Mark], chart_id: str) -> str | None:
    """Microseconds per call by tokens, both logarithmic, with the band from p20 to p80.

    None for fewer than two sizes: the table and the bars tell a single one.
    """
    timed = [row for row in panel.rows if row.median_us is not None]
    if len({row.num_tokens for row in timed}) < 2:
        return None
    shortest, tallest = LATENCY_HEIGHTS
    height = min(max(_measure_bars(panel)[1], shortest), tallest)  # as tall as the bars beside it, within reason
    figure, axes = make_axes(WIDTH, height, left=58, bottom=48)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    tags = {}
    tokens = sorted({row.num_tokens for row in panel.rows})
    for provider, rows in group(timed, lambda row: row.provider).items():
        _plot_curve(axes, tokens, rows, marks[provider])
        tags[f"line-{marks[provider].slot}"] = Tag(provider, tuple(_tell_row(row) for row in rows))
        tags |= {f"{part}-{marks[provider].slot}": Tag(provider) for part in ("band", "spread")}
    tokens = sorted({row.num_tokens for row in timed})
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
    ratios = [row.speedup.ratio for row in shown if row.speedup]
    if not ratios:
        return None
    by_tokens = group(shown, lambda row: row.num_tokens)
    figure, axes = make_axes(WIDTH, height, left=58, bottom=48)
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
    best = max(shown, key=lambda row: row.speedup.ratio if row.speedup else 0.0)
    largest = f"{best.provider} {max(ratios):.2f} at M={best.num_tokens}"
    label = f"Bar chart: speed-up by provider and tokens. Largest: {largest}."
    return finish_svg(figure, chart_id, label, tags)


def _plot_curve(axes: Axes, tokens: list[int], rows: list[Row], mark: Mark) -> None:
    """One provider's medians with the band from p20 to p80 behind them; a case that was not timed leaves a gap."""
    timed = {row.num_tokens: (row.median_us, row.p20_us, row.p80_us) for row in rows}
    gap = (math.nan, math.nan, math.nan)
    medians, low, high = np.array([timed.get(count, gap) for count in tokens], dtype=float).T
    axes.fill_between(tokens, low, high, color=mark.colour, alpha=0.2, linewidth=0, gid=f"band-{mark.slot}")
    axes.vlines(tokens, low, high, color=mark.colour, linewidth=3, alpha=0.5, gid=f"spread-{mark.slot}")
    (line,) = axes.plot(tokens, medians, line_style(rows[0].provider), color=mark.colour, marker=mark.marker)
    line.set(linewidth=1.8, markersize=8, markeredgecolor=SURFACE, markeredgewidth=0.8, clip_on=False)
    line.set_gid(f"line-{mark.slot}")


def _draw_bar(axes: Axes, row: Row, y: float, mark: Mark, gid: str) -> None:
    """A bar from 1 to the speed-up with the provider's marker at its end, or the status where there is no speed-up."""
    if row.speedup is None:
        axes.plot(1, y, mark.marker, color=mark.colour, markersize=8, markeredgecolor=SURFACE, gid=gid)
        write_beside(axes, row.status.replace("_", " "), (1, y), BAD, "left", f"{gid}-word")
        return
    ratio = row.speedup.ratio
    axes.barh(y, ratio - 1, left=1, height=0.72, color=mark.colour, alpha=0.55, gid=f"{gid}-body")
    axes.plot(ratio, y, mark.marker, color=mark.colour, markersize=8, markeredgecolor=SURFACE, gid=gid)
    side: Literal["left", "right"] = "left" if ratio >= 1 else "right"
    write_beside(axes, f"{ratio:.2f}\N{MULTIPLICATION SIGN}", (ratio, y), INK, side, f"{gid}-word")


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
    axes.set_xticks(kept, [f"{tick:g}\N{MULTIPLICATION SIGN}" if fine else tell_octave(tick) for tick in kept])
    axes.xaxis.set_minor_locator(NullLocator())


def _measure_bars(panel: Panel) -> tuple[list[Row], int]:
    """The rows that get a bar or a word, and the height of the chart that holds them."""
    shown = [row for row in panel.rows if row.speedup or _failed(row)]
    return shown, 64 + BAR_HEIGHT * len(shown) + CASE_GAP * len({row.num_tokens for row in shown})


def _failed(row: Row) -> bool:
    """Tried and came to nothing, other than by being unsupported."""
    return row.measurement is not None and row.status not in (Status.OK, Status.UNSUPPORTED)


def _tell_row(row: Row) -> str:
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
