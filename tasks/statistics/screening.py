"""Which of many series changed, tonight or in the nights before: floats in, floats out.

A series is compared with the nights of its regime before the last k, for several k at once: tonight alone, a step
that only a few nights together tell from noise, a drift. What x_1 ... x_k, logarithms of medians, tell against a level
m with a night-to-night noise s is Stouffer's combination of the nights:

    t_i = min(x_i - m, 1.5 * median of x_i - m) / s     z_i = Phi^-1(P(T <= t_i))     Z = mean of z_i * sqrt(K)

T is Student's: one outlier is no change. Of nights that follow each other with an autocorrelation r, only
K = k * (1 - r) / (1 + r) are independent, and fewer where the level is known from few nights itself. To the p-value of
Z is added how likely it is that those nights are off by chance as others were before them (find_chance): a kernel may
take one of two times, process by process. And what several nights in a row have done before, or what leads to where
the series has been before, is no change.
Source: Stouffer et al., The American Soldier, vol. 1, 1949; Bayley and Hammersley, The "effective" number of
independent observations in an autocorrelated time series (doi:10.2307/2983560).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from tasks.statistics.cards import estimate_card_offsets, estimate_suits
from tasks.statistics.lasting_moves import LastingMove, shift_to_last_move
from tasks.statistics.modes import fold_modes, fold_ratios
from tasks.statistics.spreads import (
    Flags,
    Floats,
    Integers,
    count_earlier,
    estimate_correlation,
    estimate_noise,
    find_bad_nights,
    find_beyond,
    find_cautious_medians,
    find_chance,
    find_common,
    find_excursions,
    find_medians,
    forget_excursions,
)

NUM_NIGHTS = 90
"""Nights of a series that are looked at, tonight included."""
BASELINE_NIGHTS = 30
"""Most nights that make a level: those before the last k."""
SCALES = (1, 2, 3, 5, 8, 14)
"""How many of the last nights are compared with those before."""
SLOW_SCALE, BEYOND = 5, 0.6
"""From so many nights on a change may be but a wandering, unless it goes by this share of it to where so many nights in
a row have never been."""
DRIFT_NIGHTS, DRIFT_GAP = 7, 28
"""A drift: the last 7 nights against those that are at least 28 nights older; as evidence they are but one, since what
wanders slowly wanders for all of them."""
DRIFT_BASE = 21
"""Nights that it takes to say so."""
STANDING_NIGHTS = 14
"""Most nights that tell how far a change that stands goes."""
TAIL_PER_NIGHT, LEAST_TAIL = 4.0, 4.0
"""Degrees of freedom of the noise of so many nights together: four, and four for each of them. A mean of n values of
Student's distribution with 8 has the kurtosis of one with 4 + 4 n."""
LEAST_P = 1e-300
"""Of one night; the logarithm of less is not told from that of nothing."""
MOST_OF_MEDIAN = 1.5
"""What one night counts for at most, in times the median of all: one outlier is no change."""
HABIT = 0.8
"""What a series has done before, by this share of a change, it does now and then."""
HABIT_TIMES = 2
"""How often it must have; once may have been a change that was taken back."""
HABIT_NIGHTS = 10
"""Nights that several in a row are held against."""
MIN_CHANGE = 0.02
"""Least relative change that counts; medians of separate processes on one H200 differ by up to 1.6 %."""
MIN_SLOW_CHANGE = 0.03
"""The same of what took a week or more to be told from noise: kernels wander by 2 % over weeks."""
MOST = 50.0
"""Largest logarithm of a time in microseconds that is taken for one: a hundred million years."""
DOUBTFUL_P = 0.05
"""The past of a series is searched for its habits below this p-value, and a scale that shows a change goes first."""

SURE_P, MUCH_LARGER = 1e-3, 1.5
"""Of scales that are as sure, one whose change is so many times as large goes before those that are surer."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The last nights of some series. Each row is right-aligned: a night without the series has no column in it."""

    values: Floats
    """[num_series, num_nights] logarithm of the median in microseconds; NaN before the first night. Tonight is last."""
    cards: Integers
    """[num_series, num_nights] number of the card that each was measured on; 0 where there is no value."""
    runs: Integers
    """[num_series, num_nights] number of the run of each."""
    pools: Integers
    """[num_series] number of the series' likes, whose noise tells what to expect: of one device and one timer."""
    first: Integers
    """[num_series] column of the first night that still counts: a baseline was marked there, or a change accepted."""
    changed: Integers
    """[num_series] column of the first night of the change that stands; num_nights where none does."""
    again: Floats
    """[num_series] the same as values, of a series that was measured again tonight; else NaN."""
    beside: Floats
    """[num_series] logarithm of what that took over the version of before, measured in turn with it; else NaN."""
    moves: Sequence[Sequence[LastingMove]] = ()
    """[num_pools] when the machines of each pool changed for good; none of them did if this is ()."""


