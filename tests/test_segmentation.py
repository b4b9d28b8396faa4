"""Regimes: every fast path against the slow, obvious one."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.statistics.noise import Floats
from tasks.statistics.segmentation import (
    SWITCH_COST,
    Evidence,
    drop_weakest,
    find_partition,
    find_rank_split,
    find_residuals,
    segment,
    split_by_ranks,
)

TABLES = st.integers(0, 2**32 - 1).map(lambda seed: draw_table(np.random.default_rng(seed)))


def draw_table(rng: np.random.Generator) -> Floats:
    """Log-likelihoods of a few values under a few levels, one of which suits each stretch best."""
    table = rng.normal(-3, 1, (int(rng.integers(1, 25)), int(rng.integers(1, 6))))
    table[: len(table) // 2, 0] += 2
    return table


def cumulate(table: Floats) -> Evidence:
    return Evidence(np.vstack([np.zeros(table.shape[1]), np.cumsum(table, axis=0)]))


def fit_slowly(table: Floats, start: int, end: int) -> float:
    return max(sum(table[time, level] for time in range(start, end)) for level in range(table.shape[1]))


def score(table: Floats, changes: Sequence[int], cost: float) -> float:
    bounds = [0, *changes, len(table)]
    return sum(fit_slowly(table, start, end) for start, end in pairwise(bounds)) - cost * len(changes)


def partition_slowly(table: Floats, cost: float) -> list[int]:
    """Optimal partitioning as it is written: every last segment, in quadratic time."""
    best, before = [-cost], [0]
    for end in range(1, len(table) + 1):
        totals = [best[start] + fit_slowly(table, start, end) - cost for start in range(end)]
        before.append(int(np.argmax(totals)))
        best.append(max(totals))
    changes, end = [], len(table)
    while before[end]:
        end = before[end]
        changes.append(end)
    return changes[::-1]


@given(TABLES, st.floats(0.1, 6))
@settings(deadline=None)
def test_the_partition_is_as_good_as_that_of_the_quadratic_program(table: Floats, cost: float) -> None:
    fast = find_partition(table, cost)
    assert score(table, fast, cost) == pytest.approx(score(table, partition_slowly(table, cost), cost))


def test_the_partition_of_a_clear_history_is_its_regimes() -> None:
    table = np.full((30, 2), -5.0)
    table[:12, 0] = table[12:20, 1] = table[20:, 0] = 0.0
    assert find_partition(table, SWITCH_COST) == partition_slowly(table, SWITCH_COST) == [12, 20]


@given(TABLES)
@settings(deadline=None)
def test_evidence_is_the_difference_of_the_best_fits(table: Floats) -> None:
    evidence, num_values = cumulate(table), len(table)
    gains = [0.0]
    for split in range(1, num_values):
        gain = fit_slowly(table, 0, split) + fit_slowly(table, split, num_values) - fit_slowly(table, 0, num_values)
        assert evidence.gain(0, split, num_values) == pytest.approx(gain)
        gains += [gain] if 3 <= split <= num_values - 3 else []
    expected = max(gains[1:]) if num_values >= 6 else 0.0
    assert evidence.best_gain(0, num_values) == pytest.approx(expected)


def rank_split_slowly(values: Sequence[float]) -> tuple[float, list[int]]:
    """The largest statistic, and every split that has it."""
    count = len(values)
    ranks = [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]
    centred = [rank - (count + 1) / 2 for rank in ranks]
    variance = sum(rank * rank for rank in centred) / (count - 1)
    if not variance:
        return 0.0, [0]
    statistics = {t: sum(centred[:t]) ** 2 / (variance * t * (count - t) / count) for t in range(3, count - 2)}
    largest = max(statistics.values())
    return largest, [t for t, statistic in statistics.items() if statistic == pytest.approx(largest)]


@given(st.lists(st.integers(0, 8), min_size=6, max_size=25))
@settings(deadline=None)
def test_the_split_by_ranks_agrees_with_counting_smaller_values(values: list[int]) -> None:
    largest, splits = rank_split_slowly(values)
    statistic, split = find_rank_split(np.array(values, dtype=float))
    assert statistic == pytest.approx(largest)
    assert split in splits


def test_too_few_or_equal_values_have_no_split() -> None:
    assert find_rank_split(np.arange(5.0)) == (0.0, 0)
    assert find_rank_split(np.ones(50)) == (0.0, 0)


def test_ranks_find_several_steps_and_ignore_how_large_an_outlier_is() -> None:
    values = np.repeat([0.0, 5.0, 2.0], 40) + np.random.default_rng(0).standard_normal(120)
    values[60] = 1e9
    assert split_by_ranks(values) == pytest.approx([40, 80], abs=1)


def test_what_may_be_a_change_is_proposed_with_the_noise_around_it() -> None:
    values = np.repeat([0.0, 0.1], 60) + np.random.default_rng(0).standard_normal(120) * 0.01
    found = segment(values)
    assert found.changes == [60]
    assert found.noise.scale == pytest.approx(0.01, rel=0.2)
    assert found.evidence.gain(0, 60, 120) > 50


def test_residuals_are_what_regimes_do_not_explain() -> None:
    assert find_residuals(np.array([1.0, 2.0, 3.0, 7.0, 7.0, 9.0]), [3]).tolist() == [-1, 0, 1, 0, 0, 2]


def drop_slowly(changes: Sequence[int], heights: Sequence[float]) -> list[int]:
    """The slow twin: all margins anew after each removal."""
    left = list(changes)
    while left:
        bounds = [0, *left, len(heights)]
        margins = [weigh(heights, *bounds[place : place + 3]) for place in range(len(left))]
        if min(margins) >= 0:
            break
        del left[margins.index(min(margins))]
    return left


def weigh(heights: Sequence[float], start: int, split: int, end: int) -> float:
    """A margin that depends on both neighbours, as gains do."""
    return abs(math.fsum(heights[start:split]) - math.fsum(heights[split:end])) - 1


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=20), st.data())
def test_dropping_the_weakest_agrees_with_weighing_all_again(heights: list[float], data: st.DataObject) -> None:
    changes = sorted(data.draw(st.sets(st.integers(1, len(heights) - 1))))
    fast = drop_weakest(changes, len(heights), lambda start, split, end: weigh(heights, start, split, end))
    assert fast == drop_slowly(changes, heights)
