"""What stands before a night, and the nights themselves as arrays."""

from dataclasses import replace
from math import isnan, log, nan

import numpy as np
import pytest
from records import make_points, make_series, make_verdict

from tasks.judgement.history import (
    ADOPTED_AFTER,
    LEAST_US,
    MOST_US,
    NOTHING_SAID,
    Mark,
    Retried,
    Standing,
    adopt_gain,
    arrange_recent,
    count_since,
    find_standings,
    is_time,
    keep_recent,
)
from tasks.records import Series, State, Verdict
from tasks.statistics.screening import NUM_NIGHTS, STANDING_NIGHTS

SERIES = make_series()
ORDER = {f"night-{number}": number for number in range(500)}
SLOW = Standing(State.SLOW, "night-3", 0.1)
FAST = Standing(State.FAST, "night-3", -0.1)


def stand(verdict: Verdict | None, *first_runs: str) -> Standing | None:
    """What stands for one series after its newest verdict and marks."""
    marks = [Mark(SERIES, first_run, "night-9", "more exact rounding", "ada") for first_run in first_runs]
    return find_standings([verdict] if verdict else [], marks, ORDER).get(SERIES)


# What stands


def test_what_was_said_last_stands() -> None:
    told = make_verdict(State.SLOW, since_run="night-3", baseline_run="night-1")
    assert stand(told) == Standing(State.SLOW, "night-3", 0.1, "night-1")
    assert stand(None) is None


def test_a_change_stands_through_nights_without_a_time() -> None:
    slow, failed = make_verdict(State.SLOW, since_run="night-3"), make_verdict(State.FAILED, since_run="night-5")
    standing = find_standings([slow, failed], [], ORDER)[SERIES]
    assert (standing.state, standing.since_run) == (State.FAILED, "night-5")
    assert standing.when_timed == stand(slow) == SLOW
    accepted = find_standings([slow, failed], [Mark(SERIES, "night-4", "night-9", "expected", "ada")], ORDER)[SERIES]
    assert (accepted.state, accepted.is_accepted) == (State.FAILED, False)
    assert accepted.when_timed == Standing(baseline_run="night-4")
    back = find_standings([failed, slow], [], ORDER)[SERIES]
    assert back == back.when_timed == SLOW


def test_a_change_that_is_accepted_is_the_baseline_and_nothing_else_stands() -> None:
    told = make_verdict(State.SLOW, since_run="night-3")
    for first_run in ("night-3", "night-4"):
        assert stand(told, first_run) == Standing(baseline_run=first_run)


def test_a_mark_of_before_a_change_does_not_accept_it() -> None:
    told = make_verdict(State.SLOW, since_run="night-3")
    standing = stand(told, "night-2")
    assert standing == Standing(State.SLOW, "night-3", 0.1, baseline_run="night-2")
    assert standing.has_moved


@pytest.mark.parametrize("state", [State.MISSING, State.FAILED, State.WRONG])
def test_what_is_broken_stays_so_and_is_known_to_be_accepted(state: State) -> None:
    told = make_verdict(state, since_run="night-3")
    baselines = ("", "") if state is State.MISSING else ("night-3", "night-2")  # it has no time that could be one
    assert stand(told, "night-3") == Standing(state, "night-3", None, baselines[0], is_accepted=True)
    assert stand(told, "night-2") == Standing(state, "night-3", None, baselines[1])


def test_a_series_without_a_verdict_may_have_a_baseline() -> None:
    standing = stand(None, "night-5")
    assert standing is not None
    assert (standing.state, standing.baseline_run, standing.has_moved) == (None, "night-5", False)


def test_of_several_baselines_the_one_that_was_marked_last_holds() -> None:
    told = make_verdict(State.SAME, baseline_run="night-4")
    standings = [stand(told, *marks) for marks in (("night-2",), ("night-6",), ("night-6", "night-5"))]
    assert [standing.baseline_run for standing in standings if standing] == ["night-2", "night-6", "night-5"]


def test_a_verdict_that_was_made_after_a_mark_knows_of_it() -> None:
    told = replace(make_verdict(State.SAME, baseline_run="night-7"), run_id="night-8")
    for made_after, baseline_run in (("night-7", "night-7"), ("night-8", "night-2")):
        standings = find_standings([told], [Mark(SERIES, "night-2", made_after, "expected", "ada")], ORDER)
        assert standings[SERIES].baseline_run == baseline_run


def test_a_mark_concerns_its_series_alone() -> None:
    other = make_series("other")
    told = [make_verdict(State.SLOW, series, since_run="night-3") for series in (SERIES, other)]
    standings = find_standings(told, [Mark(other, "night-3", "night-9", "expected", "ada")], ORDER)
    assert (standings[SERIES].has_moved, standings[other].has_moved) == (True, False)


@pytest.mark.parametrize("state", [None, *State])
def test_only_slow_and_fast_series_with_a_first_night_have_moved(state: State | None) -> None:
    assert Standing(state, "night-3").has_moved is (state in (State.SLOW, State.FAST))
    assert not Standing(state).has_moved


