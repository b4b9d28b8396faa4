"""Two processes that take turns on one device: in what order, and what their turns say of one against the other."""

import statistics
from collections.abc import Sequence

from tasks.intervals import Interval, find_median_interval, find_paired_ratio, group_rounds
from tasks.records import Measurement, Retrial, Version

ROUNDS_OF_A_TURN = 1000
"""A turn's rounds are numbered from a multiple of it, which is more than any timer's; so the turn can be told."""
TURNS_OF_TWO = (0, 1, 1, 0) * 3
"""Who has the device when, of tonight's process and the previous code's: a steady drift falls on both alike.

Six pairs of turns are the fewest that bound a median. Trials of one turn are more alike than those of two: with two
pairs of turns on a busy CPU, the intervals over pairs of trials missed the ratio of identical code 7 times in 20.
"""


def find_retrial_ratio(retrials: Sequence[Retrial], against: Version) -> Interval | None:
    """How many times as long tonight's version of one series took as another version of it.

    The last good configuration shares its rounds: they are paired. The previous code shares none: neighbouring turns
    are paired, one of each. In one half of the pairs tonight's code came first, in the other half second, so that a
    steady drift shows in the interval's width and not in the ratio. What other processes with other memory addresses
    would have measured is in neither.

    Returns:
        None if one of the two has no times, or nothing can be paired.
    """
    of = {retrial.version: retrial.measurement for retrial in retrials}
    tonight, other = of.get(Version.TONIGHT), of.get(against)
    if tonight is None or other is None:
        return None
    if against is not Version.PREVIOUS_CODE:
        return find_paired_ratio(tonight, other)
    ratios = find_turn_ratios(tonight, other)
    return find_median_interval(ratios) if ratios else None


def find_turn_ratios(measurement: Measurement, other: Measurement) -> list[float]:
    """How many times as long each turn took as the turn of the other beside it: 0 and 1, 3 and 2, 4 and 5, ..."""
    ours, theirs = find_turn_medians(measurement), find_turn_medians(other)
    return [ours[turn] / theirs[turn ^ 1] for turn in ours if turn ^ 1 in theirs]


def find_turn_medians(measurement: Measurement) -> dict[int, float]:
    """The median of each turn's samples."""
    turns: dict[int, list[float]] = {}
    for number, samples_us in group_rounds(measurement).items():
        turns.setdefault(number // ROUNDS_OF_A_TURN, []).extend(samples_us)
    return {turn: statistics.median(samples_us) for turn, samples_us in turns.items()}
