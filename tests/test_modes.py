"""Kernels that take one of two times, told as if they took one."""

import numpy as np
import pytest

from tasks.statistics.modes import LEAST_BEGINS, LEAST_KNOWN, NEW_NIGHTS, find_modes, fold_modes, fold_ratios
from tasks.statistics.spreads import Flags, Floats

NIGHTS = 60
APART = 0.08
STEP = np.log1p(0.05)


def draw(num_series: int = 200, share: float = 0.2, seed: int = 0) -> tuple[Floats, Flags]:
    """Nights with 0.3 % of noise, tonight measured again in the last column; and which took the other time."""
    rng = np.random.default_rng(seed)
    is_other = rng.random((num_series, NIGHTS + 1)) < share
    return 3.0 + rng.normal(0, 0.003, is_other.shape) + APART * is_other, is_other


def fold(draws: Floats, changed: int = NIGHTS, bad: tuple[int, ...] = ()) -> Floats:
    """Nights and tonight again, as they are told."""
    shape = draws[:, :-1].shape
    is_bad = np.zeros(shape, dtype=bool)
    is_bad[:, list(bad)] = True
    first, since = np.zeros(len(draws), dtype=np.int64), np.full(len(draws), changed)
    values, again, other, _ = fold_modes(draws[:, :-1], draws[:, -1], np.zeros(shape), is_bad, first, since)
    assert other == pytest.approx(APART, abs=0.01)
    return np.column_stack([values, again])


def split_slowly(known: Floats) -> tuple[float, float]:
    """The middles of the halves of one series whose variances add up to the least, the fuller one first."""
    ordered = sorted(known[np.isfinite(known)])
    halves = [(ordered[:place], ordered[place:]) for place in range(1, len(ordered))]
    lower, upper = min(halves, key=lambda both: sum(len(half) * float(np.var(half)) for half in both))
    return tuple(float(np.median(half)) for half in sorted((lower, upper), key=len, reverse=True))


def test_the_two_times_are_those_of_the_split_with_least_variance() -> None:
    known, _ = draw(40)
    known[np.random.default_rng(1).random(known.shape) < 0.1] = np.nan
    modes = find_modes(known)
    for row in range(len(known)):
        usual, other = split_slowly(known[row])
        assert (modes.usual[row], modes.other[row]) == pytest.approx((usual, other - usual))
        assert modes.other[row] == pytest.approx(APART, abs=0.01)
    assert modes.spread == pytest.approx(0.003, rel=0.4)


@pytest.mark.parametrize("shape", ["normal", "student", "step", "excursions", "wandering"])
def test_other_noise_and_changes_are_no_two_times(shape: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.01, (500, NIGHTS))
    if shape == "student":
        values = 0.01 * rng.standard_t(4, values.shape)
    if shape == "step":
        values[:, 30:] += 0.1
    if shape == "excursions":
        for first in (5, 20, 40):
            values[:, first : first + 10] += 0.1
    if shape == "wandering":
        values = np.cumsum(values, axis=1)
    assert np.mean(find_modes(values).other != 0) <= 0.01


def test_few_nights_and_few_of_the_other_time_do_not_tell_two() -> None:
    known, _ = draw()
    assert not find_modes(known[:, : LEAST_KNOWN - 1]).other.any()
    known, is_other = draw(share=0.03)
    begins = is_other[:, 0] + (np.diff(is_other.astype(int), axis=1) > 0).sum(axis=1)
    assert not find_modes(known).other[begins < LEAST_BEGINS].any()
    assert find_modes(known).other[begins >= LEAST_BEGINS].all()


def test_nights_of_the_rarer_time_are_moved_onto_the_other() -> None:
    draws, is_other = draw()
    folded = fold(draws)
    assert folded == pytest.approx(draws - APART * is_other, abs=0.01)


@pytest.mark.parametrize("size", [STEP, -STEP])
@pytest.mark.parametrize("num_nights", [1, 3, NEW_NIGHTS])
def test_a_change_is_the_same_whichever_time_its_nights_took(size: float, num_nights: int) -> None:
    draws, is_other = draw()
    draws[:, -1 - num_nights :] += size
    error = np.abs(fold(draws) - (draws - APART * is_other)).max(axis=1)
    took_other = is_other[:, -1 - num_nights :].all(axis=1)  # which looks like a smaller change of the usual time
    assert np.mean(error[~took_other] < 0.01) >= 0.95