@dataclass(frozen=True, slots=True)
class Screening:
    """What is known of each series tonight; every array has one entry a series, unless it says so."""

    level: Floats
    """Logarithm of what it took in the nights that it is compared with, on tonight's card; NaN without any."""
    num_baseline: Integers
    """How many nights those are."""
    num_known: Integers
    """How many nights tell the noise: those before the first that counts, too."""
    noise: Floats
    """Night-to-night standard deviation, relative."""
    change: Floats
    """Logarithm of what it takes now over the level."""
    low: Floats
    """The true change is between low and high in 95 of 100 cases, if the noise is normal and the nights that show it
    were not picked for it."""
    high: Floats
    p_value: Floats
    """How often noise alone looks like this, or worse, at any scale; 1 without nights to compare with."""
    p_beside: Floats
    """How often it makes two processes differ as much that take turns on one device, tonight's version in one, that of
    before in the other; 1 where there is no other."""
    chance: Floats
    """How likely as many of the nights of the change, tonight again among them, are off by chance as others before."""
    num_nights: Integers
    """Nights that the change is seen over, tonight included."""
    is_drift: Flags
    nights: Floats
    """[num_series, num_nights] logarithm of each night over the level, what its card is known to add left out, and what
    the other of two times does."""
    again: Floats
    """The same of what was measured again tonight; NaN elsewhere."""
    other: Floats
    """By how much the other of two times is longer; 0 of a series that takes one."""
    mistaken: Floats
    """How many times as likely as the change it is that its nights took the other time, and it moved the other way."""
    before: Flags
    """[num_series, num_nights] the nights of the level."""
    since: Flags
    """[num_series, num_nights] those that the change is seen over."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the nights of each series say of its noise, before anything is compared."""

    values: Floats
    """As Recent.values, without what the card adds."""
    good: Floats
    """The same without the nights before tonight that were bad for all series."""
    calm: Floats
    """The same without changes that were taken back."""
    again: Floats
    beside: Floats
    other: Floats
    """[num_series] by how much the other of two times is longer; 0 of a series that takes one."""
    mistaken: Floats
    """[num_series] how many times as likely as a change it is that it took the other time, and moved the other way."""
    residuals: Floats
    """Each night before tonight around the middle of the BASELINE_NIGHTS that it is among."""
    unfamiliar: Floats
    """[num_series] standard deviation of what is not known of tonight's card."""
    doubts: Floats
    """[num_series, num_nights] how many times the noise, squared, a night before a lasting move may be off."""


def screen(recent: Recent) -> Screening:
    """Compare every series with its past at every scale, and keep what is least likely to be noise.

    A change that stands is not searched for again: it is measured over its nights, against those before it.
    """
    width = recent.values.shape[1]
    recent = replace(recent, values=_drop_absurd(recent.values), again=_drop_absurd(recent.again))
    known, added = learn_noise(recent)
    end = np.full(len(recent.values), width)
    found = []
    for count in SCALES:
        found.append(compare_nights(recent, known, end - count))
        _doubt_habits(recent, known, found[-1], count, 0)
    found.append(compare_nights(recent, known, end - DRIFT_NIGHTS, is_drift=True))
    _doubt_habits(recent, known, found[-1], DRIFT_NIGHTS, DRIFT_GAP)
    searched = _choose_scale(found)
    num_scales, stands = len(found), recent.changed < width
    found.append(compare_nights(recent, known, np.maximum(recent.changed, width - STANDING_NIGHTS), recent.changed))
    chosen = np.where(stands, num_scales, searched), np.arange(len(recent.values))
    picked = {name: np.stack([getattr(one, name) for one in found])[chosen] for name in Screening.__dataclass_fields__}
    for name in ("p_value", "chance"):
        picked[name] = np.where(stands, picked[name], np.minimum(1.0, picked[name] * num_scales))
    picked["level"] += added
    return Screening(**picked)


