"""How the nights of many series differ though nothing has changed: their spread, their memory, what has been before.

Every function takes an array of [num_series, num_nights], where NaN is a night that is not there.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

LEAST_NOISE = 1e-3
"""Night-to-night noise of the steadiest kernels; medians of five processes on an H200 had 0.02 to 0.4 %."""
PRIOR_NIGHTS = 5
"""How many nights of its own outweigh what a series' noise is expected to be by that of its likes."""
PRIOR_PAIRS = 10
"""The same for the autocorrelation."""
LEAST_PAIRS = 3
"""Pairs of nights that it takes to say anything of it."""
MOST_CORRELATION = 0.9
TWO_TIMES = 0.1
"""Share of the kernels that take one of two times, process by process."""
TWO_TIMES_APART = 0.12
"""How far apart they may be, as a logarithm: a change that goes further is none of that kind."""
EXCURSION, EXCURSION_NIGHTS = 4.0, 4
"""How many spreads away so many nights in a row must be to be a change that was taken back."""
COMMON_MOVE = 0.01
"""How far half of all series must be off together on a night for it to tell nothing of one of them."""
COMMON_NIGHTS = 7
"""What lasts for so many nights is no bad night: one is held against the 13 around it."""
LEAST_AROUND = 6
"""Nights, itself among them, that it takes to say which of them is the odd one."""
LEAST_COMMON = 8
"""Series that it takes to say so."""


def find_medians(values: Floats) -> Floats:
    """Of each row, of what is there; NaN for a row without any. (np.nanmedian is 20 times as slow on short rows.)"""
    return _middle(np.sort(values, axis=1))


def find_cautious_medians(values: Floats) -> Floats:
    """The same, of an even number the one of the two in the middle that is nearer to zero.

    Of two nights only one of which has changed nothing has, rather than half.
    """
    low, high = _find_two_middles(np.sort(values, axis=1))
    cautious: Floats = np.where(np.abs(low) < np.abs(high), low, high)
    return cautious


def _middle(ordered: Floats) -> Floats:
    """The median of each sorted row; NaN is sorted to the end."""
    low, high = _find_two_middles(ordered)
    middle: Floats = (low + high) / 2
    return middle


def _find_two_middles(ordered: Floats) -> tuple[Floats, Floats]:
    """The two values in the middle of each sorted row, of an odd number the same twice; NaN of a row without any."""
    count, rows, last = np.isfinite(ordered).sum(axis=1), np.arange(len(ordered)), ordered.shape[1] - 1
    low, high = np.clip((count - 1) // 2, 0, last), np.clip(count // 2, 0, last)
    is_there = count > 0
    return np.where(is_there, ordered[rows, low], np.nan), np.where(is_there, ordered[rows, high], np.nan)


def find_spread(values: Floats) -> float:
    """Robust standard deviation around the median, of everything that is there."""
    there = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(there - np.median(there)))) if len(there) else 0.0


def find_common(residuals: Floats, runs: Integers, pools: Integers) -> Floats:
    """What half of all likes were slower or faster by on the night of each value; 0 on nights of few series.

    Args:
        residuals: of each night around the middle of its series.
        runs: number of the run of each night.
        pools: [num_series] number of the series' likes.
    """
    common = np.zeros(residuals.shape)
    for pool in np.unique(pools):
        likes = np.flatnonzero(pools == pool)
        there = np.isfinite(residuals[likes])
        by_run = np.full((int(runs.max(initial=0)) + 1, len(likes)), np.nan)
        by_run[runs[likes][there], np.nonzero(there)[0]] = residuals[likes][there]
        is_told = np.isfinite(by_run).sum(axis=1) >= LEAST_COMMON
        common[likes] = np.where(is_told, find_medians(by_run), 0.0)[runs[likes]]
    return common


def find_bad_nights(values: Floats, runs: Integers, pools: Integers) -> tuple[Flags, Floats]:
    """Where half of a series' likes were slower, or faster, than each of them on the nights around.

    Returns:
        The nights; and by how much the likes were slower on each night.
    """
    common = find_common(values - _find_around(values), runs, pools)
    return (np.abs(common) > COMMON_MOVE) & np.isfinite(values), common


