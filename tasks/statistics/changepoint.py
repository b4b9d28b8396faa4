"""Where a benchmark's history changed for good: arrays in, records out.

Noise of real benchmarks is heavy-tailed, has several modes, wanders, and carries real but short-lived disturbances. So
- the noise is learned from the history (noise.py), and changes are proposed under it (segmentation.py);
- a proposed change counts if what it gains exceeds what the history's own unrest explains;
- the last few values, too few for a regime, are tested alone, so that a large change is told within days.

The thresholds were set on asv histories of one project and checked on others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from tasks.statistics.noise import Floats, find_inflation, to_relative_scale
from tasks.statistics.segmentation import Evidence, Segmentation, drop_weakest, find_residuals, segment

MIN_CHANGE = 0.01
"""What a person would act on."""
MIN_GAIN = 8.0
"""Log-likelihood that a step gains. With all rules, 2 in 1,000 unchanged histories of 120 values alarm."""
MIN_GAIN_RECENT = 3.0
"""Of a large change of the last values. They are tested at few places: 2 in 1,000 unchanged histories alarm there."""
MIN_GAIN_RECENT_SMALL = 10.0
LARGE_CHANGE = 0.05
"""A smaller one can wait for more evidence."""
SHORTEST_RECENT = 3
SHORTEST_REGIME = 24
"""At the start and for a settled step, in values, or a fifth of a shorter history."""
SHORTEST_STAY = 30
"""Between two changes, or a quarter of a shorter history: what comes and goes within a month is a disturbance."""
UNREST_EXPECTED = 3.0
"""What the best split within a regime of 120 values gains by chance; 5 in 100 gain more."""
UNREST_WEIGHT = 5.0
UNREST_LIMIT = 20.0
"""However restless a history, a change that is clear enough counts."""
USUAL_LENGTH = 120
"""In values; the gains above hold for it, and grow with the logarithm of the length."""
MAX_VALUES = 8192
"""Longer histories are searched by the medians of as many blocks, and their end value by value."""
NUM_LAST_VALUES = 2048
NEVER = 1e7
"""More than any change gains."""


class ChangeKind(StrEnum):
    """How well a change is established."""

    STEP = "step"
    """The new regime is long enough to be settled."""
    RECENT = "recent"
    """Only the last few values are of the new regime."""


@dataclass(frozen=True, slots=True)
class Change:
    """The level of a history is another from one value on."""

    index: int
    """Of the first value of the new regime, in the sequence that was given."""
    before: float
    """Median of the regime before it; of an even number of values the lower of the two in the middle."""
    after: float
    p_value: float
    """How probable such evidence is if nothing changed, at most: num_values * e ** -gain for a step, e ** -gain for a
    recent change, with gains over the inflation by correlation. (A likelihood ratio of c has a probability of at most
    1 / c at one place; as the noise is learned from the same values, that holds by measurement, not by proof.)"""
    kind: ChangeKind

    @property
    def relative_change(self) -> float:
        """after / before - 1; not a number if it was 0 before."""
        return (self.after - self.before) / abs(self.before) if self.before else math.nan


@dataclass(frozen=True, slots=True)
class Split:
    """A change on relative scale."""

    index: int
    p_value: float
    kind: ChangeKind


def change_points(values: Sequence[float]) -> list[int]:
    """The first index of each new regime, in order.

    Args:
        values: a history in time order, of any length and in any unit. Those that are not finite are skipped.
    """
    return [change.index for change in find_changes(values)]


def find_changes(values: Sequence[float], min_change: float = MIN_CHANGE) -> list[Change]:
    """The changes of a history, in order: those of settled regimes, and at most one among its last values.

    Deterministic, and the same whatever the unit. Relative sizes where all values are positive; where some are not,
    sizes are relative to the typical magnitude.

    Args:
        values: a history in time order, of any length and in any unit. Those that are not finite are skipped.
        min_change: relative changes of regime medians below it are not told.
    """
    given = np.asarray(values, dtype=np.float64)
    places = np.flatnonzero(np.isfinite(given))
    known = given[places]
    if len(known) < 2 * SHORTEST_RECENT:
        return []
    relative = to_relative_scale(known)
    search = search_values if len(relative) <= MAX_VALUES else search_blocks
    splits = search(relative, min_change)
    bounds = [0, *(split.index for split in splits), len(known)]
    medians = [find_low_median(known[start:end]) for start, end in pairwise(bounds)]
    return [
        Change(int(places[split.index]), before, after, split.p_value, split.kind)
        for split, (before, after) in zip(splits, pairwise(medians), strict=True)
    ]


def search_values(values: Floats, min_change: float) -> list[Split]:
    """The changes of a history of at most MAX_VALUES.

    A step at t between the neighbouring changes s and e counts if

        gain(s, t, e) >= (MIN_GAIN + ln(n / 120)) * inflation + UNREST_WEIGHT * unrest

    with the inflation of `find_inflation` and unrest what the best split of either regime gains beyond chance, as far
    as UNREST_LIMIT. Steps that fail are dropped, the weakest first.
    """
    found = segment(values)
    num_values, gain = len(values), found.evidence.gain
    candidates = drop_short_lived(values, found, min_change)
    inflation = find_inflation(find_residuals(values, candidates), found.noise.scale)
    required = scale_with_length(MIN_GAIN, num_values) * inflation
    settled_end = num_values - shortest_regime(num_values)

    def margin(start: int, split: int, end: int) -> float:
        after = (split, end if end < num_values else max(split, settled_end))
        unrest = max(find_unrest(found.evidence, start, split), find_unrest(found.evidence, *after))
        return gain(start, split, end) - required - UNREST_WEIGHT * unrest

    steps = drop_weakest(candidates, num_values, margin)
    splits = [
        Split(step, min(1.0, num_values * math.exp(-gain(start, step, end) / inflation)), ChangeKind.STEP)
        for start, step, end in zip([0, *steps], steps, [*steps[1:], num_values], strict=False)
    ]
    recent = find_recent(values, found.evidence, steps[-1] if steps else 0, inflation, min_change)
    return [*splits, recent] if recent else splits


def drop_short_lived(values: Floats, found: Segmentation, min_change: float) -> list[int]:
    """Proposed changes without those that are small, gain little, or bound a regime that is short."""
    num_values = len(values)
    regime, stay = shortest_regime(num_values), max(SHORTEST_RECENT, min(SHORTEST_STAY, num_values // 4))
    required = scale_with_length(MIN_GAIN, num_values)

    def margin(start: int, split: int, end: int) -> float:
        spare = found.evidence.gain(start, split, end) - required
        if split - start < (stay if start else regime) or end - split < (stay if end < num_values else regime):
            return spare - NEVER
        return spare if is_large(values, start, split, end, min_change) else spare - NEVER

    return drop_weakest(found.changes, num_values, margin)


def find_recent(values: Floats, evidence: Evidence, start: int, inflation: float, min_change: float) -> Split | None:
    """The change among the last values that exceeds what it has to gain by most, if any does.

    As for a step, but with MIN_GAIN_RECENT if it is large, for from 3 values to one less than a regime has. It gains at
    least as much as a change one or two values from the end would: two slow nights are not taken for three.

    Args:
        start: of the last settled regime, which the values are held against.
        inflation: of the whole history.
    """
    num_values, regime = len(values), shortest_regime(len(values))
    enough = max(MIN_GAIN_RECENT, *(evidence.gain(start, num_values - last, num_values) for last in (1, 2)))
    best: tuple[float, Split] | None = None
    for split in range(max(start + regime, num_values - regime + 1), num_values - SHORTEST_RECENT + 1):
        gain = evidence.gain(start, split, num_values)
        if gain < enough or not is_large(values, start, split, num_values, min_change):
            continue
        large = is_large(values, start, split, num_values, max(min_change, LARGE_CHANGE))
        required = (MIN_GAIN_RECENT if large else MIN_GAIN_RECENT_SMALL) * inflation
        spare = gain - required - UNREST_WEIGHT * find_unrest(evidence, start, split)
        if spare >= 0 and (best is None or spare > best[0]):
            best = spare, Split(split, math.exp(-gain / inflation), ChangeKind.RECENT)
    return best[1] if best else None


def find_unrest(evidence: Evidence, start: int, end: int) -> float:
    """What the best split within a regime gains beyond chance, at most UNREST_LIMIT."""
    beyond = evidence.best_gain(start, end) - scale_with_length(UNREST_EXPECTED, end - start)
    return min(UNREST_LIMIT, max(0.0, beyond))


def is_large(values: Floats, start: int, split: int, end: int, min_change: float) -> bool:
    """Whether the medians of two regimes differ by at least `min_change`."""
    return bool(abs(np.median(values[split:end]) - np.median(values[start:split])) >= math.log1p(min_change))


def scale_with_length(gain: float, num_values: int) -> float:
    """A gain that as few longer histories reach: chance has more places, and e ** -gain is its probability at each."""
    return gain + math.log(max(1.0, num_values / USUAL_LENGTH))


def shortest_regime(num_values: int) -> int:
    return max(SHORTEST_RECENT, min(SHORTEST_REGIME, num_values // 5))


def find_low_median(values: Floats) -> float:
    """The middle value, the lower of two: a value that was measured, and no sum that could overflow."""
    return float(np.partition(values, (len(values) - 1) // 2)[(len(values) - 1) // 2])


def search_blocks(values: Floats, min_change: float) -> list[Split]:
    """The changes of a long history: of medians of blocks, then of its last NUM_LAST_VALUES values."""
    size = -(-len(values) // MAX_VALUES)
    skipped = len(values) % size
    blocks = np.median(values[skipped:].reshape(-1, size), axis=1)
    tail = len(values) - NUM_LAST_VALUES
    early = [
        Split(refine(values, skipped + split.index * size, size), split.p_value, ChangeKind.STEP)
        for split in search_values(blocks, min_change)
    ]
    late = [Split(tail + split.index, split.p_value, split.kind) for split in search_values(values[tail:], min_change)]
    return [split for split in early if split.index < tail + SHORTEST_REGIME] + late


def refine(values: Floats, place: int, size: int) -> int:
    """The place within two blocks of `place` where absolute deviations from the medians of both sides are least."""
    start, end = max(0, place - 2 * size), min(len(values), place + 2 * size)
    before, after = (
        np.median(values[max(0, start - 2 * size) : start + size]),
        np.median(values[end - size : end + 2 * size]),
    )
    excess = np.abs(values[start:end] - before) - np.abs(values[start:end] - after)
    return start + int(np.argmin(np.concatenate([[0.0], np.cumsum(excess)])))