def _choose_scale(found: Sequence[Screening]) -> Integers:
    """[num_series] the scale that is least likely to be noise, of those whose nights show the change if one does.

    A large step makes the nights before unlikely. And a small change of weeks ago, however sure, does not hide a much
    larger one of tonight.
    """
    p_values = np.stack([one.p_value for one in found])
    recent = [one.nights[:, -count:] for one, count in zip(found, (*SCALES, DRIFT_NIGHTS), strict=True)]
    is_seen = np.stack([np.abs(find_cautious_medians(nights)) >= MIN_CHANGE for nights in recent])
    least = np.array([find_least_change(count, is_drift=False) for count in SCALES] + [MIN_SLOW_CHANGE])
    sizes = np.abs(np.nan_to_num(np.expm1([one.change for one in found])))
    of_seen = np.where(is_seen, p_values, 1.0)
    of_likeliest = np.take_along_axis(sizes, of_seen.argmin(axis=0)[None], axis=0)
    is_larger = (sizes >= MUCH_LARGER * of_likeliest) & (sizes >= least[:, None])
    of_larger = np.where((of_seen < SURE_P) & is_larger, of_seen, 1.0)
    of_seen = np.where((of_larger < 1.0).any(axis=0), of_larger, of_seen)
    is_doubtful = of_seen.min(axis=0) < DOUBTFUL_P
    return np.where(is_doubtful, of_seen.argmin(axis=0), p_values.argmin(axis=0))


def find_least_change(num_nights: int, is_drift: bool) -> float:
    """Least relative change that counts, of what so many nights show."""
    return MIN_SLOW_CHANGE if is_drift or num_nights >= SLOW_SCALE else MIN_CHANGE


def _drop_absurd(values: Floats) -> Floats:
    """With NaN for what is no time."""
    return np.where(np.abs(values) <= MOST, values, np.nan)


def learn_noise(recent: Recent) -> tuple[Known, Floats]:
    """What the nights before tell, and what tonight's card adds to each series."""
    lasting = np.zeros(recent.values.shape)
    for _ in range(2 if any(recent.moves) else 1):  # what the machine did for good is nothing that a later card adds
        offsets = estimate_card_offsets(recent.values - lasting, recent.cards, recent.runs, recent.pools)
        values = recent.values - offsets[recent.cards]
        is_bad, common = find_bad_nights(values, recent.runs, recent.pools)
        is_bad[:, -1] = False
        followed, _ = follow_machines(recent, values, is_bad)
        lasting = find_common(values - followed, recent.runs, recent.pools)  # one alone may take two times
    common += lasting
    again = recent.again - offsets[recent.cards[:, -1]]
    values, again, other, mistaken = fold_modes(values, again, common, is_bad, recent.first, recent.changed)
    beside = fold_ratios(recent.beside, other)
    values, doubts = follow_machines(recent, values, is_bad)
    good = np.where(is_bad, np.nan, values)
    columns = np.arange(values.shape[1])
    is_of_regime = (columns >= recent.first[:, None]) & (columns < recent.changed[:, None])
    regime = np.where(is_of_regime, good, np.nan)
    calm = np.where(find_excursions(regime - find_medians(regime)[:, None]), np.nan, good)
    residuals = forget_excursions(_center(calm, recent.first))
    suits, unfamiliar = estimate_suits(
        residuals, recent.cards, values[:, -1] - find_medians(good[:, -1 - BASELINE_NIGHTS :])
    )
    added = offsets[recent.cards[:, -1]] + suits[:, -1]
    again = again - suits[:, -1]
    known = Known(
        values - suits,
        good - suits,
        calm - suits,
        again,
        beside,
        other,
        mistaken,
        residuals - suits,
        unfamiliar,
        doubts,
    )
    return known, added


def follow_machines(recent: Recent, values: Floats, is_bad: Flags) -> tuple[Floats, Floats]:
    """The nights as they would have been on the machines as they are now, and how far that may be from the truth."""
    followed, doubts, columns = values.copy(), np.zeros(values.shape), np.arange(values.shape[1])
    regimes = (columns >= recent.first[:, None]).astype(np.int64) + (columns >= recent.changed[:, None])
    tells = (columns < len(columns) - 1) & ~is_bad
    for pool, moves in enumerate(recent.moves):
        rows = np.flatnonzero(recent.pools == pool)
        told = values[rows], recent.runs[rows], moves, regimes[rows], tells[rows]
        followed[rows], doubts[rows] = shift_to_last_move(*told)
    return followed, doubts


