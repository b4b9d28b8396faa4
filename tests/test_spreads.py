"""Each function over many series at once against a slow and obvious one over one series."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.statistics.spreads import (
    EXCURSION,
    EXCURSION_NIGHTS,
    LEAST_COMMON,
    LEAST_NOISE,
    PRIOR_NIGHTS,
    TWO_TIMES,
    Floats,
    count_begins,
    count_earlier,
    estimate_correlation,
    estimate_noise,
    find_bad_nights,
    find_beyond,
    find_chance,
    find_common,
    find_medians,
    find_spread,
    forget_excursions,
)

VALUES = st.lists(
    st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan)), min_size=6, max_size=6), min_size=1, max_size=5
)


def there(row: Sequence[float]) -> list[float]:
    return [float(value) for value in row if math.isfinite(value)]


def median(row: Sequence[float]) -> float:
    return statistics.median(there(row)) if there(row) else math.nan


def draw(num_series: int, num_nights: int, seed: int = 0, missing: float = 0.1) -> Floats:
    """Noise with holes in it."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.01, (num_series, num_nights))
    return np.where(rng.random(values.shape) < missing, np.nan, values)


@given(VALUES)
def test_medians_are_those_of_each_row(rows: list[list[float]]) -> None:
    found = find_medians(np.array(rows))
    assert found.tolist() == pytest.approx([median(row) for row in rows], nan_ok=True, abs=1e-15)


def test_the_spread_of_normal_noise_is_its_standard_deviation_and_of_nothing_is_none() -> None:
    assert find_spread(draw(50, 200)) == pytest.approx(0.01, rel=0.05)
    assert find_spread(np.full((2, 3), np.nan)) == 0.0


def test_what_series_have_in_common_is_the_median_over_them_of_each_run() -> None:
    values, runs = draw(20, 12), np.tile(np.arange(12), (20, 1))
    runs[3] += 2  # of a series that was not measured on two nights
    pools = np.arange(20) % 2
    found = find_common(values, runs, pools)
    for row in range(20):
        for column in range(12):
            alike = [
                values[other, place]
                for other in range(20)
                for place in range(12)
                if pools[other] == pools[row] and runs[other, place] == runs[row, column]
            ]
            expected = median(alike) if len(there(alike)) >= LEAST_COMMON else 0.0
            if math.isfinite(values[row, column]):
                assert found[row, column] == pytest.approx(expected)


def test_a_night_that_was_bad_for_half_of_all_is_bad_and_one_of_a_single_series_is_not() -> None:
    values = draw(40, 30) / 10
    values[:25, 20:22] += 0.05
    values[30, 10] += 0.5
    found, common = find_bad_nights(values, np.tile(np.arange(30), (40, 1)), np.zeros(40, dtype=np.int64))
    assert sorted(set(np.nonzero(found)[1].tolist())) == [20, 21]
    assert common == pytest.approx(np.where(np.isin(np.arange(30), [20, 21]), 0.05, 0.0) + np.zeros((40, 1)), abs=0.005)


@pytest.mark.parametrize("num_nights", [1, 3, 6])
def test_nights_are_bad_until_they_have_lasted_for_a_week(num_nights: int) -> None:
    values = draw(40, 60) / 10
    values[:, -num_nights:] += 0.05
    found, common = find_bad_nights(values, np.tile(np.arange(60), (40, 1)), np.zeros(40, dtype=np.int64))
    assert (found == (np.isfinite(values) & (np.arange(60) >= 60 - num_nights))).all()
    assert common[:, -num_nights:] == pytest.approx(0.05, abs=0.005)


def test_what_lasts_is_no_bad_night() -> None:
    values = draw(40, 60) / 10
    for first in (30, 53):
        values[:, first:] += 0.05
    found, common = find_bad_nights(values, np.tile(np.arange(60), (40, 1)), np.zeros(40, dtype=np.int64))
    assert not found.any()
    assert common == pytest.approx(0.0, abs=0.005)


@pytest.mark.parametrize("num_nights", [1, 3, 6, 20])
def test_what_one_library_did_after_another_is_no_bad_night_of_all(num_nights: int) -> None:
    values, (first, second) = draw(40, 60) / 10, (25, 60 - num_nights)
    values[:10, first:] -= 0.033
    values[10:27, second:] -= 0.04
    values[:, second - 3 : second] += 0.07  # an outage right before
    found, common = find_bad_nights(values, np.tile(np.arange(60), (40, 1)), np.zeros(40, dtype=np.int64))
    assert sorted(set(np.nonzero(found)[1].tolist())) == [second - 3, second - 2, second - 1]
    assert common[:, second:] == pytest.approx(0.0, abs=0.005)


def test_excursions_are_runs_of_far_nights() -> None:
    values = draw(30, 40)
    values[:20, 12:20] = draw(20, 8, seed=1, missing=0.0)
    values[:10, 12:20] += 0.2
    values[10:20, 12:15] += 0.2
    found = forget_excursions(values)
    for row, before in enumerate(values.tolist()):
        spread = max(1.4826 * statistics.median(abs(value) for value in there(before)), LEAST_NOISE)
        is_far = [math.isfinite(value) and abs(value) > EXCURSION * spread for value in before]
        gone = {
            place
            for first in range(len(before) - EXCURSION_NIGHTS + 1)
            if all(is_far[first : first + EXCURSION_NIGHTS])
            for place in range(first, first + EXCURSION_NIGHTS)
        }
        expected = [math.nan if place in gone else value for place, value in enumerate(before)]
        assert found[row].tolist() == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found[:10, 12:20]).all()
    assert np.isfinite(found[10:20, 12:15]).any()


