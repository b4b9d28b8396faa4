"""Intervals against counting every outcome, and ratios against rounds that a machine slows down together."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from records import make_measurement

from tasks.intervals import find_interval, find_median_interval, find_paired_ratio, group_rounds, interval_rank
from tasks.records import Measurement, Trial


def count_rank(num_samples: int, confidence: float) -> int:
    """The slow twin: toss every coin, and count how often fewer than k fell on one side of the median."""
    outcomes = [sum(tosses) for tosses in itertools.product((0, 1), repeat=num_samples)]
    ranks = range(num_samples // 2, 0, -1)
    missed = {k: sum(heads < k or num_samples - heads < k for heads in outcomes) / len(outcomes) for k in ranks}
    return next((k for k in ranks if missed[k] <= 1 - confidence), 0)


@pytest.mark.parametrize("num_samples", range(1, 15))
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_rank_of_an_interval_agrees_with_counting_every_outcome(num_samples: int, confidence: float) -> None:
    assert interval_rank(num_samples, confidence) == count_rank(num_samples, confidence)


@pytest.mark.parametrize(("num_samples", "rank"), [(5, 0), (6, 1), (30, 10), (100, 40), (200, 86)])
def test_the_rank_of_an_interval_is_the_one_in_the_tables(num_samples: int, rank: int) -> None:
    assert interval_rank(num_samples) == rank  # Conover, table A3


def test_fewer_than_six_samples_bound_no_median() -> None:
    interval = find_median_interval([3.0, 1.0, 2.0])
    assert interval.median == 2.0
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert interval.relative_half_width == math.inf


def test_the_bounds_are_samples_whatever_their_order() -> None:
    samples = [float(n) for n in range(1, 31)]
    random.Random(0).shuffle(samples)
    interval = find_median_interval(samples)
    assert (interval.low, interval.median, interval.high) == (10.0, 15.5, 21.0)
    assert interval.relative_half_width == pytest.approx(5.5 / 15.5)


def test_equal_samples_have_no_width() -> None:
    assert find_median_interval([7.0] * 10).relative_half_width == 0.0


@pytest.mark.parametrize(
    ("draw", "median"),
    [
        (lambda noise: noise.gauss(1.0, 0.5), 1.0),
        (lambda noise: noise.lognormvariate(1.0, 0.5), math.e),
        (lambda noise: noise.random() ** 3, 0.125),
    ],
)
def test_the_interval_holds_the_true_median_as_often_as_it_says(
    draw: Callable[[random.Random], float], median: float
) -> None:
    noise = random.Random(1)
    intervals = [find_median_interval([draw(noise) for _ in range(12)]) for _ in range(4000)]
    held = sum(interval.low <= median <= interval.high for interval in intervals) / len(intervals)
    promised = 1 - 2 * sum(math.comb(12, heads) for heads in range(interval_rank(12))) / 2**12
    assert promised >= 0.95
    assert held == pytest.approx(promised, abs=0.012)


def timed(rounds: dict[int, list[float]]) -> Measurement:
    samples = tuple(sample for taken in rounds.values() for sample in taken)
    trials = tuple(Trial(number, len(taken)) for number, taken in rounds.items())
    return replace(make_measurement(samples_us=samples), trials=trials)


def test_drift_of_the_machine_cancels_in_the_ratio_of_rounds() -> None:
    drift = [1.0, 1.3, 0.9, 2.0, 1.1, 1.7, 1.2]
    slow = timed({n: [103.0 * factor] * 5 for n, factor in enumerate(drift)})
    usual = timed({n: [100.0 * factor] * 5 for n, factor in enumerate(drift)})
    ratio = find_paired_ratio(slow, usual)
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.03, 1.03, 1.03))


def test_only_rounds_that_both_have_are_compared() -> None:
    ratio = find_paired_ratio(timed({0: [10.0], 1: [30.0], 2: [50.0]}), timed({1: [10.0], 2: [10.0], 3: [1.0]}))
    assert ratio is not None
    assert ratio.median == 4.0
    assert ratio.relative_half_width == math.inf


def test_no_shared_round_is_no_ratio() -> None:
    assert find_paired_ratio(timed({0: [10.0]}), timed({1: [10.0]})) is None
    before = make_measurement()
    assert before.trials == ()
    assert find_paired_ratio(before, timed({0: [10.0]})) is None


def test_rounds_of_two_cases_are_not_shared_though_they_have_the_same_numbers() -> None:
    measured = timed({0: [10.0]})
    other = replace(measured, check=replace(measured.check, case=replace(measured.check.case, num_tokens=4096)))
    assert find_paired_ratio(measured, measured) is not None
    assert find_paired_ratio(measured, other) is None


def test_samples_that_were_set_aside_are_in_no_round() -> None:
    measured = replace(
        make_measurement(samples_us=(1.0, 2.0, 3.0)),
        trials=(
            Trial(0, 0, is_slow_clock=True, set_aside_us=(9.0, 9.0)),
            Trial(0, 1),
            Trial(1, 0, is_slow_clock=True, set_aside_us=(9.0,)),
            Trial(1, 2, is_slow_clock=True),
        ),
    )
    assert group_rounds(measured) == {0: (1.0,), 1: (2.0, 3.0)}


def test_a_trial_counts_once_however_many_alike_samples_it_has() -> None:
    levels = (100.0, 104.0, 96.0, 102.0, 98.0, 101.0)
    measured = replace(
        make_measurement(samples_us=tuple(level for level in levels for _ in range(5))),
        trials=tuple(Trial(number, 5) for number in range(len(levels))),
    )
    interval = find_interval(measured)
    assert (interval.median, interval.low, interval.high) == (100.5, 96.0, 104.0)
    assert find_median_interval(measured.samples_us).high < 104.0
    assert find_interval(replace(measured, trials=())) == find_median_interval(measured.samples_us)
