"""The noise of a history: its density against a sum over every residual, its correlation against a double loop."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.statistics.noise import (
    BANDWIDTH,
    GRID,
    GRID_STEP,
    KNEE,
    LEVEL_STEP,
    MAX_LEVELS,
    MIN_SCALE,
    STRANGER_SHARE,
    STRANGER_WIDTH,
    Floats,
    estimate_noise,
    find_inflation,
    find_levels,
    to_relative_scale,
)

HEAVY = np.random.default_rng(1).standard_t(3, 200) * 0.01
BIMODAL = np.random.default_rng(2).standard_normal(200) * 0.01 + 0.1 * (np.arange(200) % 7 == 0)


def sum_log_density(distance: float, residuals: Floats, scale: float) -> float:
    """The slow twin: one kernel per residual, at one distance in scales."""
    u = KNEE * math.asinh(distance / KNEE)
    total = 0.0
    for residual in residuals:
        away = (u - KNEE * math.asinh(residual / scale / KNEE)) / BANDWIDTH
        total += math.exp(-0.5 * away**2) / (BANDWIDTH * math.sqrt(2 * math.pi))
    stranger = 1 / (1 + abs(u) / STRANGER_WIDTH) ** 2 / (2 * STRANGER_WIDTH)
    mixed = (1 - STRANGER_SHARE) * total / len(residuals) + STRANGER_SHARE * stranger
    return math.log(mixed)


@pytest.mark.parametrize("residuals", [HEAVY, BIMODAL], ids=["heavy", "bimodal"])
def test_the_density_is_the_sum_of_a_kernel_per_residual(residuals: Floats) -> None:
    noise = estimate_noise(residuals)
    for u in (-20.0, -5.0, -1.0, 0.0, 0.5, 3.0, 8.0, 30.0):
        expected = sum_log_density(KNEE * math.sinh(u / KNEE), residuals, noise.scale)
        assert noise.log_density[np.argmin(np.abs(GRID - u))] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("residuals", [HEAVY, BIMODAL], ids=["heavy", "bimodal"])
def test_the_density_is_one_in_all_but_what_lies_beyond_the_grid(residuals: Floats) -> None:
    mass = np.exp(estimate_noise(residuals).log_density) * GRID_STEP
    beyond = STRANGER_SHARE / (1 + GRID[-1] / STRANGER_WIDTH)
    assert mass.sum() == pytest.approx(1 - beyond, abs=1e-3)


def test_the_likelihood_of_a_value_is_the_density_at_its_distance_from_the_level() -> None:
    noise, levels = estimate_noise(HEAVY), np.array([-0.02, 0.0, 0.5])
    table = noise.log_likelihood(HEAVY, levels)
    assert table.shape == (len(HEAVY), len(levels))
    for row, value in zip(table, HEAVY, strict=True):
        for likelihood, level in zip(row, levels, strict=True):
            u = KNEE * math.asinh((value - level) / noise.scale / KNEE)
            assert likelihood == noise.log_density[np.argmin(np.abs(GRID - u))]


def test_the_scale_is_a_standard_deviation_that_outliers_do_not_move() -> None:
    residuals = np.random.default_rng(0).standard_normal(2000) * 0.01
    residuals[::20] = 5.0
    assert estimate_noise(residuals).scale == pytest.approx(0.01, rel=0.1)


def test_residuals_that_are_mostly_zero_have_a_scale_and_equal_ones_the_smallest() -> None:
    assert estimate_noise(np.array([0.0] * 30 + [0.3])).scale == pytest.approx(0.3 / 31)
    assert estimate_noise(np.zeros(10)).scale == MIN_SCALE


def find_inflation_slowly(residuals: Floats, scale: float) -> float:
    cut = [min(3.0, max(-3.0, residual / scale)) for residual in residuals]
    total = sum(value * value for value in cut)
    correlation = 0.0
    for lag in range(1, 6):
        for place in range(lag, len(cut)):
            correlation += cut[place] * cut[place - lag] / total
    return 1 + 2 * max(0.0, correlation - 1.5 * math.sqrt(5 / len(cut)))


@given(st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=6, max_size=40).filter(any))
@settings(deadline=None)
def test_the_inflation_is_one_and_twice_the_sum_of_the_correlations(residuals: list[float]) -> None:
    array = np.array(residuals)
    assert find_inflation(array, 0.1) == pytest.approx(find_inflation_slowly(array, 0.1))


def test_only_noise_that_resembles_its_neighbours_inflates_evidence() -> None:
    white = np.random.default_rng(0).standard_normal(400)
    averaged = np.convolve(white, np.ones(5) / math.sqrt(5), "same")
    assert find_inflation(white, 1.0) == 1.0
    assert find_inflation(averaged, 1.0) > 3
    assert find_inflation(np.zeros(20), 1.0) == 1.0


def test_what_lasts_for_three_values_has_a_level_and_a_single_outlier_has_none() -> None:
    values = np.zeros(40)
    values[20], values[-3:] = 5.0, 1.0
    levels = find_levels(values, scale=0.1)
    assert sorted(levels) == pytest.approx([0.0, 1.0])


def test_levels_lie_a_quarter_of_a_scale_apart_or_further_where_there_are_too_many() -> None:
    few, many = find_levels(np.linspace(0, 1, 50), 0.4), find_levels(np.linspace(0, 1, 5000), 1e-3)
    assert np.diff(few) == pytest.approx(LEVEL_STEP * 0.4)
    assert MAX_LEVELS / 2 < len(many) <= MAX_LEVELS
    assert many[0] <= 0.02 and many[-1] >= 0.98


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), st.floats(1e-6, 1e6))
def test_the_relative_scale_does_not_know_the_unit(values: list[float], unit: float) -> None:
    array = np.array(values)
    assert to_relative_scale(array * unit).tolist() == to_relative_scale(array).tolist()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_the_relative_scale_of_any_values_is_finite(values: list[float]) -> None:
    assert np.isfinite(to_relative_scale(np.array(values))).all()


def test_one_percent_is_one_percent_on_the_relative_scale() -> None:
    assert np.diff(to_relative_scale(np.array([100.0, 101.0]))) == pytest.approx(math.log(1.01))
    assert np.diff(to_relative_scale(np.array([-100.0, 100.0, 101.0, 0.0])))[1] == pytest.approx(0.01)
