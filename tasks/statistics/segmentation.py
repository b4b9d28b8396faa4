"""A history cut into regimes: first by ranks, then by the likelihood under the noise that this first cut leaves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tasks.statistics.noise import Floats, Noise, estimate_noise, find_levels

RANK_GAIN = 10.0
"""Of a split by ranks within a part; about chi-squared with one degree of freedom, the largest of many."""
FIRST_RANK_GAIN = 3.0
"""Of the first split: one too many narrows the noise a little, one too few hides the change in it."""
SWITCH_COST = 5.0
"""Log-likelihood that a partition pays per change; what it proposes is tested afterwards."""
NUM_ROUNDS = 2
"""Noise and partition are estimated in turn."""
SHORTEST_PART = 3


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What one history says for and against a change at any place.

    gain(start, split, end) = max_a l(start, split, a) + max_b l(split, end, b) - max_c l(start, end, c)

    where l(i, j, a) is the log-likelihood of values i to j - 1 at level a: the generalised log-likelihood ratio.

    Source: Siegmund and Venkatraman 1995, doi:10.1214/aos/1176324466.
    """

    cumulative: Floats
    """[num_values + 1, num_levels]: log-likelihood of all values before a place, by their level."""

    def fit(self, start: int, end: int) -> float:
        """Log-likelihood of values start to end - 1 at their best common level."""
        return float((self.cumulative[end] - self.cumulative[start]).max())

    def gain(self, start: int, split: int, end: int) -> float:
        """By how much two levels fit better than one."""
        return self.fit(start, split) + self.fit(split, end) - self.fit(start, end)

    def best_gain(self, start: int, end: int) -> float:
        """Of the best split that leaves SHORTEST_PART values on both sides; 0 if there is no place for one."""
        if end - start < 2 * SHORTEST_PART:
            return 0.0
        middle = self.cumulative[start + SHORTEST_PART : end - SHORTEST_PART + 1]
        both = (middle - self.cumulative[start]).max(axis=1) + (self.cumulative[end] - middle).max(axis=1)
        return float(both.max()) - self.fit(start, end)


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Proposed changes of a history and all that is needed to test them."""

    changes: list[int]
    noise: Noise
    evidence: Evidence


def segment(values: Floats) -> Segmentation:
    """Where the level of a history may change; errs on the side of too many.

    Args:
        values: [num_values] on relative scale, at least 6.
    """
    changes = split_by_ranks(values)
    for _ in range(NUM_ROUNDS):
        noise = estimate_noise(find_residuals(values, changes))
        log_likelihood = noise.log_likelihood(values, find_levels(values, noise.scale))
        changes = find_partition(log_likelihood, SWITCH_COST)
    nothing = np.zeros((1, log_likelihood.shape[1]))
    return Segmentation(changes, noise, Evidence(np.vstack([nothing, np.cumsum(log_likelihood, axis=0)])))


def find_residuals(values: Floats, changes: Sequence[int]) -> Floats:
    """Values less the median of their regime."""
    parts = [values[start:end] for start, end in pairwise([0, *changes, len(values)])]
    return np.concatenate([part - np.median(part) for part in parts])


def find_rank_split(values: Floats) -> tuple[float, int]:
    """The split after which ranks differ most, and by how much.

    max_t (sum_{i < t} (r_i - (n + 1) / 2)) ** 2 / (v * t * (n - t) / n),  v the variance of the ranks

    Returns:
        The maximum, which needs no assumption on the noise, and its t; (0, 0) for fewer than 6 or equal values.
    Source: Pettitt 1979, doi:10.2307/2346729.
    """
    num_values = len(values)
    if num_values < 2 * SHORTEST_PART:
        return 0.0, 0
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(sizes)
    centred = (last_ranks - (sizes - 1) / 2)[group] - (num_values + 1) / 2  # equal values share the mean of their ranks
    variance = float(centred @ centred) / (num_values - 1)
    if not variance:
        return 0.0, 0
    places = np.arange(SHORTEST_PART, num_values - SHORTEST_PART + 1)
    sums = np.cumsum(centred)[places - 1]
    statistics = sums**2 * num_values / (variance * places * (num_values - places))
    best = int(np.argmax(statistics))
    return float(statistics[best]), int(places[best])


def split_by_ranks(values: Floats) -> list[int]:
    """Split where ranks differ most, then each part again, until no part has a split worth it.

    Source: Scott and Knott 1974 (splitting in two, recursively), doi:10.2307/2529204.
    """
    changes, parts = [], [(0, len(values))]
    while parts:
        start, end = parts.pop()
        gain, split = find_rank_split(values[start:end])
        if gain > (FIRST_RANK_GAIN if end - start == len(values) else RANK_GAIN):
            changes.append(start + split)
            parts += [(start, start + split), (start + split, end)]
    return sorted(changes)


def find_partition(log_likelihood: Floats, cost: float) -> list[int]:
    """The changes that maximise the log-likelihood of the history less `cost` per change.

    best(t, a) = l(t, a) + max(best(t - 1, a), max_b best(t - 1, b) - cost)

    As the levels are few, this takes time in proportion to the history's length.

    Args:
        log_likelihood: [num_values, num_levels]
    Source: Jackson et al. 2005 (optimal partitioning), doi:10.1109/LSP.2001.838216.
    """
    num_values, num_levels = log_likelihood.shape
    best = np.zeros(num_levels)
    switched = np.empty((num_values, num_levels), dtype=np.bool_)
    leaders = np.empty(num_values, dtype=np.int64)
    for time in range(num_values):
        leaders[time] = leader = best.argmax()
        rival = best[leader] - cost
        np.less(best, rival, out=switched[time])
        best = np.maximum(best, rival) + log_likelihood[time]
    return trace_back(switched, leaders, int(best.argmax()))


def trace_back(switched: NDArray[np.bool_], leaders: NDArray[np.int64], level: int) -> list[int]:
    changes = []
    for time in range(len(leaders) - 1, 0, -1):
        if switched[time, level]:
            changes.append(time)
            level = int(leaders[time])
    return changes[::-1]


def drop_weakest(changes: Sequence[int], num_values: int, margin: Callable[[int, int, int], float]) -> list[int]:
    """Take the change with the smallest margin away, again and again, until none is below 0.

    Args:
        margin: of a change, given the start of the regime before it, itself, and the end of the regime after it.
    """
    bounds = [0, *changes, num_values]
    margins = [margin(*bounds[place : place + 3]) for place in range(len(changes))]
    while margins and min(margins) < 0:
        weakest = margins.index(min(margins))
        del bounds[weakest + 1], margins[weakest]
        for place in (weakest - 1, weakest):
            if 0 <= place < len(margins):
                margins[place] = margin(*bounds[place : place + 3])
    return bounds[1:-1]
