"""Two commits judged by sittings: in each, two fresh processes took turns, and the ratio of their times is one draw.

A process places its tensors and code elsewhere in memory than the next, and keeps what comes of that for life: more
turns of the same two processes repeat one draw more exactly and tell nothing of others. So a sitting counts once:

    d = mean over its turns of log(head / base) = change + f * first + noise;  first = 1 if the head was, else -1

f is what comes of being started and timed first: on an H200 up to 2.7 %, about the same in every sitting. The first is
another every time, so that it falls on both alike; and as it is fitted, it widens no interval.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from tasks.commits.comparisons import REGRESSIONS, Contrast, Sitting, is_head_first
from tasks.intervals import find_median_interval
from tasks.judgement.verdicts import STATES_BY_STATUS
from tasks.records import Measurement, Series, State, Status
from tasks.turns import find_turn_ratios

LOOKS = (4, 6, 8, 12, 18, 26)
"""After so many sittings a series is judged, and those that are undecided go on; the p-value pays for each look."""
FALSE_ALARMS = 0.01
"""How often a whole comparison of equal code may tell one or more of its series as changed."""
CONFIDENCE = 0.99
"""Of the interval at each look, whose limits say that nothing of the size asked for has changed."""
FEW_SITTINGS = 6
"""Fewer tell only of LARGE_CHANGE: that one process is placed well and the other badly may happen some times over."""
LARGE_CHANGE = 1.0
LEAST_CHANGES = {"cuda": 0.01, "cpu": 0.2}
"""By device type, the change that is told from none unless another is asked for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What some draws of a logarithm say of its mean."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, that the mean is 0."""


def estimate(head_first: Sequence[float], base_first: Sequence[float]) -> Estimate:
    """Student's interval and test of the change; of fewer than three draws, or of one kind, nothing is known.

    change = (h + b) / 2 +- t(n - 2) * s * sqrt(1 / n_h + 1 / n_b) / 2, s the standard deviation about h and b

    Args:
        head_first: the draws of those sittings in which the head came first, with mean h; base_first: the others.
    Source: Student, The probable error of a mean (doi:10.1093/biomet/6.1.1).
    """
    kinds, freedom = [draws for draws in (head_first, base_first) if draws], len(head_first) + len(base_first) - 2
    means = [statistics.fmean(draws) for draws in kinds]
    mean = statistics.fmean(means)
    if len(kinds) < 2 or freedom < 1:
        return Estimate(mean, -math.inf, math.inf, 1.0)
    squares = sum((draw - about) ** 2 for draws, about in zip(kinds, means, strict=True) for draw in draws)
    error = math.sqrt(squares / freedom * sum(1 / len(draws) for draws in kinds)) / 2
    if not error:
        return Estimate(mean, mean, mean, float(mean == 0))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
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
    drawn: dict[Series, tuple[list[float], list[float]]] = {}
    for sitting in sittings:
        theirs = {measurement.series: measurement for measurement in sitting.base}
        for ours in sitting.head:
            pair = ours, theirs[ours.series]
            pairs.setdefault(ours.series, []).append(pair)
            draw, kinds = draw_ratio(*pair), drawn.setdefault(ours.series, ([], []))
            if draw is not None:
                kinds[not is_head_first(sitting.number)].append(draw)
    estimates = {series: estimate(*kinds) for series, kinds in drawn.items() if any(kinds)}
    adjusted = adjust([min(1.0, found.p_value * len(LOOKS)) for found in estimates.values()])
    by_series = dict(zip(estimates, adjusted, strict=True))
    contrasts = []
    for series, of_series in pairs.items():
        contrast = judge_statuses(series, of_series, is_paired=series in estimates)
        if series in estimates:
            told = replace(estimates[series], p_value=by_series[series])
            contrast = judge_estimate(contrast, told, sum(map(len, drawn[series])), least_change)
        contrasts.append(contrast)
    return contrasts


def draw_ratio(head: Measurement, base: Measurement) -> float | None:
    """The logarithm of head / base in one sitting; None if no neighbouring turns of the two have times."""
    ratios = find_turn_ratios(head, base)
    return statistics.fmean(map(math.log, ratios)) if ratios else None


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