def _center(values: Floats, first: Integers) -> Floats:
    """Nights before tonight around the middle of their block: BASELINE_NIGHTS back from tonight, or from `first`."""
    width = values.shape[1]
    columns, residuals = np.arange(width), np.full(values.shape, np.nan)
    counts = columns >= first[:, None]
    for is_of_regime, end in ((counts, np.full(len(values), width - 1)), (~counts, first)):
        age = (end[:, None] - 1 - columns) // BASELINE_NIGHTS
        for block in range(-(-width // BASELINE_NIGHTS)):
            is_in = is_of_regime & (age == block)
            rows = np.flatnonzero(is_in.any(axis=1))
            of_block = np.where(is_in[rows], values[rows], np.nan)
            residuals[rows] = np.where(is_in[rows], of_block - find_medians(of_block)[:, None], residuals[rows])
    return residuals


def compare_nights(
    recent: Recent, known: Known, start: Integers, end: Integers | None = None, is_drift: bool = False
) -> Screening:
    """The nights from `start` on against those before `end`, or a drift's gap before it."""
    columns = np.arange(known.good.shape[1])
    end = (start if end is None else end) - (DRIFT_GAP if is_drift else 0)
    in_base = (columns >= np.maximum(recent.first, end - BASELINE_NIGHTS)[:, None]) & (columns < end[:, None])
    base = np.where(in_base, known.calm, np.nan)
    level, num_base = find_medians(base), np.isfinite(base).sum(axis=1)
    before = np.where(columns < end[:, None], known.residuals, np.nan)
    is_now = columns >= start[:, None]
    now = np.where(is_now, known.good, np.nan)[:, -STANDING_NIGHTS:] - level[:, None]
    draws = np.column_stack([now, known.again - level])
    num_nights, num_draws = (is_now & np.isfinite(known.values)).sum(axis=1), np.isfinite(draws).sum(axis=1)
    change, num_known = find_medians(draws), np.isfinite(before).sum(axis=1)
    noise = estimate_noise(before, recent.pools, known.values[:, -1] - level)
    of_base = np.where(np.isfinite(base), known.doubts, 0.0).sum(axis=1) / np.maximum(num_base, 1)
    unfamiliar = np.hypot(known.unfamiliar, noise * np.sqrt(of_base))
    correlation = estimate_correlation(before)
    share = (1 - correlation) / (1 + correlation)
    with np.errstate(divide="ignore", invalid="ignore"):
        independent = np.ones(len(level)) if is_drift else np.maximum(num_draws * share, 1.0)
        independent = 1 / (1 / independent + 1 / np.maximum(num_base * share, 1.0))
        spread, error = np.hypot(noise, unfamiliar), np.hypot(noise / np.sqrt(independent), unfamiliar)
        towards = np.minimum(np.sign(change)[:, None] * draws, MOST_OF_MEDIAN * np.abs(change)[:, None])
        tail = (LEAST_TAIL + TAIL_PER_NIGHT * num_draws)[:, None]
        p_values = special.stdtr(tail, -towards / spread[:, None])
        z = -np.nansum(special.ndtri(np.maximum(p_values, LEAST_P)), axis=1) / num_draws * spread / error
        chance = find_chance(draws, before, HABIT * change)
        p_value = 2 * special.ndtr(-z) + chance
        apart = np.sign(change) * known.beside / (math.sqrt(2) * noise)
        p_beside = np.nan_to_num(special.stdtr(LEAST_TAIL + TAIL_PER_NIGHT, -apart), nan=1.0)
        half = special.ndtri(0.975) * error
    is_known = (num_base >= (DRIFT_BASE if is_drift else 1)) & np.isfinite(change)
    p_value = np.where(is_known, np.minimum(p_value, 1.0), 1.0)
    drift = np.full(len(level), is_drift)
    interval = change - half, change + half
    relative = known.values - level[:, None]
    return Screening(
        level,
        num_base,
        num_known,
        noise,
        change,
        *interval,
        p_value,
        p_beside,
        chance,
        num_nights,
        drift,
        relative,
        draws[:, -1],
        known.other,
        known.mistaken,
        np.isfinite(base),
        is_now & np.isfinite(known.good) & (columns >= len(columns) - STANDING_NIGHTS),
    )


def _doubt_habits(recent: Recent, known: Known, found: Screening, scale: int, gap: int) -> None:
    """Raise the p-value of what a series has done before, to how often it did."""
    rows = np.flatnonzero(found.p_value < DOUBTFUL_P)
    if not len(rows):
        return
    change = found.change[rows]
    past = _join_regimes(known.good[rows], recent.first[rows])[:, : -(scale + gap)]
    if scale < SLOW_SCALE:
        times, comparisons = count_earlier(past, HABIT * change, scale, HABIT_NIGHTS)
        often = np.where(times >= HABIT_TIMES, times * scale / np.maximum(comparisons, 1), 0.0)
    else:
        often = np.where(find_beyond(past - found.level[rows, None], change, scale) < BEYOND, 1.0, 0.0)
    found.p_value[rows] = np.maximum(found.p_value[rows], np.minimum(often, 1.0))


def _join_regimes(values: Floats, first: Integers) -> Floats:
    """With the nights before `first` moved to the level of those after it."""
    columns, begins = np.arange(values.shape[1]), first[:, None]
    level = find_medians(np.where(columns >= begins, values, np.nan))
    before = find_medians(np.where((columns < begins) & (columns >= begins - BASELINE_NIGHTS), values, np.nan))
    joined: Floats = np.where(columns < begins, values + np.nan_to_num(level - before)[:, None], values)
    return joined
