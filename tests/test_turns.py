"""Turns of two processes, paired by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from records import make_measurement

from tasks.intervals import find_median_interval
from tasks.records import Measurement, Retrial, Status, Trial, Version
from tasks.turns import ROUNDS_OF_A_TURN, find_retrial_ratio


def make_turns(turns: Mapping[int, Sequence[float]]) -> Measurement:
    """A measurement with a trial of one sample for each time, by turn."""
    trials = [
        Trial(turn * ROUNDS_OF_A_TURN + number, 1) for turn, times in turns.items() for number in range(len(times))
    ]
    samples_us = [time for times in turns.values() for time in times]
    return replace(make_measurement(samples_us=samples_us), trials=tuple(trials))


def pair(tonight: Measurement, other: Measurement, version: Version = Version.PREVIOUS_CODE) -> list[Retrial]:
    return [Retrial(tonight, Version.TONIGHT), Retrial(other, version, "good night")]


def test_neighbouring_turns_are_paired() -> None:
    tonight = make_turns({0: [11, 12, 13], 3: [24], 4: [30], 7: [5]})
    previous = make_turns({1: [9, 10, 10], 2: [20, 21, 19], 5: [40]})
    expected = find_median_interval([12 / 10, 24 / 20, 30 / 40])
    assert find_retrial_ratio(pair(tonight, previous), Version.PREVIOUS_CODE) == expected


def test_a_steady_drift_does_not_show_in_the_ratio() -> None:
    us = {turn: [100 * 1.001 ** (10 * turn + step) for step in range(10)] for turn in range(12)}
    tonight = make_turns({turn: us[turn] for turn in (0, 3, 4, 7, 8, 11)})
    previous = make_turns({turn: us[turn] for turn in (1, 2, 5, 6, 9, 10)})
    interval = find_retrial_ratio(pair(tonight, previous), Version.PREVIOUS_CODE)
    assert interval is not None
    assert interval.median == pytest.approx(1, abs=1e-3)
    assert 0.98 < interval.low < 1 < interval.high < 1.02


def test_the_last_good_configuration_is_paired_round_by_round() -> None:
    tonight, good = make_turns({0: [10, 30, 50]}), make_turns({0: [5, 15, 25]})
    interval = find_retrial_ratio(pair(tonight, good, Version.LAST_GOOD_CONFIG), Version.LAST_GOOD_CONFIG)
    assert interval is not None
    assert interval.median == 2


def test_without_times_of_both_there_is_no_ratio() -> None:
    tonight = make_turns({0: [10, 30, 50]})
    assert find_retrial_ratio([Retrial(tonight, Version.TONIGHT)], Version.PREVIOUS_CODE) is None
    crashed = make_measurement(status=Status.CRASHED)
    assert find_retrial_ratio(pair(tonight, crashed), Version.PREVIOUS_CODE) is None
    assert find_retrial_ratio(pair(crashed, tonight), Version.PREVIOUS_CODE) is None
    assert find_retrial_ratio([], Version.LAST_GOOD_CONFIG) is None
