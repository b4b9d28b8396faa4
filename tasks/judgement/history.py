"""The last nights of many series as arrays for the screening, and what earlier nights and people have said of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import copysign, log, nan
from typing import TypeGuard

import numpy as np

from tasks.records import Point, Retrial, Series, State, Verdict, Version
from tasks.statistics.lasting_moves import LastingMove
from tasks.statistics.screening import NUM_NIGHTS, STANDING_NIGHTS, Recent

ADOPTED_AFTER = 3
"""Nights after which a series that became faster is compared with its new times."""
LEAST_US, MOST_US = 1e-3, 1e12
"""From a nanosecond to eleven days: no kernel takes anything else."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A person says that a series is as it should be from one run on: a change is expected, or a baseline begins."""

    series: Series
    first_run: str
    """Nights before this run no longer count."""
    made_after: str
    """The newest run when the mark was made: verdicts of later ones know of it."""
    reason: str
    made_by: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What earlier nights and people have said of a series."""

    state: State | None = None
    """What it was last, tonight left out; None where nothing is known."""
    since_run: str = ""
    """The first run of what is not as it should be; "" if nothing is."""
    relative_change: float | None = None
    """How far it was from its baseline then."""
    baseline_run: str = ""
    """Nights before this run no longer count; "" if all do."""
    is_accepted: bool = False
    """A person said that it is as it should be."""
    last_timed: "Standing | None" = None
    """The same of its last night with a time, where it had none since."""

    @property
    def when_timed(self) -> "Standing":
        """What a time of tonight is judged by: a night without one does not make a change forgotten."""
        return self.last_timed or self

    @property
    def has_moved(self) -> bool:
        """Whether the series is known to be slower or faster than its baseline."""
        return self.state in (State.SLOW, State.FAST) and bool(self.since_run)

    @property
    def moved_by(self) -> float:
        """How far it is known to have moved, in the direction of its state: a night that is back again may draw
        relative_change past zero."""
        return copysign(self.relative_change or 0.0, 1 if self.state is State.SLOW else -1)


NOTHING_SAID = Standing()


def find_standings(
    latest: Iterable[Verdict], marks: Iterable[Mark], order: Mapping[str, int]
) -> dict[Series, Standing]:
    """What holds for each series before tonight. Who accepts a change makes it the baseline.

    Args:
        latest: the newest earlier verdict of each series, after the newest with a time.
        marks: what people said, in order.
        order: numbers of the runs.
    """
    told = list(latest)
    of_all = note_standings(told)
    of_timed = note_standings(verdict for verdict in told if verdict.median_us is not None)
    runs_of_all = {verdict.series: verdict.run_id for verdict in told}
    runs_of_timed = {verdict.series: verdict.run_id for verdict in told if verdict.median_us is not None}
    for mark in marks:
        is_of_absence = of_all.get(mark.series, NOTHING_SAID).state is State.MISSING
        if is_news(mark, runs_of_all, order):
            apply_mark(of_all, mark, order)
        if not is_of_absence and mark.series in of_timed and is_news(mark, runs_of_timed, order):
            apply_mark(of_timed, mark, order)
    for series, standing in of_all.items():
        last_timed = of_timed.get(series, standing)
        if last_timed != standing:
            of_all[series] = replace(standing, last_timed=last_timed)
    return of_all


def note_standings(verdicts: Iterable[Verdict]) -> dict[Series, Standing]:
    """What was said last of each series."""
    return {v.series: Standing(v.state, v.since_run, v.relative_change, v.baseline_run) for v in verdicts}


def is_news(mark: Mark, judged: Mapping[Series, str], order: Mapping[str, int]) -> bool:
    """Whether a mark was made after the verdict of its series, which knows of it otherwise."""
    return order.get(judged.get(mark.series, ""), -1) <= order.get(mark.made_after, -1)


def apply_mark(standings: dict[Series, Standing], mark: Mark, order: Mapping[str, int]) -> None:
    """What stands for the series of a mark once that is made."""
    told, first = standings.get(mark.series, NOTHING_SAID), order.get(mark.first_run, -1)
    is_accepted = order.get(told.since_run, -1) <= first
    if told.state is State.MISSING:
        standings[mark.series] = replace(told, is_accepted=is_accepted)
    elif is_accepted and told.has_moved:
        standings[mark.series] = Standing(baseline_run=mark.first_run)
    else:
        standings[mark.series] = replace(told, baseline_run=mark.first_run, is_accepted=is_accepted)


def adopt_gain(standing: Standing, nights: Sequence[Point], order: Mapping[str, int]) -> Standing:
    """The same, or what became faster as its own baseline once there are nights enough of it."""
    if standing.state is State.FAST and count_since(nights, standing.since_run, order) >= ADOPTED_AFTER:
        return Standing(baseline_run=standing.since_run)
    return standing


def count_since(nights: Sequence[Point], run_id: str, order: Mapping[str, int]) -> int:
    """Nights of a series from a run on."""
    first = order.get(run_id, -1)
    return sum(order[point.run_id] >= first for point in nights)


def is_time(median_us: float | None) -> TypeGuard[float]:
    """Whether it is one: no zero, and nothing that is not finite, can be compared."""
    return median_us is not None and LEAST_US <= median_us <= MOST_US


def keep_recent(nights: Sequence[Point], standing: Standing, order: Mapping[str, int]) -> Sequence[Point]:
    """The last nights; of a change that stands only the last ones, so that those before it are never forgotten."""
    if standing.has_moved:
        split = len(nights) - count_since(nights, standing.since_run, order)
        nights = (*nights[:split], *nights[split:][-STANDING_NIGHTS:])
    return nights[-NUM_NIGHTS:]


@dataclass(frozen=True, slots=True)
class Retried:
    """A series measured again tonight."""

    again_us: float | None = None
    """Median of tonight's version."""
    beside: float | None = None
    """Logarithm of what that took over the version of before, in turn with it on one device: the previous code, or else
    the last good configuration. None without one."""
    of_run: str = ""
    """The run whose version that is."""


