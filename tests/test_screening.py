"""Comparisons of many series against slow and obvious ones; how often noise looks like a change; odd series."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tasks.statistics.lasting_moves import EXPLAINED_SHARE, LastingMove
from tasks.statistics.screening import (
    BASELINE_NIGHTS,
    HABIT,
    LEAST_TAIL,
    MOST_OF_MEDIAN,
    SCALES,
    STANDING_NIGHTS,
    TAIL_PER_NIGHT,
    Recent,
    compare_nights,
    learn_noise,
    screen,
)
from tasks.statistics.spreads import Floats, estimate_correlation, estimate_noise, find_chance

NUM_SERIES, NUM_NIGHTS = 40, 60


def make_recent(values: Floats, **changes: object) -> Recent:
    """Series of one card and one pool; nothing is marked, nothing stands, nothing was measured again."""
    shape = values.shape
    nothing = np.zeros(shape[0], dtype=np.int64)
    recent = Recent(
        values=values,
        cards=np.zeros(shape, dtype=np.int64),
        runs=np.tile(np.arange(shape[1]), (shape[0], 1)),
        pools=nothing,
        first=nothing,
        changed=nothing + shape[1],
        again=np.full(shape[0], np.nan),
        beside=np.full(shape[0], np.nan),
    )
    return replace(recent, **changes)  # type: ignore[arg-type]


def draw(num_series: int = NUM_SERIES, num_nights: int = NUM_NIGHTS, kind: str = "normal", seed: int = 0) -> Floats:
    """Series around levels of their own, with a noise of half a percent."""
    rng = np.random.default_rng(seed)
    noise = (
        rng.normal(size=(num_series, num_nights)) if kind != "student" else rng.standard_t(4, (num_series, num_nights))
    )
    memory = {"autocorrelated": 0.5}.get(kind, 0.0)
    for night in range(1, num_nights):
        noise[:, night] = memory * noise[:, night - 1] + math.sqrt(1 - memory**2) * noise[:, night]
    return rng.uniform(2, 7, (num_series, 1)) + 0.005 * noise


@pytest.mark.parametrize("count", SCALES)
def test_a_comparison_is_stouffers_of_the_nights(count: int) -> None:
    values = draw()
    values[::3, -count:] += 0.02
    values[5:15, 20] = np.nan
    again = np.where(np.arange(NUM_SERIES) % 3 == 0, values[:, -1], np.nan)
    beside = np.where(np.arange(NUM_SERIES) % 3 == 0, 0.012, np.nan)
    recent = make_recent(values, again=again, beside=beside)
    known, _ = learn_noise(recent)
    found = compare_nights(recent, known, np.full(NUM_SERIES, NUM_NIGHTS - count))
    before = np.where(np.arange(NUM_NIGHTS) < NUM_NIGHTS - count, known.residuals, np.nan)
    noise = estimate_noise(before, recent.pools, values[:, -1]).tolist()
    correlation = estimate_correlation(before).tolist()
    for row in range(NUM_SERIES):
        base = [v for v in values[row, : NUM_NIGHTS - count][-BASELINE_NIGHTS:].tolist() if math.isfinite(v)]
        level = statistics.median(base)
        now = values[row, NUM_NIGHTS - count :].tolist() + ([float(again[row])] if math.isfinite(again[row]) else [])
        moved = [value - level for value in now]
        change = statistics.median(moved)
        share = (1 - correlation[row]) / (1 + correlation[row])
        independent = 1 / (1 / max(1.0, len(moved) * share) + 1 / max(1.0, len(base) * share))
        towards = [min(math.copysign(1, change) * one, MOST_OF_MEDIAN * abs(change)) for one in moved]
        tail = LEAST_TAIL + TAIL_PER_NIGHT * len(moved)
        z = statistics.mean(stats.norm.isf(stats.t.sf(one / noise[row], tail)) for one in towards)
        chance = find_chance(np.array([moved]), before[row : row + 1], np.array([HABIT * change]))[0]
        expected = min(1.0, 2 * stats.norm.sf(z * math.sqrt(independent)) + chance)
        assert found.level[row] == pytest.approx(level)
        assert found.num_baseline[row] == len(base)
        assert found.change[row] == pytest.approx(change)
        assert found.p_value[row] == pytest.approx(expected)
        assert found.num_nights[row] == count
        apart = math.copysign(1, change) * beside[row] / (math.sqrt(2) * noise[row])
        by_chance = 1.0 if math.isnan(apart) else stats.t.sf(apart, LEAST_TAIL + TAIL_PER_NIGHT)
        assert found.p_beside[row] == pytest.approx(by_chance)
        assert found.chance[row] == pytest.approx(chance)


@pytest.mark.parametrize("num_nights", [5, 10, 20, 45, 90])
@pytest.mark.parametrize("kind", ["normal", "student", "autocorrelated"])
def test_noise_alone_looks_like_a_change_no_more_often_than_is_said(kind: str, num_nights: int) -> None:
    screening = screen(make_recent(draw(3000, num_nights, kind)))
    assert (screening.p_value < 0.01).mean() <= 0.013
    assert (screening.p_value < 1e-5).mean() <= 1e-3


@pytest.mark.parametrize("change", [0.05, -0.05])
def test_a_step_of_ten_times_the_noise_is_seen_at_once_and_its_size_is_known(change: float) -> None:
    values = draw(500, 60)
    values[:, -1] += change
    screening = screen(make_recent(values, runs=np.arange(500 * 60).reshape(500, 60), again=values[:, -1] + 0.001))
    assert (screening.p_value < 1e-4).mean() > 0.98
    assert np.median(screening.change) == pytest.approx(change, abs=0.002)
    assert ((screening.low < change) & (change < screening.high)).mean() > 0.8


def test_a_small_step_is_seen_over_more_nights() -> None:
    values = draw(500, 60) + draw(500, 60, seed=1)
    values[:, -8:] += 0.0325
    screening = screen(make_recent(values, runs=np.arange(500 * 60).reshape(500, 60)))
    assert (screening.p_value < 1e-3).mean() > 0.9
    assert np.median(screening.num_nights) >= 5


@pytest.mark.parametrize("earlier", [0.023, 0.033])
def test_a_small_change_of_weeks_ago_does_not_hide_tonights(earlier: float) -> None:
    values = draw(500, 60)
    values[:, -14:] += earlier
    values[:, -1] += 0.05
    screening = screen(make_recent(values, runs=np.arange(500 * 60).reshape(500, 60), again=values[:, -1]))
    assert np.median(screening.num_nights) == 1
    assert np.median(screening.change) > 0.05


def test_a_slow_drift_is_seen() -> None:
    values = draw(200, 90)
    values += np.clip(np.arange(90) - 60, 0, 30) * 0.0015
    screening = screen(make_recent(values, runs=np.arange(200 * 90).reshape(200, 90)))
    assert (screening.p_value < 1e-3).mean() > 0.9
    assert screening.is_drift.any()


def test_a_series_that_takes_one_of_two_times_has_not_changed() -> None:
    rng = np.random.default_rng(3)
    values = draw(1000, 90) + np.where(rng.random((1000, 90)) < rng.uniform(0.1, 0.5, (1000, 1)), 0.06, 0.0)
    screening = screen(make_recent(values, again=values[:, -1]))
    assert (screening.p_value < 1e-4).mean() <= 0.002


def test_a_night_that_was_slow_for_all_is_no_noise_of_any() -> None:
    values = draw()
    quiet = screen(make_recent(values))
    values[:, 40:42] += 0.1
    assert screen(make_recent(values)).noise == pytest.approx(quiet.noise, rel=0.2)


def test_a_driver_is_no_noise_of_any_series_whether_or_not_it_followed() -> None:
    values = draw()
    quiet = screen(make_recent(values))
    values[25:, 45:] += 0.03
    driver = LastingMove(45, 0.0, 0.03 / EXPLAINED_SHARE)
    driven = screen(make_recent(values, moves=[[driver]]))
    assert np.median(driven.noise[:25] / quiet.noise[:25]) == pytest.approx(1.0, abs=0.1)
    assert np.median(driven.noise[25:] / quiet.noise[25:]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("driver", [0.0, 0.03])
@pytest.mark.parametrize("num_nights", [1, 3, 5])
def test_two_times_are_told_apart_on_the_nights_after_a_new_library(num_nights: int, driver: float) -> None:
    rng, begin = np.random.default_rng(5), 90 - num_nights
    values = draw(400, 90, seed=5)
    values[:60] = 3.0 + rng.normal(0, 0.002, (60, 90)) + np.where(rng.random((60, 90)) < 0.3, 0.05, 0.0)
    values[:, 40:] += driver * rng.uniform(0.8, 1.2, (400, 1))
    values[60:160, 50:] -= 0.033  # another library, weeks ago
    values[160:330, begin:] -= 0.04
    values[:, begin - 3 : begin] += 0.07 * rng.uniform(0.7, 1.3, (400, 1))  # an outage right before
    screening = screen(make_recent(values, moves=[[LastingMove(40, 0.0, driver / EXPLAINED_SHARE)]]))
    assert screening.other[:60] == pytest.approx(0.05, abs=0.005)
    assert np.abs(screening.nights[:60, begin:]).max() < 0.02
    assert (screening.p_value[:60] > 1e-3).all()


def test_a_step_of_a_series_that_takes_one_of_two_times_is_found() -> None:
    rng = np.random.default_rng(4)
    values, again = draw(500, 90), rng.normal(0, 0.005, 500)
    is_other = rng.random((500, 91)) < 0.3
    again += values[:, :60].mean(axis=1) + 0.08 * is_other[:, -1] + 0.05
    values += 0.08 * is_other[:, :90]
    values[:, -2:] += 0.05
    screening = screen(make_recent(values, again=again))
    assert (screening.p_value < 1e-4).mean() > 0.9
    assert (np.abs(screening.change - 0.05) < 0.015).mean() > 0.9
    assert screening.other == pytest.approx(0.08, abs=0.01)


def test_a_change_that_stands_is_measured_over_its_nights() -> None:
    values = draw()
    values[:, 40:] += 0.05
    screening = screen(make_recent(values, changed=np.full(NUM_SERIES, 40)))
    assert screening.change == pytest.approx(0.05, abs=0.004)
    assert (screening.num_nights == STANDING_NIGHTS).all()
    assert (screening.num_baseline == BASELINE_NIGHTS).all()


def test_a_change_that_was_taken_back_does_not_make_the_level() -> None:
    values = draw(200, 60) + np.where((np.arange(60) >= 33) & (np.arange(60) < 49), 0.05, 0.0)
    screening = screen(make_recent(values, runs=np.arange(200 * 60).reshape(200, 60)))
    assert (screening.p_value < 1e-3).mean() < 0.01


def test_nights_before_a_baseline_tell_the_noise_and_not_the_level() -> None:
    values = draw()
    values[:, 50:] += 0.3
    screening = screen(make_recent(values, first=np.full(NUM_SERIES, 50)))
    assert (screening.num_baseline < 10).all()
    assert (screening.num_known >= 45).all()
    assert np.abs(screening.change).max() < 0.02
    assert screening.noise == pytest.approx(0.005, rel=0.6)


def test_a_swapped_card_is_no_change() -> None:
    values, cards = draw(200, 60), np.zeros((200, 60), dtype=np.int64)
    cards[:, 30:] = np.arange(200)[:, None] % 2
    cards[::2, -1] = 2
    offsets = np.array([0.0, 0.02, 0.03])
    screening = screen(make_recent(values + offsets[cards], cards=cards))
    assert (screening.p_value < 0.01).mean() <= 0.013


def test_a_card_that_was_swapped_after_a_driver_is_not_taken_for_the_driver() -> None:
    values, cards = draw(), np.zeros((NUM_SERIES, NUM_NIGHTS), dtype=np.int64)
    quiet = screen(make_recent(values))
    values[:, 35:] -= 0.025
    cards[:, 50:] = 1
    screening = screen(make_recent(values, cards=cards, moves=[[LastingMove(35, -0.025 / EXPLAINED_SHARE, 0.0)]]))
    assert np.median(screening.nights[:, 50:]) == pytest.approx(0.0, abs=0.002)
    assert np.mean(screening.p_value < 0.01) <= np.mean(quiet.p_value < 0.01) + 0.05


def test_nothing_depends_on_the_order_of_the_series_nor_on_the_unit() -> None:
    values = draw()
    values[::4, -2:] += 0.03
    order = np.random.default_rng(0).permutation(NUM_SERIES)
    plain, mixed = screen(make_recent(values)), screen(make_recent(values[order]))
    scaled = screen(make_recent(values + math.log(1000)))
    assert mixed.p_value == pytest.approx(plain.p_value[order], abs=1e-12)
    assert scaled.p_value == pytest.approx(plain.p_value, abs=1e-9)
    assert scaled.change == pytest.approx(plain.change, abs=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.zeros((0, 1)), id="no series"),
        pytest.param(np.array([[1.0]]), id="one series, one night"),
        pytest.param(np.array([[1.0, 1.1]]), id="two points"),
        pytest.param(np.array([[np.nan, 1.0], [1.0, 1.0]]), id="one of them is new"),
        pytest.param(np.ones((3, 60)), id="constant"),
        pytest.param(np.full((2, 30), np.nan), id="nothing at all"),
        pytest.param(np.array([[1.0] * 29 + [np.inf], [1.0] * 29 + [-np.inf]]), id="infinite"),
        pytest.param(np.array([[np.nan, np.inf, 1.0] * 10, [1.0] * 30]), id="holes"),
        pytest.param(np.array([[1e308, -1e308] * 15]), id="huge"),
    ],
)
def test_what_is_hardly_a_series_gets_an_answer(values: Floats) -> None:
    screening = screen(make_recent(values))
    assert screening.p_value.shape == (len(values),)
    assert ((screening.p_value >= 0) & (screening.p_value <= 1)).all()
    if values.shape[1] < 10:
        assert (screening.p_value > 1e-3).all()


def test_a_constant_series_that_moves_has_changed() -> None:
    values = np.ones((3, 60))
    values[0, -2:] += 0.05
    screening = screen(make_recent(values, again=values[:, -1]))
    assert screening.p_value[0] < 1e-6
    assert screening.p_value[1:].tolist() == [1.0, 1.0]
