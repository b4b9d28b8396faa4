"""Kernels that take one of two times, process by process, told as if they took one: floats in, floats out.

A process places its code and its tensors in memory once, and some kernels take one of two times for it. The noise of
such a series is small around either time; taken for one, it would be as large as they lie apart, and hide every
change. So the rarer time is moved onto the other, night by night. The two are found by Otsu's split of the nights that
are known; which of them a new night took is told together with how far the series may have moved:

    cost(level) = sum over nights of min over the times m of ((x - m - level) / spread) ** 2 - 2 * log(share of m)

A level other than before has to be LEAST_GAIN cheaper. Nights that all took one time since may each have taken the
other one, and the series have moved the other way: how likely that is beside it is told too.
Source: Otsu, A threshold selection method from gray-level histograms (doi:10.1109/TSMC.1979.4310076).
"""

from dataclasses import dataclass

import numpy as np

from tasks.statistics.spreads import Flags, Floats, Integers, count_begins, find_medians

NEW_NIGHTS = 5
"""The last nights, tonight included, are not held for known: they may have moved."""
LEAST_KNOWN = 15
"""Nights that it takes to tell two times."""
LEAST_BEGINS = 3
"""How often the rarer one must have begun: once or twice may have been a change that was taken back."""
BEGINS_OF_CHANCE = 0.5
"""And by this share of how often it does if every night draws anew: what lasts for weeks is no time of a process."""
LEAST_APART = 0.02
"""As a logarithm, of the times and of a change that counts; what is nearer is left to the noise."""
APART_IN_SPREADS = 5.0
"""Of a single normal distribution the halves are 2.7 of their spreads apart."""
LEAST_SPREAD = 2e-3
"""What cards add to one series beyond all others is not known here."""
MOST_COST = 25.0
"""Of one night: an outlier is no change."""
LEAST_SHARE = 0.3
"""Of the nights with the rarer time: a few in a row are no proof that it is not as rare as it was."""
LEAST_GAIN = 20.0
"""Ten in the logarithm of the likelihood: once in 20,000."""
MUCH_LIKELIER = 10.0
"""How much cheaper a change that counts has to be than one that does not: a bit off one time may be far off another."""


@dataclass(frozen=True, slots=True)
class Modes:
    """The two times of some series. Every array has one entry a series."""

    usual: Floats
    """Logarithm of the one that it takes more often."""
    other: Floats
    """Of the other over it; 0 of a series that takes one time."""
    spread: Floats
    """Standard deviation around either."""
    share: Floats
    """Of the nights with the other; at least LEAST_SHARE."""


def find_modes(known: Floats) -> Modes:
    """Split the nights of each series where the halves have least variance.

    Args:
        known: [num_series, num_nights] logarithms of nights that belong together, NaN for the others.
    """
    ordered, count = np.sort(known, axis=1), np.isfinite(known).sum(axis=1)
    there = np.nan_to_num(ordered - ordered[:, :1])
    lower = np.arange(1, known.shape[1] + 1)
    upper = count[:, None] - lower
    sums, squares = there.cumsum(axis=1), (there**2).cumsum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / lower, (sums[:, -1:] - sums) / upper
        within = squares[:, -1:] - lower * means[0] ** 2 - upper * means[1] ** 2
        within = np.where(upper > 0, within, np.inf)
        split, rows = within.argmin(axis=1), np.arange(len(known))
        spread = np.sqrt(within[rows, split].clip(0) / np.maximum(count - 2, 1)).clip(LEAST_SPREAD)
        middles = (means[0] + means[1])[rows, split] / 2 + ordered[:, 0]
    is_upper, is_there = known > middles[:, None], np.isfinite(known)
    is_rarer = np.where((upper[rows, split] < lower[split])[:, None], is_upper, is_there & ~is_upper)
    usual = find_medians(np.where(is_there & ~is_rarer, known, np.nan))
    other = find_medians(np.where(is_rarer, known, np.nan)) - usual
    is_apart = np.abs(np.nan_to_num(other)) >= np.maximum(LEAST_APART, APART_IN_SPREADS * spread)
    share = is_rarer.sum(axis=1) / np.maximum(count, 1)
    least_begins = np.maximum(LEAST_BEGINS, BEGINS_OF_CHANCE * count * share * (1 - share))
    is_two = is_apart & (count >= LEAST_KNOWN) & (count_begins(is_rarer) >= least_begins)
    return Modes(usual, np.where(is_two, other, 0.0), spread, np.maximum(share, LEAST_SHARE))