def test_the_rarer_time_several_nights_in_a_row_is_no_change() -> None:
    draws, is_other = draw()
    draws[:, -4:] += APART * ~is_other[:, -4:]
    assert np.mean(np.abs(fold(draws)[:, -4:] - 3.0) < 0.015) == 1


def test_nights_of_a_change_that_stands_are_told_by_it_and_those_that_are_back_by_the_level_before() -> None:
    draws, is_other = draw()
    draws[:, 40:-2] += STEP
    folded = fold(draws, changed=40)
    assert np.mean(np.abs(folded[:, 40:-2] - 3.0 - STEP) < 0.015) >= 0.97
    assert np.mean(np.abs(folded[:, -2:][~is_other[:, -2:]] - 3.0) < 0.015) >= 0.97


def find_mistaken(draws: Floats) -> Floats:
    """How likely it is of each that the nights of its change took the other time, and it moved the other way."""
    nothing, none = np.zeros(draws[:, :-1].shape), np.zeros(len(draws), dtype=np.int64)
    return fold_modes(draws[:, :-1], draws[:, -1], nothing, nothing > 0, none, none + NIGHTS)[3]


@pytest.mark.parametrize(
    ("took_other", "size", "is_doubtful"),
    [
        pytest.param(False, 0.04, True, id="slower than the one or faster than the other"),
        pytest.param(True, -0.04, True, id="which may be the other way round"),
        pytest.param(False, -0.04, False, id="faster than both"),
        pytest.param(True, 0.04, False, id="slower than both"),
    ],
)
def test_a_change_of_nights_of_one_time_may_be_one_the_other_way(
    took_other: bool, size: float, is_doubtful: bool
) -> None:
    draws, is_other = draw()
    draws[:, -2:] += size + APART * (np.full((200, 2), took_other) * 1.0 - is_other[:, -2:])
    assert np.mean((find_mistaken(draws) > 0.05) == is_doubtful) >= 0.98
    draws[:, -1] += APART * (1 - 2 * took_other)  # measured again, it took the other one
    assert np.mean(find_mistaken(draws) > 0.05) <= 0.02


def test_the_rarer_of_two_times_is_not_taken_many_times_in_a_row() -> None:
    draws, is_other = draw()
    draws[:, -NEW_NIGHTS:] += 0.04 - APART * is_other[:, -NEW_NIGHTS:]
    assert np.mean(find_mistaken(draws) > 0.05) <= 0.02


def test_bad_nights_do_not_tell_of_a_change() -> None:
    draws, is_other = draw()
    draws[:, -5:-2] += STEP
    folded = fold(draws, bad=(NIGHTS - 4, NIGHTS - 3, NIGHTS - 2))
    assert folded[:, -2:] == pytest.approx((draws - APART * is_other)[:, -2:], abs=0.01)


def test_nights_before_the_first_that_counts_are_left_out() -> None:
    draws, _ = draw(3)
    draws[0, :10] += 1.0
    first, since = np.array([10, 0, 0]), np.full(3, NIGHTS)
    nothing = np.zeros((3, NIGHTS))
    values, _, other, _ = fold_modes(draws[:, :-1], draws[:, -1], nothing, nothing > 0, first, since)
    assert other.all()
    assert np.isnan(values).sum(axis=1).tolist() == [10, 0, 0]


def test_what_likes_have_in_common_is_no_time_of_its_own() -> None:
    draws, is_other = draw()
    common = np.zeros((len(draws), NIGHTS))
    common[:, -1] = -STEP
    draws[:, -2:] -= STEP
    unmoved = np.zeros(len(draws), dtype=np.int64)
    values, again, *_ = fold_modes(draws[:, :-1], draws[:, -1], common, common > 1, unmoved, unmoved + NIGHTS)
    expected = draws - APART * is_other
    assert values == pytest.approx(expected[:, :-1], abs=0.01)
    assert again == pytest.approx(expected[:, -1], abs=0.01)


def test_a_ratio_of_two_processes_is_the_one_that_is_nearest_to_none() -> None:
    ratios = np.array([0.07, -0.068, 0.05, -0.05, 0.02, np.nan])
    other = np.array([0.07, 0.07, 0.0, 0.07, 0.07, 0.07])
    expected = np.array([0.0, 0.002, 0.05, 0.02, 0.02, np.nan])
    assert fold_ratios(ratios, other) == pytest.approx(expected, nan_ok=True)
