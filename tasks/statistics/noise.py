"""The noise of one history, learned from that history: its scale, its shape, and how alike neighbours are.

Benchmark noise has outliers on one side, two or three favourite values, and tails of any weight. A test that assumes a
shape is fooled by the rest, so the shape is estimated: a kernel density of what is left when the regimes are taken off.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_SCALE = 1e-4
"""No history is taken for quieter than 0.01 %: a timer's resolution is not a distribution."""
KNEE = 4.0
"""Up to so many scales from the centre the kernel keeps its width; beyond, it widens in proportion."""
BANDWIDTH = 0.5
"""Of the kernel, in scales."""
STRANGER_SHARE = 0.02
"""How much of the density is kept for what was never seen."""
STRANGER_WIDTH = 6.0
GRID_STEP = 0.05
GRID_END = 40.0
"""In stretched scales; 44,000 plain ones."""
GRID = np.arange(-round(GRID_END / GRID_STEP), round(GRID_END / GRID_STEP) + 1) * GRID_STEP
LEVEL_STEP = 0.25
"""Between two levels that a regime may have, in scales."""
MAX_LEVELS = 128
NUM_LAGS = 5
LIMIT = 1e12
"""Where there are values <= 0, those so many times the typical one are all alike."""
QUANTUM = 2.0**-30


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """How far from the level of its regime a value falls."""

    scale: float
    """A robust standard deviation."""
    log_density: Floats
    """Of the stretched distance from the level, over GRID."""

    def log_likelihood(self, values: Floats, levels: Floats) -> Floats:
        """Log density of each value under each level.

        Returns:
            [num_values, num_levels]
        """
        places = np.rint((stretch((values[:, None] - levels) / self.scale) + GRID_END) / GRID_STEP)
        return self.log_density[np.clip(places, 0, len(GRID) - 1).astype(np.int64)]


def to_relative_scale(values: Floats) -> Floats:
    """Logarithms over their median, if all are positive; else multiples of the typical magnitude, over their median.

    Rounded to 1e-9, so that the unit of the values, which only moves the last bits, cannot tip a decision. The third
    keeps what is exact in binary off the boundaries of rounding.

    Args:
        values: [num_values], finite, at least one.
    """
    if values.min() > 0:
        relative = np.log(values)
    else:
        magnitudes = np.sort(np.abs(values[values != 0]))
        typical = magnitudes[len(magnitudes) // 2] if len(magnitudes) else 1.0
        with np.errstate(over="ignore"):
            relative = np.clip(values / typical, -LIMIT, LIMIT)
    rounded: Floats = np.floor((relative - np.median(relative)) / QUANTUM + 1 / 3) * QUANTUM
    return rounded


def stretch(distances: Floats) -> Floats:
    """u = KNEE * asinh(z / KNEE): the identity near 0, a logarithm far away."""
    stretched: Floats = KNEE * np.arcsinh(distances / KNEE)
    return stretched


def estimate_noise(residuals: Floats) -> Noise:
    """Kernel density of residuals in stretched scales.

    f(u) = (1 - s) / n * sum_i K((u - u_i) / BANDWIDTH) / BANDWIDTH + s * t(u)

    with u the stretched residual in scales (1.4826 times the median of |residual|), K the normal density,
    s = STRANGER_SHARE and t a density with tails 1 / u ** 2. It is per stretched scale, not per plain one: to divide by
    dz/du would count a second mode far away as smeared out, and call three of its values in a row a change.

    Args:
        residuals: [num_values], values less the level of their regime, at least one.
    Source: Parzen 1962, doi:10.1214/aoms/1177704472; Wand, Marron and Ruppert 1991 (densities of transformed values),
        doi:10.1080/01621459.1991.10475041.
    """
    deviations = np.abs(residuals)
    scale = max(1.4826 * float(np.median(deviations)) or float(np.mean(deviations)), MIN_SCALE)
    places = np.clip((stretch(residuals / scale) + GRID_END) / GRID_STEP, 0, len(GRID) - 1.001)
    below = places.astype(np.int64)
    share_above = places - below
    counts = np.bincount(below, 1 - share_above, len(GRID)) + np.bincount(below + 1, share_above, len(GRID))
    density = np.convolve(counts, KERNEL, "same") / (len(residuals) * GRID_STEP)
    strangers = 1 / (1 + np.abs(GRID) / STRANGER_WIDTH) ** 2 / (2 * STRANGER_WIDTH)
    return Noise(scale, np.log((1 - STRANGER_SHARE) * density + STRANGER_SHARE * strangers))


def normal_kernel() -> Floats:
    reach = round(6 * BANDWIDTH / GRID_STEP)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * GRID_STEP / BANDWIDTH) ** 2)
    return np.asarray(weights / weights.sum())


KERNEL = normal_kernel()


def find_levels(values: Floats, scale: float) -> Floats:
    """The levels that a regime may have: multiples of LEVEL_STEP scales near a median of 5 neighbours.

    What lasts for 3 values has its level among them; single outliers add none. The step doubles until there are at
    most MAX_LEVELS.

    Args:
        values: [num_values], at least 5.
    """
    middles = np.median(np.lib.stride_tricks.sliding_window_view(values, 5), axis=1)
    ends = [np.median(values[:3]), np.median(values[-3:]), np.median(values)]
    middles = np.concatenate([middles, ends])
    step = LEVEL_STEP * scale
    levels = np.unique(np.rint(middles / step))
    while len(levels) > MAX_LEVELS:
        step *= 2
        levels = np.unique(np.rint(middles / step))
    return levels * step


def find_inflation(residuals: Floats, scale: float) -> float:
    """How many times too large evidence is that takes correlated values for independent ones; 1 if they are.

    1 + 2 * max(0, r_1 + ... + r_5 - 1.5 * sqrt(5 / n)), r_k the autocorrelation at lag k of residuals cut off at 3
    scales: the long-run variance over the variance, less what independent values show by chance.

    Args:
        residuals: [num_values], values less the level of their regime.
    Source: Newey and West 1987 (long-run variance), doi:10.2307/1913610.
    """
    cut = np.clip(residuals / scale, -3, 3)
    total = float(cut @ cut)
    if not total:
        return 1.0
    correlation = sum(float(cut[lag:] @ cut[:-lag]) for lag in range(1, NUM_LAGS + 1)) / total
    return 1 + 2 * max(0.0, correlation - 1.5 * math.sqrt(NUM_LAGS / len(residuals)))
