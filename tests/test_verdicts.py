"""The rule that turns a night into states, on nights short enough to check by hand."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import STARTED, make_case, make_measurement

from tasks.records import Measurement, Point, State, Status, Verdict
from tasks.verdicts import (
    MIN_CHANGE,
    MIN_NIGHTS,
    SPREADS,
    STATES_BY_STATUS,
    WINDOW,
    judge_change,
    judge_night,
    judge_series,
    robust_spread,
)

QUIET = (100.0, 100.5, 99.5, 100.2, 99.8)
NOISY = (100.0, 120.0, 80.0, 110.0, 90.0)


def make_points(medians: Sequence[float]) -> tuple[Point, ...]:
    return tuple(
        Point(f"night-{index}", STARTED + timedelta(days=index), median, median * 0.99, median * 1.01)
        for index, median in enumerate(medians)
    )


def judge_one(median_us: float, earlier: Sequence[float]) -> Verdict:
    return judge_series(make_measurement("tonight", samples_us=(median_us,)), make_points(earlier))


@pytest.mark.parametrize(
    ("median_us", "earlier", "state"),
    [
        pytest.param(100.0, (), State.NEW, id="the first night is new"),
        pytest.param(100.0, (100.0,), State.SAME, id="the second night may already be the same"),
        pytest.param(104.9, QUIET, State.SAME, id="a change below the least that counts"),
        pytest.param(95.1, QUIET, State.SAME, id="a gain below the least that counts"),
        pytest.param(106.0, QUIET, State.SLOW, id="slower than a quiet history"),
        pytest.param(94.0, QUIET, State.FAST, id="faster than a quiet history"),
        pytest.param(200.0, (100.0,), State.AMBIGUOUS, id="twice as slow after one night is not known to be slow"),
        pytest.param(
            50.0, (100.0, 100.0), State.AMBIGUOUS, id="twice as fast after two nights is not known to be fast"
        ),
        pytest.param(106.0, (100.0, 100.0, 100.0), State.SLOW, id="three nights make a history"),
        pytest.param(130.0, NOISY, State.SAME, id="a noisy history hides a change of its own size"),
        pytest.param(170.0, NOISY, State.SLOW, id="a change beyond a noisy history counts"),
        pytest.param(30.0, NOISY, State.FAST, id="a gain beyond a noisy history counts"),
        pytest.param(106.0, (100.0, 100.0, 100.0, 500.0), State.SLOW, id="one odd night does not move the baseline"),
        pytest.param(100.0, (50.0,) * 9 + (100.0,) * 10, State.SAME, id="nights before the window are forgotten"),
    ],
)
def test_a_night_is_judged_by_the_rule(median_us: float, earlier: tuple[float, ...], state: State) -> None:
    assert judge_one(median_us, earlier).state is state


@pytest.mark.parametrize(
    ("change", "spread", "nights", "state"),
    [
        (MIN_CHANGE, 0.0, MIN_NIGHTS, State.SAME),
        (MIN_CHANGE + 1e-9, 0.0, MIN_NIGHTS, State.SLOW),
        (-MIN_CHANGE - 1e-9, 0.0, MIN_NIGHTS, State.FAST),
        (0.2, 0.05, MIN_NIGHTS, State.SAME),
        (0.2 + 1e-9, 0.05, MIN_NIGHTS, State.SLOW),
        (0.9, 0.0, MIN_NIGHTS - 1, State.AMBIGUOUS),
    ],
)
def test_the_limits_themselves_are_still_the_same(change: float, spread: float, nights: int, state: State) -> None:
    assert SPREADS * 0.05 == 0.2
    assert judge_change(change, spread, nights) is state


def test_the_evidence_holds_the_numbers_of_the_verdict() -> None:
    verdict = judge_one(112.0, QUIET)
    assert (verdict.median_us, verdict.baseline_us) == (112.0, 100.0)
    assert verdict.relative_change == pytest.approx(0.12)
    assert verdict.evidence == (
        "112.0 us against 100.0 us (+12.0%), the median of 5 earlier nights with a spread of 0.3%"
    )
    assert judge_one(112.0, (100.0,)).evidence == "112.0 us against 100.0 us (+12.0%), one earlier night"
    assert "(+0.0%)" in judge_one(99.99, QUIET).evidence
    assert judge_one(38.04, ()).evidence == "first night: 38.0 us"


def test_the_baseline_is_the_median_of_the_window() -> None:
    earlier = [float(us) for us in range(100, 100 + 3 * WINDOW)]
    assert judge_one(100.0, earlier).baseline_us == statistics.median(earlier[-WINDOW:])


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.WRONG, State.WRONG),
        (Status.UNSUPPORTED, State.UNSUPPORTED),
        (Status.CRASHED, State.FAILED),
        (Status.HUNG, State.FAILED),
        (Status.OUT_OF_MEMORY, State.FAILED),
    ],
)
def test_what_was_not_timed_is_judged_by_its_status_and_says_why(status: Status, state: State) -> None:
    measurement = make_measurement("tonight", status=status, reason="the reason")
    verdict = judge_series(measurement, [])
    assert (verdict.state, verdict.evidence) == (state, f"{status}: the reason")
    assert (verdict.median_us, verdict.baseline_us, verdict.relative_change) == (None, None, None)


def test_every_status_without_times_has_a_state() -> None:
    assert set(STATES_BY_STATUS) == set(Status) - {Status.OK}


def test_what_is_expected_and_absent_is_missing() -> None:
    here, gone = make_measurement("tonight"), make_measurement(provider="gone")
    verdicts = judge_night("tonight", [here], {}, expected=[here.series, gone.series])
    assert [(verdict.series.provider, verdict.state) for verdict in verdicts] == [
        ("triton", State.NEW),
        ("gone", State.MISSING),
    ]
    assert {verdict.run_id for verdict in verdicts} == {"tonight"}


def test_a_failed_series_is_not_missing_too() -> None:
    failed = make_measurement("tonight", status=Status.HUNG, reason="no answer")
    verdicts = judge_night("tonight", [failed], {}, expected=[failed.series])
    assert [verdict.state for verdict in verdicts] == [State.FAILED]


def test_tonight_is_not_part_of_its_own_baseline() -> None:
    tonight = make_measurement("night-1", samples_us=(200.0,))
    [verdict] = judge_night("night-1", [tonight], {tonight.series: make_points((100.0, 200.0))}, expected=())
    assert (verdict.state, verdict.baseline_us) == (State.AMBIGUOUS, 100.0)


def test_series_are_judged_by_their_own_history_alone() -> None:
    cpu = replace(make_measurement().device, name="another GPU")
    here = make_measurement("tonight", samples_us=(100.0,))
    trends = {
        replace(here.series, timer="other"): make_points(QUIET),
        replace(here.series, provider="other"): make_points(QUIET),
        replace(here.series, device_name=cpu.name): make_points(QUIET),
        make_measurement(case=make_case(64)).series: make_points(QUIET),
    }
    [verdict] = judge_night("tonight", [here], trends, expected=())
    assert verdict.state is State.NEW


def robust_spread_by_hand(values: Sequence[float]) -> float:
    """The slow, obvious twin: sort, take the middle, twice."""

    def middle(numbers: Sequence[float]) -> float:
        ordered = sorted(numbers)
        low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        return (low + high) / 2

    return 1.4826 * middle([abs(value - middle(values)) for value in values])


TIMES = st.floats(min_value=0.1, max_value=1e6)
HISTORIES = st.lists(TIMES, max_size=15)


@given(st.lists(TIMES, min_size=1, max_size=15))
def test_the_spread_is_the_scaled_median_absolute_deviation(values: list[float]) -> None:
    assert robust_spread(values) == pytest.approx(robust_spread_by_hand(values))


@given(TIMES, HISTORIES)
def test_a_state_is_as_old_as_its_history(median_us: float, earlier: list[float]) -> None:
    state = judge_one(median_us, earlier).state
    allowed = {State.SAME, State.AMBIGUOUS} if len(earlier) < MIN_NIGHTS else {State.SAME, State.SLOW, State.FAST}
    assert state in (allowed if earlier else {State.NEW})


@given(TIMES, HISTORIES, st.sampled_from([2.0**-10, 0.5, 2.0, 1024.0]))
def test_the_unit_of_time_does_not_matter(median_us: float, earlier: list[float], factor: float) -> None:
    scaled = judge_one(median_us * factor, [us * factor for us in earlier])
    assert scaled.state is judge_one(median_us, earlier).state


@given(st.lists(TIMES, min_size=3, max_size=WINDOW), st.floats(min_value=1.0, max_value=100.0))
def test_a_slow_series_that_gets_slower_stays_slow(earlier: list[float], factor: float) -> None:
    slow = statistics.median(earlier) * (1 + MIN_CHANGE) + SPREADS * robust_spread(earlier) + 1
    assert judge_one(slow, earlier).state is State.SLOW
    assert judge_one(slow * factor, earlier).state is State.SLOW


@given(st.permutations(range(6)), st.lists(HISTORIES, min_size=6, max_size=6))
def test_the_order_of_the_series_does_not_matter(order: list[int], histories: list[list[float]]) -> None:
    measurements = [make_measurement("tonight", provider=f"provider-{index}") for index in range(6)]
    trends = {m.series: make_points(history) for m, history in zip(measurements, histories, strict=True)}
    expected = [make_measurement(provider=f"gone-{index}").series for index in order]

    def judge_in(arranged: Sequence[Measurement]) -> set[Verdict]:
        return set(judge_night("tonight", arranged, trends, expected))

    assert judge_in([measurements[index] for index in order]) == judge_in(measurements)


def test_a_series_that_was_timed_before_and_is_unsupported_now_is_missing() -> None:
    reason = "needs the vllm package, which is not installed"
    measurement = make_measurement("tonight", status=Status.UNSUPPORTED, reason=reason)
    verdict = judge_series(measurement, make_points((100.0, 101.0)))
    assert verdict.state is State.MISSING
    assert verdict.evidence == (
        "timed on 2 earlier nights, now unsupported: needs the vllm package, which is not installed"
    )
