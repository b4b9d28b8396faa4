"""The charts of one series' page: its nights, how they scatter, and the samples of the last."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboards.paper import Panel, Paper, round_ticks
from dashboards.series.calendar import Calendar
from dashboards.series.chronicle import LETTERS, Event, Regime
from dashboards.svg import BAD, GOOD, GRID, INK
from tasks.judgement.accuracy import ERROR_JUMP
from tasks.judgement.histories import Floats, History

WIDTH, LEFT, RIGHT = 640, 62, 14
TIME_HEIGHT, SMALL_HEIGHT, GAP, BOTTOM = 190, 52, 30, 24
SIDE_WIDTH, SIDE_HEIGHT = 300, 150
LINE = "#010300"
"""The stand-in of the first colour of series: a page has but one."""
MOST_ERROR = 4.0
"""Octaves at which the axis of errors ends."""
ENOUGH_NIGHTS = 6
"""From which on a level, and how nights scatter around it, mean anything."""
MOST_WORDS = 6
"""Changes that are told in words; of more, the largest."""
WORD_WIDTH = 45
"""Pixels that a change in percent takes, and a little more."""
MOST_SAMPLES = 600
"""Drawn of one night; of more, evenly chosen ones."""


def draw_history(
    history: History, floors_us: Floats, calendar: Calendar, regimes: Sequence[Regime], events: Sequence[Event]
) -> Paper:
    """Time with its regimes, share of the floor and numerical error over the nights of the site, on one axis."""
    has_floor, has_error = bool(np.isfinite(floors_us).any()), bool(np.isfinite(history.relative_error).any())
    height = BOTTOM + TIME_HEIGHT + GAP + (SMALL_HEIGHT + GAP) * (has_floor + has_error)
    paper, width, bottom = Paper(WIDTH, height), WIDTH - LEFT - RIGHT, float(BOTTOM)
    places = calendar.places[history.nights]
    if has_error:
        draw_errors(Panel(paper, LEFT, bottom, width, SMALL_HEIGHT), places, history)
        bottom += SMALL_HEIGHT + GAP
    if has_floor:
        draw_shares(Panel(paper, LEFT, bottom, width, SMALL_HEIGHT), places, floors_us / history.median_us)
        bottom += SMALL_HEIGHT + GAP
    panel = Panel(paper, LEFT, bottom, width, TIME_HEIGHT)
    draw_times(panel, places, history, regimes)
    draw_events(panel, places, events)
    draw_dates(paper, calendar)
    return paper


def draw_times(panel: Panel, places: Floats, history: History, regimes: Sequence[Regime]) -> None:
    """Medians and their p20 to p80, the level of each regime, and the changes between them."""
    panel.title("us per call, median and p20\N{EN DASH}p80")
    low, high = find_limits(history, regimes)
    panel.scale(low, high, [(tick, f"{tick:g}") for tick in round_ticks(low, high, 5)])
    xs, paper = panel.x(places), panel.paper
    ys = panel.y(history.median_us)
    paper.band(xs, panel.y(history.p20_us), panel.y(history.p80_us), LINE)
    for regime in regimes if len(history) >= ENOUGH_NIGHTS else ():
        level = float(panel.y(np.array([regime.median_us]))[0])
        paper.line([xs[regime.first], xs[regime.last]], [level, level], INK, linewidth=1.2, alpha=0.75)
    paper.line(xs, ys, LINE, "nights", **({"marker": "o", "markersize": 4} if len(xs) <= 60 else {}))
    changes = sorted(regimes[1:], key=lambda regime: -abs(regime.relative_change or 0.0))
    for number, regime in enumerate(changes):
        x = float(xs[regime.first])
        paper.line([x, x], [panel.bottom, panel.bottom + panel.height], INK, linewidth=1, linestyle=(0, (2, 2)))
        if number < MOST_WORDS and regime.relative_change is not None:
            colour = BAD if regime.relative_change > 0 else GOOD
            at_left = x > panel.left + 0.85 * panel.width
            beside = (xs >= x - WORD_WIDTH) & (xs < x) if at_left else (xs >= x) & (xs <= x + WORD_WIDTH)
            y = min(float(np.max(ys[beside], initial=panel.bottom)) + 12, panel.bottom + panel.height - 8)
            text = f"{regime.relative_change:+.1%}"
            paper.write(x + (-5 if at_left else 5), y, text, "right" if at_left else "left", colour)
    paper.line([xs[-1]], [ys[-1]], LINE, "last", marker="o", markersize=7, markeredgecolor=INK)


def find_limits(history: History, regimes: Sequence[Regime]) -> tuple[float, float]:
    """Of the axis of times: every level and nearly every night, and 3 % at least; a lone wild night is cut off."""
    levels = [regime.median_us for regime in regimes]
    low = min(*levels, float(np.quantile(history.p20_us, 0.02)), float(history.median_us[-1]))
    high = max(*levels, float(np.quantile(history.p80_us, 0.98)), float(history.median_us[-1]))
    margin = max(0.08 * (high - low), 0.015 * low)
    return low - margin, high + margin


def draw_events(panel: Panel, places: Floats, events: Sequence[Event]) -> None:
    """A tick with its letters at the lower edge for each night with events; letters that would touch are left out."""
    letters: dict[int, str] = {}
    for event in events:
        letters[event.row] = letters.get(event.row, "") + LETTERS[event.kind]
    free = -math.inf
    for row, text in letters.items():
        x = float(panel.x(places)[row])
        panel.paper.line([x, x], [panel.bottom, panel.bottom + 7], INK, linewidth=1.5)
        if x - 4 * len(text) > free:
            panel.paper.write(x, panel.bottom + 14, text, "center")
            free = x + 4 * len(text) + 2


def draw_shares(panel: Panel, places: Floats, shares: Floats) -> None:
    """Floor / median on a scale from nothing to all."""
    panel.title("share of the roofline")
    panel.scale(0.0, max(1.0, float(np.nanmax(shares))), [(0.0, "0%"), (0.5, "50%"), (1.0, "100%")])
    panel.paper.line(panel.x(places), panel.y(shares), LINE)


def draw_errors(panel: Panel, places: Floats, history: History) -> None:
    """The relative error as a multiple of its median over the nights; the band is what nobody needs to look at."""
    errors = history.relative_error
    usual = float(np.nanmedian(errors))
    panel.title(f"relative error, as a multiple of {usual:.3g}")
    octaves = np.log2(np.where(errors > 0, errors / usual, 2**-MOST_ERROR)) if usual else np.where(errors > 0, 9.0, 0.0)
    top = min(MOST_ERROR, max(1.0, float(np.nanmax(np.abs(octaves)))))
    marks = [(edge, f"{2.0**edge:g}\N{MULTIPLICATION SIGN}") for edge in (-math.floor(top), 0.0, math.floor(top))]
    panel.scale(-top, top, marks)
    low, high = panel.y(np.log2([1 / ERROR_JUMP, ERROR_JUMP]))
    panel.paper.boxes([(panel.left, float(low), panel.width, float(high - low))], INK, 0.06)
    panel.paper.line(panel.x(places), panel.y(octaves), LINE)


def draw_dates(paper: Paper, calendar: Calendar) -> None:
    """The dates at the foot of a paper."""
    width = paper.width - LEFT - RIGHT
    last = len(calendar.ticks) - 1
    for number, (place, text) in enumerate(calendar.ticks):
        align = "center" if last == 0 else "left" if number == 0 else "right" if number == last else "center"
        paper.write(LEFT + width * place, 9, text, align)  # type: ignore[arg-type]  # one of the three


def draw_spread(history: History, regimes: Sequence[Regime]) -> Paper:
    """How the nights scatter around the level of their regime, in percent, with the last one marked."""
    paper = Paper(SIDE_WIDTH, SIDE_HEIGHT)
    levels = np.repeat([r.median_us for r in regimes], [r.last - r.first + 1 for r in regimes])
    percents = 100 * (history.median_us / levels - 1)
    reach = max(1.0, float(np.quantile(np.abs(percents), 0.98)), abs(float(percents[-1])))
    num_bins = 25
    counts, _ = np.histogram(np.clip(percents, -reach, reach), num_bins, (-reach, reach))
    panel = Panel(paper, 14, 26, SIDE_WIDTH - 28, SIDE_HEIGHT - 56)
    tallest, step = float(counts.max()), panel.width / num_bins
    boxes = [
        (panel.left + number * step, panel.bottom, step - 1, panel.height * count / tallest)
        for number, count in enumerate(counts)
        if count
    ]
    paper.boxes(boxes, LINE, 0.6)
    paper.line([panel.left, panel.left + panel.width], [panel.bottom] * 2, GRID, linewidth=0.8)
    at = panel.left + panel.width * (float(percents[-1]) + reach) / (2 * reach)
    paper.line([at], [panel.bottom + panel.height + 6], INK, "tonight", marker="v", markersize=7)
    for share, align in ((0.0, "left"), (0.5, "center"), (1.0, "right")):
        text = f"{reach * (2 * share - 1):+.2g}%" if share != 0.5 else "0"
        paper.write(panel.left + panel.width * share, 11, text, align)  # type: ignore[arg-type]  # one of the three
    return paper


def draw_samples(samples_us: Sequence[float]) -> Paper:
    """The samples of a night in the order taken, with their median."""
    paper = Paper(SIDE_WIDTH, SIDE_HEIGHT)
    samples = np.asarray(samples_us)[:: max(1, math.ceil(len(samples_us) / MOST_SAMPLES))]
    panel = Panel(paper, 52, 26, SIDE_WIDTH - 62, SIDE_HEIGHT - 40)
    low, high = float(samples.min()), float(samples.max())
    margin = max(0.08 * (high - low), 0.002 * high)
    panel.scale(low - margin, high + margin, [(t, f"{t:.5g}") for t in round_ticks(low - margin, high + margin, 4)])
    xs = panel.x(np.linspace(0, 1, len(samples)) if len(samples) > 1 else np.array([0.5]))
    middle = float(panel.y(np.array([np.median(samples)]))[0])
    paper.line([panel.left, panel.left + panel.width], [middle, middle], INK, linewidth=1, linestyle=(0, (4, 2)))
    look: dict[str, Any] = {"marker": "o", "markersize": 3} if len(xs) < 40 else {}
    paper.line(xs, panel.y(samples), LINE, linewidth=0.9, **look)
    paper.write(panel.left, 11, "first")
    paper.write(panel.left + panel.width, 11, f"last of {len(samples_us)}", "right")
    return paper


def measure_spread(history: History, regimes: Sequence[Regime]) -> tuple[float, float]:
    """Half of the nights are within +- the first of their regime's level; the second is the same within a night."""
    levels = np.repeat([r.median_us for r in regimes], [r.last - r.first + 1 for r in regimes])
    between = float(np.median(np.abs(history.median_us / levels - 1)))
    within = float(np.median((history.p80_us - history.p20_us) / 2 / history.median_us))
    return between, within
