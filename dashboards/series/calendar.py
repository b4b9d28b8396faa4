"""The nights of a site on one axis that all its pages share, so that what happened in one night stands at one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from tasks.judgement.histories import Floats
from tasks.records import Run

MOST_TICKS = 6
FORMATS = ("%d %b", "%d %b %Y", "%d %b %H:%M", "%d %b %H:%M:%S")


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """When the runs of a site were, and where they stand."""

    runs: tuple[Run, ...]
    places: Floats
    """From 0 to 1, by time; one step apart where a clock went back between two."""
    ticks: tuple[tuple[float, str], ...]
    """Places that are named, each with its date."""


def make_calendar(runs: Sequence[Run]) -> Calendar:
    """Put runs on an axis, in their order."""
    moments = [run.started_at for run in runs]
    steps = np.arange(len(runs), dtype=np.float64)
    if all(earlier <= later for earlier, later in pairwise(moments)):
        steps = np.array([moment.timestamp() for moment in moments])
    length = steps[-1] - steps[0] if len(runs) else 0.0
    places = (steps - steps[0]) / length if length else np.full(len(runs), 0.5)
    return Calendar(tuple(runs), places, choose_ticks(moments, places))


def choose_ticks(moments: Sequence[datetime], places: Floats) -> tuple[tuple[float, str], ...]:
    """The first night, the last, and a few between that stand clear of each other, as shortly as tells them apart."""
    if not moments:
        return ()
    form = next((form for form in FORMATS if moments[0].strftime(form) != moments[-1].strftime(form)), FORMATS[-1])
    chosen = [0]
    for number, place in enumerate(places):
        if place - places[chosen[-1]] >= 1 / MOST_TICKS and places[-1] - place >= 1 / MOST_TICKS:
            chosen.append(number)
    chosen += [len(moments) - 1] if len(moments) > 1 else []
    return tuple((float(places[number]), moments[number].strftime(form)) for number in chosen)