def _find_around(values: Floats) -> Floats:
    """The median of the nights around each, itself among them, as many at either end; NaN where they are too few."""
    num_nights = values.shape[1]
    width = min(2 * COMMON_NIGHTS - 1, num_nights)
    windows = np.lib.stride_tricks.sliding_window_view(np.isfinite(values), width, axis=1)
    medians = np.where(windows.sum(axis=2) >= LEAST_AROUND, _roll(values, width), np.nan)
    around: Floats = medians[:, np.clip(np.arange(num_nights) - width // 2, 0, num_nights - width)]
    return around


def find_excursions(residuals: Floats) -> Flags:
    """Nights in a row that were all far away."""
    is_in, width = np.zeros(residuals.shape, dtype=bool), residuals.shape[1] - EXCURSION_NIGHTS + 1
    if width < 1:
        return is_in
    spread = np.fmax(1.4826 * find_medians(np.abs(residuals)), LEAST_NOISE)[:, None]
    is_far = np.abs(np.nan_to_num(residuals)) > EXCURSION * spread
    begins = np.lib.stride_tricks.sliding_window_view(is_far, EXCURSION_NIGHTS, axis=1).all(axis=2)
    for night in range(EXCURSION_NIGHTS):
        is_in[:, night : night + width] |= begins
    return is_in


def forget_excursions(residuals: Floats) -> Floats:
    """Without nights in a row that were all far away: a change that was taken back is no noise."""
    return np.where(find_excursions(residuals), np.nan, residuals)


def estimate_noise(residuals: Floats, pools: Integers, tonight: Floats) -> Floats:
    """Night-to-night standard deviation of each series: its own, drawn towards that of its likes while it is young.

    Its own is the larger of two that agree for normal noise, from the middle of the residuals and from their 90 %
    quantile: of a kernel that takes one of two times, the rarer one is in the second.

    Args:
        tonight: [num_series] how far tonight is from the level; counts where no series has two nights before it.
    """
    sizes, count = np.sort(np.abs(residuals), axis=1), np.isfinite(residuals).sum(axis=1)
    rows, last = np.arange(len(residuals)), residuals.shape[1] - 1
    own = 1.4826 * _middle(sizes) * (count + 2) / np.maximum(count, 1)
    far = sizes[rows, np.clip(np.ceil(0.9 * count).astype(int) - 1, 0, last)] / 1.645
    own = np.where(count >= 10, np.fmax(own, far), own)
    expected = np.zeros(len(residuals))
    for pool in np.unique(pools):
        likes = pools == pool
        settled, some = likes & (count >= PRIOR_NIGHTS), likes & (count >= 2)
        if settled.any():
            expected[likes] = np.median(own[settled])
        elif some.any():
            expected[likes] = np.median(own[some])
        else:  # the second night: how far it is from the first
            expected[likes] = find_spread(tonight[likes]) / np.sqrt(2)
    own = np.where(count >= 2, own, 0.0)
    weight = np.where(count >= 2, count, 0)
    noise = np.sqrt((weight * own**2 + PRIOR_NIGHTS * expected**2) / (weight + PRIOR_NIGHTS))
    bounded: Floats = np.maximum(noise, LEAST_NOISE)
    return bounded


def estimate_correlation(residuals: Floats) -> Floats:
    """Of each night with the next, 0 to MOST_CORRELATION, drawn towards the median of all series.

    Around a mean of n nights it comes out (1 + 4 r) / n too low (Marriott and Pope, Bias in the estimation of
    autocorrelations, doi:10.2307/2332719).
    """
    count = np.isfinite(residuals[:, :-1] * residuals[:, 1:]).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        limit = 3 * 1.4826 * find_medians(np.abs(residuals))[:, None]  # one outlier is no correlation
        clipped = np.clip(residuals, -limit, limit)
        own = np.nansum(clipped[:, :-1] * clipped[:, 1:], axis=1) / np.nansum(clipped**2, axis=1)
        own += (1 + 4 * own) / count
    enough = np.isfinite(own) & (count >= LEAST_PAIRS)
    own = np.where(enough, own.clip(-1, 1), 0.0)
    expected = np.median(own[enough]) if enough.any() else 0.0
    shrunk: Floats = (count * own + PRIOR_PAIRS * expected) / (count + PRIOR_PAIRS)
    return shrunk.clip(0.0, MOST_CORRELATION)


def count_earlier(values: Floats, change: Floats, num_nights: int, base_nights: int) -> tuple[Integers, Integers]:
    """How often the median of so many nights was as far from that of those before them, in the direction of a change,
    and came back.

    Args:
        values: nights before the change.
        change: [num_series] how far is far.
    Returns:
        [num_series] times, and comparisons that were made.
    """
    if values.shape[1] < num_nights + base_nights:
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=np.int64)
    moved = _roll(values[:, base_nights:], num_nights) - _roll(values[:, :-num_nights], base_nights)
    is_far = np.nan_to_num(moved) * np.sign(change)[:, None] >= np.abs(change)[:, None]
    return count_begins(is_far), np.isfinite(moved).sum(axis=1)


def find_chance(draws: Floats, residuals: Floats, least: Floats) -> Floats:
    """How often as many of the draws are as far off by chance as nights before them were.

    Of a series that was e times in n nights, the share of such nights has a Beta(1 + e, 1 + n - e) distribution, and
    their number among the draws a beta-binomial one. Of others, few are of that kind, and fewer the more nights say so.

    Args:
        draws: [num_series, num_draws] the nights of a change, around the level.
        residuals: the nights before it.
        least: [num_series] how far is far, in its direction.
    """
    far, sign = np.abs(least)[:, None], np.sign(least)[:, None]
    num_draws, num_far = np.isfinite(draws).sum(axis=1), (np.nan_to_num(draws * sign) >= far).sum(axis=1)
    was_far = np.nan_to_num(residuals * sign) >= far
    num_nights = np.isfinite(residuals).sum(axis=1)
    is_habit = count_begins(was_far) >= 2
    times = np.where(is_habit, was_far.sum(axis=1), 0)
    num_others, number = num_nights - times, np.arange(draws.shape[1] + 1)[:, None]
    is_counted = (number >= num_far) & (number <= num_draws)
    log_ways = _log_factorials(num_draws) - _log_factorials(number) - _log_factorials(np.maximum(num_draws - number, 0))
    of_number = _log_beta(times + number, np.maximum(num_others + num_draws - number, 0)) - _log_beta(times, num_others)
    chance = np.where(is_counted, np.exp(of_number + log_ways), 0.0).sum(axis=0)
    expected = np.where(far[:, 0] > TWO_TIMES_APART, 0.0, TWO_TIMES / (1 + num_nights))
    share: Floats = np.where(is_habit, 1.0, expected) * chance
    return np.where(np.isfinite(least), share, 1.0)


def _log_beta(a: Integers, b: Integers) -> Floats:
    """Logarithm of the beta function of 1 + a and 1 + b."""
    return _log_factorials(a) + _log_factorials(b) - _log_factorials(a + b + 1)


def _log_factorials(numbers: Integers) -> Floats:
    """Logarithm of each factorial, looked up: few numbers come in many places."""
    found: Floats = special.gammaln(np.arange(1, int(numbers.max(initial=0)) + 2))[numbers]
    return found


def count_begins(flags: Flags) -> Integers:
    """How often a row of flags begins to be set."""
    begins = flags & ~np.column_stack([np.zeros(len(flags), dtype=bool), flags[:, :-1]])
    count: Integers = begins.sum(axis=1)
    return count


def find_beyond(values: Floats, change: Floats, num_nights: int) -> Floats:
    """Which share of a change leads to where the median of so many nights in a row has never been; 1 without so many.

    Args:
        values: nights before the change, around the level that it is a change of.
    """
    if values.shape[1] < num_nights:
        return np.ones(len(values))
    towards = _roll(values, num_nights) * np.sign(change)[:, None]
    furthest = np.where(np.isfinite(towards), towards, 0.0).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Floats = 1 - furthest.clip(0) / np.abs(change)
    return np.nan_to_num(share, nan=0.0)


def _roll(values: Floats, width: int) -> Floats:
    """The median of every `width` columns in a row."""
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=1)
    return find_medians(windows.reshape(-1, width)).reshape(windows.shape[:2])