def test_a_move_is_in_the_direction_of_its_state_whatever_the_last_night_did_to_it() -> None:
    found = [Standing(State.SLOW, "r", change).moved_by for change in (0.1, -0.1, None)]
    assert found == [0.1, 0.1, 0.0]
    assert [Standing(State.FAST, "r", change).moved_by for change in (0.1, -0.1)] == [-0.1, -0.1]


def test_a_gain_is_adopted_once_it_has_stood_for_some_nights() -> None:
    nights = make_points([100.0] * 3 + [90.0] * ADOPTED_AFTER)
    assert adopt_gain(FAST, nights, ORDER) == Standing(baseline_run="night-3")
    assert adopt_gain(FAST, nights[:-1], ORDER) == FAST
    assert adopt_gain(SLOW, nights, ORDER) == SLOW
    assert adopt_gain(NOTHING_SAID, nights, ORDER) == NOTHING_SAID


def test_nights_are_counted_from_a_run_on_also_if_the_series_has_no_night_of_it() -> None:
    nights = make_points([1.0] * 6)
    assert count_since(nights, "night-4", ORDER) == 2
    assert count_since((*nights[:4], nights[5]), "night-4", ORDER) == 1
    assert count_since(nights, "night-7", ORDER) == 0


@pytest.mark.parametrize("median_us", [None, 0.0, -1.0, nan, float("inf"), LEAST_US / 2, MOST_US * 2])
def test_what_no_kernel_takes_is_no_time(median_us: float | None) -> None:
    assert not is_time(median_us)
    assert is_time(LEAST_US)
    assert is_time(MOST_US)


# Arrays


def test_nights_are_arranged_to_the_right_and_cards_and_likes_are_numbered() -> None:
    trends = [make_points([10.0, 11.0, 12.0], ["a", "b", "a"]), make_points([20.0, 21.0, 22.0], ["b"] * 3)[1:]]
    retried = {make_series("other"): Retried(30.0, 0.1)}
    recent = arrange_recent(trends, [SERIES, make_series("other")], [NOTHING_SAID] * 2, retried, ORDER, {})
    assert np.exp(recent.values) == pytest.approx(np.array([[10, 11, 12], [nan, 21, 22]]), nan_ok=True)
    assert recent.cards.tolist() == [[0, 1, 0], [0, 1, 1]]
    assert recent.pools.tolist() == [0, 0]
    assert isnan(recent.again[0])
    assert recent.again[1] == log(30.0)
    assert isnan(recent.beside[0])
    assert recent.beside[1] == 0.1
    assert (recent.first.tolist(), recent.changed.tolist()) == ([0, 0], [3, 3])


def test_series_of_one_device_and_timer_are_likes_and_cards_of_two_devices_are_not_one() -> None:
    series = [SERIES, Series("b", "triton", "cold", SERIES.device_name), Series("c", "torch", "graph", "CPU"), SERIES]
    trends = [make_points([1.0], [uuid]) for uuid in ("", "", "", "")]
    recent = arrange_recent(trends, series, [NOTHING_SAID] * 4, {}, ORDER, {})
    assert recent.pools.tolist() == [0, 1, 2, 0]
    assert recent.cards[:, -1].tolist() == [0, 0, 1, 0]


def test_baselines_and_changes_are_columns() -> None:
    nights = make_points([10.0] * 8)
    standings = [
        Standing(baseline_run="night-5"),
        Standing(State.SLOW, "night-6", 0.1, "night-2"),
        Standing(State.FAILED, "night-6"),
        Standing(State.SLOW, "night-9", 0.1),
    ]
    series = [make_series(str(number)) for number in range(4)]
    recent = arrange_recent([nights] * 4, series, standings, {}, ORDER, {})
    assert recent.first.tolist() == [5, 2, 0, 0]
    assert recent.changed.tolist() == [8, 6, 8, 7]


def test_only_the_last_nights_are_looked_at() -> None:
    nights = make_points([1.0 + number for number in range(NUM_NIGHTS + 5)])
    recent = arrange_recent([nights, nights[-2:]], [SERIES, make_series("other")], [NOTHING_SAID] * 2, {}, ORDER, {})
    assert recent.values.shape == (2, NUM_NIGHTS)
    assert recent.values[0, 0] == log(6.0)
    assert np.isnan(recent.values[1, :-2]).all()


def test_the_nights_before_a_change_that_stands_are_never_forgotten() -> None:
    nights = make_points([100.0] * 10 + [110.0] * 300)
    standing = Standing(State.SLOW, "night-10", 0.1)
    kept = keep_recent(nights, standing, ORDER)
    assert kept == (*nights[:10], *nights[-STANDING_NIGHTS:])
    assert keep_recent(nights, NOTHING_SAID, ORDER) == nights[-NUM_NIGHTS:]
    recent = arrange_recent([nights], [SERIES], [standing], {}, ORDER, {})
    assert recent.changed.tolist() == [10]


def test_nothing_is_arranged_too() -> None:
    recent = arrange_recent([], [], [], [], ORDER, {})
    assert recent.values.shape == (0, 1)