def fold_modes(
    values: Floats, again: Floats, common: Floats, is_bad: Flags, first: Integers, changed: Integers
) -> tuple[Floats, Floats, Floats, Floats]:
    """Nights, and what was measured again tonight, with the rarer time of each series moved onto the other.

    Nights before `first` of such a series are left out.

    Args:
        values: [num_series, num_nights] logarithms, tonight last.
        again: [num_series]
        common: [num_series, num_nights] what the series' likes had in common on each night.
        is_bad: nights that tell nothing of a series.
        first: [num_series] column of the first night that counts.
        changed: [num_series] column of the first night of the change that stands; num_nights where none does.
    Returns:
        values, again, and [num_series] by how much the other time is longer; 0 of a series that takes one. And
        [num_series] how many times as likely as what was chosen it is that a series moved the other way, or not at all.
    """
    width = values.shape[1]
    columns, end = np.arange(width), np.where(changed < width, changed, width - NEW_NIGHTS)
    is_known = (columns >= first[:, None]) & (columns < end[:, None]) & ~is_bad
    modes = find_modes(np.where(is_known, values - common, np.nan))
    values, again, mistaken = values.copy(), again.copy(), np.zeros(len(values))
    for row in np.flatnonzero(modes.other):
        values[row, : first[row]] = np.nan
        draws = np.append(values[row] - common[row], again[row] - common[row, -1]) - modes.usual[row]
        tells = np.where(np.append(is_bad[row], False), np.nan, draws)
        is_other, moved = _choose_times(draws, tells, modes, row, int(end[row]), stands=bool(changed[row] < width))
        mistaken[row] = _compare_others(moved, is_other[np.isfinite(moved)], modes, row)
        values[row] -= np.where(is_other[:-1], modes.other[row], 0.0)
        again[row] -= modes.other[row] if is_other[-1] else 0.0
    return values, again, modes.other, mistaken


def _choose_times(
    draws: Floats, tells: Floats, modes: Modes, row: int, end: int, *, stands: bool
) -> tuple[Flags, Floats]:
    """Which nights of one series took the other time. Those from `end` on may have moved, or have if the change stands.

    Args:
        draws: [num_nights + 1] over the usual time.
        tells: the same without bad nights.
    Returns:
        Which did; and [num_nights + 1] the nights that have moved lately, over the usual time, NaN elsewhere.
    """
    other, share = modes.other[row], modes.share[row]
    times, costs = np.array([0.0, other]), -2 * np.log([1 - share, share])
    new = tells[end:]
    levels = np.unique(np.concatenate([[0.0], *(new[np.isfinite(new)] - time for time in times)]))
    apart = new - times[:, None, None] - levels[:, None]  # [2, num_levels, num_new]
    cost = np.nan_to_num((np.minimum((apart / modes.spread[row]) ** 2, MOST_COST) + costs[:, None, None]).min(axis=0))
    saved = cost[np.searchsorted(levels, 0.0)] - cost
    gains = saved[:, ::-1].cumsum(axis=1)[:, ::-1]  # of a level since each of the new nights
    if stands:
        gains = gains[:, :1]
    best = (gains.max(axis=1) + np.where(np.abs(levels) < LEAST_APART, MUCH_LIKELIER, 0.0)).argmax()
    is_moved = stands or gains[best].max() >= LEAST_GAIN
    level, begin = (levels[best], end + int(gains[best].argmax())) if is_moved else (0.0, len(draws))
    near = np.abs(draws - times[:, None])
    moved = np.abs(draws - times[:, None] - level)
    if stands:  # or is over
        moved = np.minimum(near, moved)
    has_moved = np.arange(len(draws)) >= begin
    nearest = np.where(has_moved, moved, near)
    return nearest[1] < nearest[0], np.where(has_moved & (not stands), tells, np.nan)


def _compare_others(moved: Floats, took_other: Flags, modes: Modes, row: int) -> float:
    """How many times as likely as what was chosen it is that all nights that have moved took the other time each.

    0 where it would be a change of the same direction, or they took both: then nothing but the chosen level fits.

    Args:
        moved: nights over the usual time, NaN where there is none.
        took_other: which of those that are there took the other time.
    """
    if not len(took_other) or took_other.any() != took_other.all():
        return 0.0
    over = float(np.nanmedian(moved))
    level, instead = over, over - modes.other[row]
    odds = modes.share[row] / (1 - modes.share[row])
    if took_other.all():
        level, instead, odds = instead, level, 1 / odds
    is_same = level * instead > 0 and abs(instead) >= LEAST_APART
    return 0.0 if is_same else float(odds ** len(took_other))


def fold_ratios(ratios: Floats, other: Floats) -> Floats:
    """Of two processes each: the same without what their taking different times explains."""
    could_be = np.stack([ratios, ratios - other, ratios + other])
    chosen: Floats = np.take_along_axis(could_be, np.abs(np.nan_to_num(could_be)).argmin(axis=0)[None], axis=0)[0]
    return chosen