def test_the_noise_of_a_series_is_its_own_drawn_towards_that_of_its_likes() -> None:
    residuals, pools = draw(40, 30), np.arange(40) % 2
    residuals[::4] *= 5
    residuals[5, :27] = np.nan
    own = []
    for row in residuals.tolist():
        sizes = sorted(abs(value) for value in there(row))
        middle = 1.4826 * statistics.median(sizes) * (len(sizes) + 2) / len(sizes)
        own.append(max(middle, sizes[math.ceil(0.9 * len(sizes)) - 1] / 1.645) if len(sizes) >= 10 else middle)
    counts = [len(there(row)) for row in residuals.tolist()]
    expected = []
    for row in range(40):
        likes = [own[other] for other in range(40) if pools[other] == pools[row] and counts[other] >= PRIOR_NIGHTS]
        weighed = counts[row] * own[row] ** 2 + PRIOR_NIGHTS * statistics.median(likes) ** 2
        expected.append(max(LEAST_NOISE, math.sqrt(weighed / (counts[row] + PRIOR_NIGHTS))))
    assert estimate_noise(residuals, pools, np.zeros(40)).tolist() == pytest.approx(expected)


def test_on_the_second_night_the_noise_is_how_far_all_are_from_the_first() -> None:
    tonight = np.random.default_rng(0).normal(0, 0.01 * math.sqrt(2), 500)
    noise = estimate_noise(np.zeros((500, 1)), np.zeros(500, dtype=np.int64), tonight)
    assert noise == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("true", [0.0, 0.3, 0.6, 0.8])
def test_the_correlation_is_found_on_average(true: float) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(400, 90))
    for night in range(1, 90):
        noise[:, night] = true * noise[:, night - 1] + math.sqrt(1 - true**2) * noise[:, night]
    found = estimate_correlation(noise - find_medians(noise)[:, None])
    assert np.median(found) == pytest.approx(true, abs=0.06)


def test_one_outlier_is_no_correlation() -> None:
    values = draw(1, 60, missing=0.0)
    values[0, 30:32] += 10
    assert estimate_correlation(values)[0] < 0.5


@pytest.mark.parametrize("num_nights", [1, 2, 3, 5])
def test_what_has_been_before_is_counted(num_nights: int) -> None:
    values, change, base_nights = draw(20, 50), np.where(np.arange(20) % 2, 0.01, -0.01), 10
    times, comparisons = count_earlier(values, change, num_nights, base_nights)
    for row in range(20):
        is_far, count = [], 0
        for first in range(50 - num_nights - base_nights + 1):
            base = values[row, first : first + base_nights]
            now = values[row, first + base_nights : first + base_nights + num_nights]
            moved = median(now.tolist()) - median(base.tolist())
            count += math.isfinite(moved)
            is_far.append(math.isfinite(moved) and moved * math.copysign(1, change[row]) >= abs(change[row]))
        begins = sum(far and not before for far, before in zip(is_far, [False, *is_far], strict=False))
        assert (int(times[row]), int(comparisons[row])) == (begins, count)


def test_nothing_has_been_before_the_first_nights() -> None:
    times, comparisons = count_earlier(draw(3, 8), np.full(3, 0.01), 2, 10)
    assert times.tolist() == comparisons.tolist() == [0, 0, 0]


def test_beyond_is_the_share_of_a_change_that_leads_to_new_ground() -> None:
    values = np.array([[0.0, 0.02, 0.0, 0.0, 0.02, 0.02, 0.0]])
    assert find_beyond(values, np.array([0.04]), 1).tolist() == [0.5]
    assert find_beyond(values, np.array([0.04]), 2).tolist() == [0.5]
    assert find_beyond(values, np.array([0.04]), 5).tolist() == pytest.approx([0.5])
    assert find_beyond(values, np.array([-0.04]), 2).tolist() == [1.0]
    assert find_beyond(values, np.array([0.04]), 8).tolist() == [1.0]


def test_the_chance_of_far_nights_is_beta_binomial() -> None:
    residuals, rng = draw(60, 40), np.random.default_rng(2)
    residuals[20:] += np.where(rng.random((40, 40)) < 0.3, 0.08, 0.0)
    draws = np.where(rng.random((60, 4)) < 0.8, 0.08, 0.0)
    draws[::5, 0] = np.nan
    found = find_chance(draws, residuals, np.full(60, 0.06))
    for row in range(60):
        was_far = [math.isfinite(value) and value >= 0.06 for value in residuals[row].tolist()]
        begins = sum(far and not before for far, before in zip(was_far, [False, *was_far], strict=False))
        times = sum(was_far) if begins >= 2 else 0
        nights, num_draws = len(there(residuals[row].tolist())), len(there(draws[row].tolist()))
        num_far = sum(value >= 0.06 for value in there(draws[row].tolist()))
        chance = stats.betabinom.sf(num_far - 1, num_draws, 1 + times, 1 + nights - times)
        assert found[row] == pytest.approx(chance * (1.0 if begins >= 2 else TWO_TIMES / (1 + nights)))


def test_flags_begin_where_the_one_before_is_not_set() -> None:
    assert count_begins(np.array([[True, True, False, True], [False] * 4])).tolist() == [2, 0]
