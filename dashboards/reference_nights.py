"""The reference kernels over the nights: they never change, so where they moved it was another machine."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from dashboards.paper import Panel, Paper, round_ticks
from dashboards.series.calendar import Calendar
from dashboards.series.sheets import BOTTOM, LEFT, RIGHT, WIDTH, draw_dates
from dashboards.svg import BAD, GOOD, INK, Drawing, Mark, Tag
from tasks.judgement.histories import Floats
from tasks.records import Point

HEIGHT = 74
LEAST_PERCENT = 2.5
MOST_MARKERS = 60
"""Nights that have a marker each, which says its time."""
STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def mark_references(trends: Mapping[tuple[str, str], Sequence[Point]]) -> dict[str, Mark]:
    """How each reference kernel looks."""
    return {name: Mark(slot) for slot, name in enumerate(sorted({name for _, name in trends}))}


def find_percents(points: Sequence[Point]) -> Floats:
    """How far each night's median is from that of the nights before the last, in percent."""
    medians = [point.median_us for point in points]
    usual = statistics.median(medians[:-1] or medians)
    return np.array([100 * (median / usual - 1) for median in medians])


def draw_reference_nights(
    trends: Mapping[str, Sequence[Point]], marks: Mapping[str, Mark], calendar: Calendar, slow: float, chart_id: str
) -> Drawing:
    """The reference kernels of one device on the axis of a series' nights.

    Args:
        trends: by name; nights that are not in the calendar are left out.
        slow: the share from which a change has a colour.
    """
    places = {run.run_id: float(place) for run, place in zip(calendar.runs, calendar.places, strict=True)}
    percents = {name: find_percents(points) for name, points in trends.items()}
    paper = Paper(WIDTH, BOTTOM + HEIGHT + 30)
    panel = Panel(paper, LEFT, BOTTOM, WIDTH - LEFT - RIGHT, HEIGHT)
    ends = [value for found in percents.values() for value in (*np.quantile(found, (0.01, 0.99)).tolist(), found[-1])]
    low, high = min(-LEAST_PERCENT, *ends), max(LEAST_PERCENT, *ends)
    panel.scale(low, high, [(t, f"{t:+g}%" if t else "0%") for t in round_ticks(low, high, 4)])
    tags = {}
    left = float(LEFT)
    for number, (name, points) in enumerate(trends.items()):
        mark, style, last = marks[name], STYLES[number % len(STYLES)], float(percents[name][-1])
        rows = [row for row, point in enumerate(points) if point.run_id in places]
        xs = panel.x(np.array([places[points[row].run_id] for row in rows]))
        is_marked = len(rows) <= MOST_MARKERS
        marked = {"marker": mark.marker, "markersize": 5} if is_marked else {}
        paper.line(xs, panel.y(percents[name][rows]), mark.colour, f"line-{mark.slot}", linestyle=style, **marked)
        tips = tuple(tell_night(name, points[row]) for row in rows) if is_marked else ()
        tags[f"line-{mark.slot}"] = Tag(name, tips)
        colour = BAD if last > 100 * slow else GOOD if last < -100 * slow else INK
        paper.line([left, left + 24], [paper.height - 10] * 2, mark.colour, linestyle=style)
        text = f"{name} {last:+z.1f}%"
        paper.write(left + 29, paper.height - 10, text, colour=colour)
        left += 50 + 6.6 * len(text)
    draw_dates(paper, calendar)
    changes = ", ".join(f"{name} {found[-1]:+z.1f}%" for name, found in percents.items())
    label = f"Trend of the reference kernels over the nights; the last night against the earlier ones: {changes}."
    return Drawing(paper.figure, chart_id, label, tags)


def tell_night(name: str, point: Point) -> str:
    """What hovering over a night says."""
    return f"{name}, {point.started_at:%Y-%m-%d %H:%M} UTC: {point.median_us:.4g} us, run {point.run_id}"
