"""When a machine changed for good, where it was made to, and how far kernels followed."""

import numpy as np
import pytest

from tasks.statistics.lasting_moves import EXPLAINED_SHARE, LastingMove, find_lasting_moves, shift_to_last_move
from tasks.statistics.spreads import COMMON_NIGHTS, Floats

NUM_RUNS = 60
RUNS = 3 * np.arange(NUM_RUNS)  # two of three were of another device


def draw(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.0005, (2, NUM_RUNS))


def find(levels: Floats) -> list[int]:
    return [move.run // 3 for move in find_lasting_moves(levels, RUNS[: levels.shape[1]])]


def test_a_quiet_machine_has_not_moved() -> None:
    assert [find(draw(seed)) for seed in range(20)] == [[]] * 20
    assert find(draw()[:, :3]) == []
    assert find(draw()[:, :0]) == []


@pytest.mark.parametrize("size", [-0.04, 0.02])
@pytest.mark.parametrize("first", [COMMON_NIGHTS, 30, NUM_RUNS - COMMON_NIGHTS])
def test_a_move_that_lasted_a_week_is_found_where_it_began(first: int, size: float) -> None:
    levels = draw()
    levels[1, first:] += size  # one of the two kernels
    [move] = find_lasting_moves(levels, RUNS)
    assert move.run == RUNS[first]
    bound = move.low if size < 0 else move.high
    assert bound == pytest.approx(size / EXPLAINED_SHARE, abs=0.002)
    assert abs(move.low + move.high - bound) < 0.003


def test_what_has_not_lasted_a_week_or_is_small_is_none() -> None:
    for length in range(1, COMMON_NIGHTS):
        levels = draw()
        levels[:, -length:] += 0.05
        assert find(levels) == []
        levels = draw()
        levels[:, 20 : 20 + min(length, COMMON_NIGHTS // 2)] += 0.05  # over
        assert find(levels) == []
    levels = draw()
    levels[:, 30:] += 0.005
    assert find(levels) == []


def test_two_outages_in_a_week_are_none_that_changed_for_good() -> None:
    levels = draw()
    levels[:, 50:53] += 0.06
    levels[:, 54:57] += 0.07
    assert find(levels[:, :57]) == []
    assert find(levels) == []


def test_a_driver_with_an_outage_in_its_first_week_is_found_a_week_later() -> None:
    levels = draw()
    levels[:, 40:] -= 0.043
    levels[:, 43:45] += 0.065
    assert find(levels[:, : 40 + COMMON_NIGHTS]) == []
    assert find(levels[:, : 40 + 2 * COMMON_NIGHTS]) == [40]


def test_two_drivers_are_two_moves() -> None:
    levels = draw()
    levels[:, 20:] -= 0.03
    levels[:, 40:] += 0.02
    assert find(levels) == [20, 40]


def test_nights_before_a_move_are_shifted_by_what_each_series_did() -> None:
    rng = np.random.default_rng(0)
    followed = np.array([0.0, 0.04, 0.06, 0.3, -0.2])
    values, runs = rng.normal(0, 1e-4, (5, NUM_RUNS)), np.tile(RUNS, (5, 1))
    values[:, 40:] += followed[:, None]
    values[:, 45] += 0.5
    values[1, 50], tells = np.nan, np.ones(values.shape, dtype=bool)
    tells[2, 40:55], values[2, 40:55] = False, -3.0
    moves, one = [LastingMove(int(RUNS[40]), 0.0, 0.1)], np.zeros(values.shape, dtype=np.int64)
    shifted, _ = shift_to_last_move(values, runs, moves, one, tells)
    assert shifted[:, 40:] == pytest.approx(values[:, 40:], nan_ok=True)
    expected = np.clip(followed, 0.0, 0.1)  # no further than the machine explains
    assert np.median(shifted[:, :40] - values[:, :40], axis=1) == pytest.approx(expected, abs=3e-4)


def test_nights_before_two_moves_are_shifted_by_both() -> None:
    values, runs = np.zeros((1, NUM_RUNS)), RUNS[None]
    values[:, 20:] -= 0.03
    values[:, 40:] += 0.02
    moves = [LastingMove(int(RUNS[20]), -0.1, 0.0), LastingMove(int(RUNS[40]), 0.0, 0.1)]
    shifted, _ = shift_to_last_move(values, runs, moves, np.zeros((1, NUM_RUNS), dtype=np.int64), values > -1)
    assert shifted == pytest.approx(np.full((1, NUM_RUNS), -0.01))


@pytest.mark.parametrize("changed", [36, 44])
def test_a_change_of_the_kernel_is_no_following(changed: int) -> None:
    values, regimes = np.zeros((1, NUM_RUNS)), (np.arange(NUM_RUNS) >= changed).astype(np.int64)[None]
    values[:, 40:] -= 0.04
    values[:, changed:] += 0.05
    move = LastingMove(int(RUNS[40]), -0.1, 0.0)
    shifted, _ = shift_to_last_move(values, RUNS[None], [move], regimes, values > -1)
    assert shifted == pytest.approx(np.where(regimes, 0.01, -0.04))


def test_a_series_with_no_nights_on_one_side_stays_as_it_is() -> None:
    values, one = np.arange(10.0)[None], np.zeros((1, 10), dtype=np.int64)
    for runs in (np.arange(10) + 4, np.arange(10) - 6):
        shifted, _ = shift_to_last_move(values, runs[None], [LastingMove(4, -9.0, 9.0)], one, values > -1)
        assert shifted.tolist() == values.tolist()


def test_how_far_a_night_may_be_wrong_is_told_by_the_nights_on_both_sides() -> None:
    nights = np.random.default_rng(0).normal(0, 0.01, (4000, 30))
    runs, one = np.tile(np.arange(30), (4000, 1)), np.zeros(nights.shape, dtype=np.int64)
    shifted, doubts = shift_to_last_move(nights, runs, [LastingMove(20, -9.0, 9.0)], one, nights > -9)
    wrong = np.std((shifted - nights)[:, 0])
    assert np.sqrt(doubts[0, :20]) * 0.01 == pytest.approx(np.full(20, wrong), rel=0.1)
    assert not doubts[:, 20:].any()
