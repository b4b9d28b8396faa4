"""What a night says about each series, by a rule simple enough to check by hand.

A change counts when the median is further from the median of the earlier nights than both MIN_CHANGE and SPREADS
times their night-to-night spread. With fewer than MIN_NIGHTS earlier nights that spread is not known yet, so a
change is AMBIGUOUS, never SLOW.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from tasks.records import Measurement, Point, Series, State, Status, Verdict

MIN_CHANGE = 0.05
"""Smallest relative change that counts; medians of separate processes on one H200 differ by up to 0.9 %."""
SPREADS = 4.0
"""How many robust standard deviations of the earlier nights a change must exceed."""
MIN_NIGHTS = 3
WINDOW = 10
"""Earlier nights that make the baseline."""

ATTENTION = (State.SLOW, State.WRONG, State.FAILED, State.MISSING)
"""States somebody should look at."""

STATES_BY_STATUS = {
    Status.WRONG: State.WRONG,
    Status.UNSUPPORTED: State.UNSUPPORTED,
    Status.CRASHED: State.FAILED,
    Status.HUNG: State.FAILED,
    Status.OUT_OF_MEMORY: State.FAILED,
}


def judge_night(
    run_id: str,
    measurements: Iterable[Measurement],
    trends: Mapping[Series, Sequence[Point]],
    expected: Iterable[Series],
) -> list[Verdict]:
    """One verdict per series measured in this run, and MISSING for each expected series that is not among them.

    Args:
        trends: every series' points, oldest first; points of this run are left out of its own baseline.
        expected: the series of the last comparable run.
    """
    verdicts = []
    for measurement in measurements:
        earlier = [point for point in trends.get(measurement.series, ()) if point.run_id != run_id]
        verdicts.append(judge_series(measurement, earlier))
    missing = set(expected) - {verdict.series for verdict in verdicts}
    absent = "measured in the last comparable run, absent now"
    in_order = sorted(missing, key=astuple)
    return verdicts + [Verdict(run_id, series, State.MISSING, absent) for series in in_order]


def judge_series(measurement: Measurement, earlier: Sequence[Point]) -> Verdict:
    """The verdict of one measurement against the earlier nights of its series, oldest first."""
    run_id, series, median_us = measurement.run_id, measurement.series, measurement.median_us
    if measurement.status is Status.UNSUPPORTED and earlier:
        lost = f"timed on {len(earlier)} earlier nights, now unsupported: {measurement.check.reason}"
        return Verdict(run_id, series, State.MISSING, lost)
    if median_us is None:
        state = STATES_BY_STATUS[measurement.status]
        return Verdict(run_id, series, state, f"{measurement.status}: {measurement.check.reason}")
    if not earlier:
        return Verdict(run_id, series, State.NEW, f"first night: {median_us:.1f} us", median_us)
    medians = [point.median_us for point in earlier[-WINDOW:]]
    baseline_us = statistics.median(medians)
    change = median_us / baseline_us - 1
    spread = robust_spread(medians) / baseline_us
    state = judge_change(change, spread, len(medians))
    several = f"the median of {len(medians)} earlier nights with a spread of {spread:.1%}"
    earlier_nights = several if len(medians) > 1 else "one earlier night"
    evidence = f"{median_us:.1f} us against {baseline_us:.1f} us ({change:+z.1%}), {earlier_nights}"
    return Verdict(run_id, series, state, evidence, median_us, baseline_us, change)


def judge_change(change: float, spread: float, nights: int) -> State:
    """SAME, FAST, SLOW or AMBIGUOUS from a relative change, the relative spread and the number of earlier nights."""
    if abs(change) <= MIN_CHANGE:
        return State.SAME
    if nights < MIN_NIGHTS:
        return State.AMBIGUOUS
    if abs(change) <= SPREADS * spread:
        return State.SAME
    return State.SLOW if change > 0 else State.FAST


def robust_spread(values: Sequence[float]) -> float:
    """1.4826 x median absolute deviation: the standard deviation of normal noise, blind to outliers."""
    center = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - center) for value in values)