NOT_RETRIED = Retried()


def arrange_recent(
    trends: Sequence[Sequence[Point]],
    series: Sequence[Series],
    standings: Sequence[Standing],
    retried: Mapping[Series, Retried],
    order: Mapping[str, int],
    moves: Mapping[str, Sequence[LastingMove]],
) -> Recent:
    """Arrays for the screening, in the order of the series; every trend ends with tonight, and every night has a time.

    Args:
        retried: what was measured again tonight.
        order: numbers of the runs.
        moves: by device name, when its machines changed for good.
    """
    recent = [keep_recent(nights, standing, order) for nights, standing in zip(trends, standings, strict=True)]
    width = max(map(len, recent), default=1)
    shape = (len(series), width)
    values, cards, runs = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    first, changed = np.zeros(len(series), dtype=np.int64), np.full(len(series), width)
    numbers: dict[tuple[str, str], int] = {}
    for row, (kept, one, standing) in enumerate(zip(recent, series, standings, strict=True)):
        values[row, width - len(kept) :] = [log(point.median_us) for point in kept]
        cards[row, width - len(kept) :] = [
            numbers.setdefault((one.device_name, point.device_uuid), len(numbers)) for point in kept
        ]
        runs[row, width - len(kept) :] = [order[point.run_id] for point in kept]
        if standing.baseline_run:
            first[row] = width - count_since(kept, standing.baseline_run, order)
        if standing.has_moved:
            changed[row] = min(width - count_since(kept, standing.since_run, order), width - 1)
    pools: dict[tuple[str, str], int] = {}
    of_likes = [pools.setdefault((one.device_name, one.timer), len(pools)) for one in series]
    found = [retried.get(one, NOT_RETRIED) for one in series]
    again = np.array([log(one.again_us) if one.again_us else nan for one in found], dtype=np.float64)
    beside = np.array([nan if one.beside is None else one.beside for one in found], dtype=np.float64)
    of_pools = [moves.get(device_name, ()) for device_name, _ in pools]
    return Recent(values, cards, runs, np.array(of_likes, dtype=np.int64), first, changed, again, beside, of_pools)


def find_retried(retrials: Iterable[Retrial]) -> dict[Series, Retried]:
    """What was measured again tonight, by series."""
    versions: dict[Series, dict[Version, tuple[float, str]]] = {}
    for retrial in retrials:
        if is_time(retrial.measurement.median_us):
            of = versions.setdefault(retrial.measurement.series, {})
            of[retrial.version] = retrial.measurement.median_us, retrial.of_run
    found = {}
    for series, of in versions.items():
        tonight_us, _ = of.get(Version.TONIGHT, (None, ""))
        before_us, of_run = of.get(Version.PREVIOUS_CODE, of.get(Version.LAST_GOOD_CONFIG, (None, "")))
        beside = log(tonight_us / before_us) if tonight_us and before_us else None
        found[series] = Retried(tonight_us, beside, of_run)
    return found
