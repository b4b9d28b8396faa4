"""What a configuration will probably take: a Gaussian process over the values and the batch size.

It knows interactions of every order, each less than the one before, and that one configuration may be better or worse
than its values say, at all batch sizes alike; l are distances in steps of a value, or in octaves of the batch size:

    k(x, y) = matern(l_M) * (V * prod_i (1 + matern(l_i)) / 2 + U * [x is y])
    matern(l) = (1 + r + r^2 / 3) exp(-r),  r = sqrt(5) |l| / length

y is log(time) and every batch size has a mean of its own.
Source: Duvenaud, Nickisch, Rasmussen, Additive Gaussian Processes (NeurIPS 2011); Rasmussen, Williams, section 2.2.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.moe.vllm_config_files import Config

MEAN_VARIANCE = 25.0
"""Of the means, which differ by orders of magnitude."""
NOISE = 0.007
"""Of log(time): what is measured and not repeated."""
MOST_FITTED = 240
"""Observations that the model's constants are fitted to."""


@dataclass(frozen=True, slots=True)
class Model:
    """The constants of the formula."""

    variance: float = 0.15
    """V, of log(time) over the configurations of a batch size."""
    own: float = 0.012
    """Square root of U: what a configuration has for itself."""
    steps: float = 3.0
    """Length in a value."""
    octaves: float = 3.0
    """Length in the batch size."""


CHOICES: Mapping[str, tuple[float, ...]] = {
    "steps": (2.0, 3.0, 4.5, 6.5),
    "own": (0.005, 0.012, 0.025),
    "variance": (0.005, 0.05, 0.15, 0.4),
    "octaves": (1.5, 3.0, 6.0),
}
"""Of each constant, in the order in which they are fitted."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Configurations as points of a grid: of each value, its place among those it may take."""

    values: Mapping[str, tuple[int, ...]]

    def encode(self, configs: Sequence[Config]) -> Tensor:
        """[configs, names]; a value that is not of the grid is at the nearest."""
        columns = []
        for name, values in self.values.items():
            places = {value: place for place, value in enumerate(values)}
            column = []
            for config in configs:
                value = config.get(name, values[0])
                nearest = min(values, key=lambda known: abs(known - value)) if value not in places else value
                column.append(places[nearest])
            columns.append(column)
        return torch.tensor(columns).T

    def list_tables(self, model: Model) -> list[Tensor]:
        """(1 + matern) / 2 between the places of each value."""
        return [(1 + matern(_distances(len(values)) / model.steps)) / 2 for values in self.values.values()]


@dataclass(frozen=True, slots=True)
class Observations:
    """What was measured."""

    points: Tensor
    """[observations, names]."""
    octaves: Tensor
    """log2 of their batch sizes."""
    logs: Tensor
    """log(time), each batch size up to a constant."""


def matern(distance: Tensor) -> Tensor:
    """Twice differentiable, 1 at 0."""
    r = math.sqrt(5.0) * distance.abs()
    return (1 + r + r * r / 3) * torch.exp(-r)


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more, and threads that wait for busy cores cost seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def covariance(encoding: Encoding, model: Model, a: Tensor, b: Tensor) -> Tensor:
    """k between all points of two sets at one batch size, without its mean."""
    result = torch.full((len(a), len(b)), model.variance, dtype=torch.float64)
    same = torch.ones(result.shape, dtype=torch.bool)
    for name, table in enumerate(encoding.list_tables(model)):
        result *= table[a[:, name]][:, b[:, name]]
        same &= a[:, name, None] == b[None, :, name]
    return result + model.own**2 * same


def factorize(encoding: Encoding, model: Model, seen: Observations) -> Tensor:
    """Cholesky factor of the covariance of what was measured."""
    apart = seen.octaves[:, None] - seen.octaves[None, :]
    known = covariance(encoding, model, seen.points, seen.points) * matern(apart / model.octaves)
    known += MEAN_VARIANCE * (apart == 0)
    known.diagonal().add_(NOISE**2)
    factor: Tensor = torch.linalg.cholesky(known)
    return factor


def fit(encoding: Encoding, seen: Observations) -> Model:
    """The constants that make the first observations most likely, chosen one after the other."""
    few = Observations(seen.points[:MOST_FITTED], seen.octaves[:MOST_FITTED], seen.logs[:MOST_FITTED])

    def likelihood(model: Model) -> float:
        factor = factorize(encoding, model, few)
        whitened = torch.linalg.solve_triangular(factor, few.logs[:, None], upper=False)
        return float(-0.5 * (whitened**2).sum() - factor.diagonal().log().sum())

    model = Model()
    with one_thread():
        for name, values in CHOICES.items():
            model = max((replace(model, **{name: value}) for value in values), key=likelihood)
    return model


def predict(
    encoding: Encoding, model: Model, seen: Observations, points: Tensor, octave: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log(time) of points at a batch size, up to its constant.

    Args:
        octave: log2 of the batch size.
    """
    with one_thread():
        factor, is_known = factorize(encoding, model, seen), seen.octaves == octave
        near = matern((seen.octaves - octave) / model.octaves)[:, None]
        between = covariance(encoding, model, seen.points, points) * near + MEAN_VARIANCE * is_known[:, None]
        whitened = torch.linalg.solve_triangular(factor, between, upper=False)
        mean = whitened.T @ torch.linalg.solve_triangular(factor, seen.logs[:, None], upper=False)
        own = model.variance + model.own**2 + MEAN_VARIANCE * bool(is_known.any())
        variance = own - (whitened**2).sum(0)
    return mean[:, 0], variance.clamp(min=0.0).sqrt()


def _distances(size: int) -> Tensor:
    places = torch.arange(size, dtype=torch.float64)
    return places[:, None] - places[None, :]
