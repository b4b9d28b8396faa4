"""The model of times against its formula, spelt out, and against what it should find."""

import math

import numpy as np
import pytest
import torch

from tasks.tuning.surrogate import MEAN_VARIANCE, NOISE, Encoding, Model, Observations, fit, matern, predict

ENCODING = Encoding({"a": (16, 32, 64, 128), "b": (1, 2, 4)})
CONFIGS = [{"a": a, "b": b} for a in (16, 32, 64, 128) for b in (1, 2, 4)]


def observe(configs: list[dict[str, int]], logs: list[float], octaves: list[float]) -> Observations:
    return Observations(ENCODING.encode(configs), torch.tensor(octaves).double(), torch.tensor(logs).double())


def covariance_twin(model: Model, x: dict[str, int], x_octave: float, y: dict[str, int], y_octave: float) -> float:
    """The docstring's formula for two configurations."""

    def similarity(distance: float, length: float) -> float:
        r = math.sqrt(5) * abs(distance) / length
        return (1 + r + r * r / 3) * math.exp(-r)

    product = model.variance
    for name, values in ENCODING.values.items():
        product *= (1 + similarity(values.index(x[name]) - values.index(y[name]), model.steps)) / 2
    own = model.own**2 if x == y else 0.0
    means = MEAN_VARIANCE if x_octave == y_octave else 0.0
    return similarity(x_octave - y_octave, model.octaves) * (product + own) + means


def test_a_prediction_is_what_the_formula_says() -> None:
    rng, model = np.random.default_rng(0), Model(0.2, 0.03, 2.0, 3.0)
    seen = [CONFIGS[at] for at in (0, 5, 7, 11, 5)]
    octaves, logs = [4.0, 4.0, 4.0, 6.0, 6.0], list(rng.normal(size=5))
    mean, deviation = predict(ENCODING, model, observe(seen, logs, octaves), ENCODING.encode(CONFIGS), 4.0)
    known = np.array(
        [
            [covariance_twin(model, x, p, y, q) for y, q in zip(seen, octaves, strict=True)]
            for x, p in zip(seen, octaves, strict=True)
        ]
    ) + NOISE**2 * np.eye(5)
    for place, config in enumerate(CONFIGS):
        between = np.array([covariance_twin(model, config, 4.0, y, q) for y, q in zip(seen, octaves, strict=True)])
        weights = np.linalg.solve(known, between)
        assert mean[place] == pytest.approx(weights @ np.array(logs), abs=1e-6)
        own = covariance_twin(model, config, 4.0, config, 4.0)
        assert deviation[place] ** 2 == pytest.approx(own - weights @ between, abs=1e-6)


def test_what_was_measured_is_known_and_the_rest_less_so() -> None:
    logs = [0.1 * (place % 3) for place in range(6)]
    mean, deviation = predict(ENCODING, Model(), observe(CONFIGS[:6], logs, [4.0] * 6), ENCODING.encode(CONFIGS), 4.0)
    assert torch.abs(mean[:6] - torch.tensor(logs)).max() < 0.01
    assert deviation[:6].max() < 0.01 < deviation[6:].min()


def test_a_value_that_helps_everywhere_is_believed_to_help_here() -> None:
    seen = [{"a": 16, "b": b} for b in (1, 2, 4)] + [{"a": 64, "b": 1}]
    mean, _ = predict(ENCODING, Model(), observe(seen, [0.0, -0.2, 0.1, 0.3], [4.0] * 4), ENCODING.encode(CONFIGS), 4.0)
    times = {tuple(config.values()): log for config, log in zip(CONFIGS, mean, strict=True)}
    assert times[64, 2] < times[64, 1] < times[64, 4]


def test_another_batch_size_tells_of_this_one_whatever_its_times_are() -> None:
    seen = observe(CONFIGS, [100 + 0.1 * config["b"] for config in CONFIGS], [5.0] * len(CONFIGS))
    mean, _ = predict(ENCODING, Model(), seen, ENCODING.encode(CONFIGS), 4.0)
    assert [CONFIGS[at]["b"] for at in mean.argsort()[:4]] == [1, 1, 1, 1]


def test_the_constants_are_those_that_explain_the_times() -> None:
    rng = np.random.default_rng(1)
    wide = Encoding({"a": tuple(range(12)), "b": tuple(range(12))})
    configs = [{"a": a, "b": b} for a in range(12) for b in range(12)]
    points, octaves = wide.encode(configs), torch.full((len(configs),), 3.0, dtype=torch.float64)
    smooth = torch.tensor([0.1 * math.sin(config["a"] / 6) + 0.1 * config["b"] / 12 for config in configs]).double()
    rough = smooth + torch.from_numpy(rng.normal(size=len(configs)) * 0.03)
    assert fit(wide, Observations(points, octaves, smooth)).own == 0.005
    assert fit(wide, Observations(points, octaves, rough)).own == 0.025
    assert fit(wide, Observations(points, octaves, smooth)).steps >= 3.0


def test_values_outside_the_grid_are_at_the_nearest() -> None:
    assert ENCODING.encode([{"a": 100, "b": 3}, {"a": 8}]).tolist() == [[3, 1], [0, 0]]


def test_similarity_falls_from_one() -> None:
    values = matern(torch.tensor([0.0, 0.5, -0.5, 1.0, 4.0]))
    assert values[0] == 1.0
    assert values[1] == values[2] > values[3] > values[4] > 0
