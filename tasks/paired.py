"""Two commits judged by sittings: in each, two fresh processes took turns, and the ratio of their times is one draw.

A process places its tensors and code elsewhere in memory than the next, and keeps what comes of that for life: more
turns of the same two processes repeat one draw more exactly and tell nothing of others. So a sitting counts once:

    d = mean over its turns of log(head / base);  mean(d) +- t(n - 1) * sd(d) / sqrt(n)

With equal code d is symmetric about 0, for the two are started and timed alike and the order of turns alternates.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from tasks.comparisons import REGRESSIONS, Contrast, Sitting
from tasks.intervals import find_median_interval
from tasks.records import Measurement, Series, State, Status
from tasks.turns import find_turn_ratios
from tasks.verdicts import STATES_BY_STATUS

LOOKS = (3, 5, 8, 12, 18, 27)
"""After so many sittings a series is judged, and those that are undecided go on; the p-value pays for each look."""
FALSE_ALARMS = 0.01
"""How often a whole comparison of equal code may tell one or more of its series as changed."""
CONFIDENCE = 0.99
"""Of the interval at each look, whose limits say that nothing of the size asked for has changed."""
FEW_SITTINGS = 5
"""Fewer tell only of LARGE_CHANGE: that one process is placed well and the other badly may happen three times over."""
LARGE_CHANGE = 1.0
LEAST_CHANGES = {"cuda": 0.01, "cpu": 0.2}
"""By device type, the change that is told from none unless another is asked for."""

COMPARED = (State.SAME, State.FAST, State.SLOW, State.AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What some draws of a logarithm say of its mean."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, that the mean is 0."""


def estimate(draws: Sequence[float]) -> Estimate:
    """Student's interval and test; of fewer than two draws nothing is known.

    Source: Student, The probable error of a mean (doi:10.1093/biomet/6.1.1).
    """
    mean = statistics.fmean(draws)
    if len(draws) < 2:
        return Estimate(mean, -math.inf, math.inf, 1.0)
    freedom, error = len(draws) - 1, statistics.stdev(draws) / math.sqrt(len(draws))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    if not error:
        return Estimate(mean, mean, mean, float(mean == 0))
    return Estimate(mean, mean - half, mean + half, 2 * float(special.stdtr(freedom, -abs(mean) / error)))


def adjust(p_values: Sequence[float]) -> list[float]:
    """Each p-value as it counts among all of them, so that one or more false ones are as rare as one alone would be.

    Source: Holm, A simple sequentially rejective multiple test procedure (jstor:4615733).
    """
    ordered = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(ordered):
        worst = max(worst, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = worst
    return adjusted


def judge_sittings(sittings: Iterable[Sitting], least_change: float) -> list[Contrast]:
    """A contrast for every series of a comparison, in the order in which they were measured."""
    pairs: dict[Series, list[tuple[Measurement, Measurement]]] = {}
    for sitting in sittings:
        theirs = {measurement.series: measurement for measurement in sitting.base}
        for ours in sitting.head:
            pairs.setdefault(ours.series, []).append((ours, theirs[ours.series]))
    drawn = {series: draw_ratios(of_series) for series, of_series in pairs.items()}
    estimates = {series: estimate(draws) for series, draws in drawn.items() if draws}
    adjusted = adjust([min(1.0, found.p_value * len(LOOKS)) for found in estimates.values()])
    by_series = dict(zip(estimates, adjusted, strict=True))
    contrasts = []
    for series, of_series in pairs.items():
        contrast = judge_statuses(series, of_series, is_paired=series in estimates)
        if series in estimates:
            told = replace(estimates[series], p_value=by_series[series])
            contrast = judge_estimate(contrast, told, len(drawn[series]), least_change)
        contrasts.append(contrast)
    return contrasts


def draw_ratios(pairs: Sequence[tuple[Measurement, Measurement]]) -> list[float]:
    """One logarithm of head / base for each sitting in which both have times of neighbouring turns."""
    ratios = [find_turn_ratios(head, base) for head, base in pairs]
    return [statistics.fmean(map(math.log, of_sitting)) for of_sitting in ratios if of_sitting]


def judge_statuses(series: Series, pairs: Sequence[tuple[Measurement, Measurement]], *, is_paired: bool) -> Contrast:
    """What checks and crashes alone say; SAME where times are to say more."""
    heads, bases = [head for head, _ in pairs], [base for _, base in pairs]
    case, head_us, base_us = heads[0].check.case, find_median(heads), find_median(bases)
    head, base = find_failure(heads), find_failure(bases)
    if head is None:
        reason = f"no time on the base: {tell(base)}" if base and not is_paired else ""
        return Contrast(series, case, State.SAME if is_paired else State.NEW, reason, False, head_us, base_us)
    state = STATES_BY_STATUS.get(head.status, State.FAILED)
    is_worse = base is None or (base_us is not None and head_us is None)
    if state is State.UNSUPPORTED and is_worse:
        state = State.MISSING
    reason = tell(head) if is_worse or base is None else f"{tell(head)}; on the base {tell(base)}"
    return Contrast(series, case, state, reason, is_worse and state in REGRESSIONS, head_us, base_us)


def find_failure(measurements: Sequence[Measurement]) -> Measurement | None:
    """The first of some sittings' that has no time; one is enough, however often it went well."""
    return next((one for one in measurements if one.status is not Status.OK), None)


def tell(failed: Measurement) -> str:
    """Status and reason in one line."""
    return f"{failed.status}: {failed.check.reason}"


def find_median(measurements: Sequence[Measurement]) -> float | None:
    """The median of the sittings' medians."""
    medians = [one.median_us for one in measurements if one.median_us is not None]
    return find_median_interval(medians).median if medians else None


def judge_estimate(contrast: Contrast, found: Estimate, num_sittings: int, least_change: float) -> Contrast:
    """With the ratio of the times, and the state that follows from it if nothing else was wrong."""
    change, low, high = (math.expm1(value) for value in (found.mean, found.low, found.high))
    state = choose_state(found, num_sittings, least_change) if contrast.state is State.SAME else contrast.state
    return replace(
        contrast,
        state=state,
        is_regression=contrast.is_regression or state is State.SLOW,
        change=change,
        low=low,
        high=high,
        p_value=found.p_value,
        num_sittings=num_sittings,
    )


def choose_state(found: Estimate, num_sittings: int, least_change: float) -> State:
    """SLOW or FAST: no noise, and at least half of the change asked for. SAME: a change of that size is excluded."""
    sought = math.log1p(least_change)
    is_enough = num_sittings >= FEW_SITTINGS
    if found.p_value <= FALSE_ALARMS and abs(found.mean) >= sought / 2:
        if is_enough or abs(found.mean) >= math.log1p(LARGE_CHANGE):
            return State.SLOW if found.mean > 0 else State.FAST
    elif -sought < found.low <= found.high < sought and (is_enough or least_change >= LARGE_CHANGE):
        return State.SAME
    return State.AMBIGUOUS
