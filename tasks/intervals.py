"""Intervals of medians and of ratios, without an assumption on the shape of the noise.

A sorted sample's k-th smallest and k-th largest values enclose the median of the distribution unless fewer than k
samples fell on one of its sides, which is a matter of tossing n coins:

    P(x_(k) <= median <= x_(n+1-k)) = 1 - 2 * P(Binomial(n, 1/2) < k)

Source: Conover, Practical Nonparametric Statistics, section 3.2.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tasks.records import Measurement

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and where the true one lies, with a confidence of CONFIDENCE or a little more."""

    median: float
    low: float
    high: float

    @property
    def relative_half_width(self) -> float:
        """Half of high - low over the median: the "plus or minus" of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else math.inf


@cache
def interval_rank(num_samples: int, confidence: float = CONFIDENCE) -> int:
    """The largest k whose k-th smallest and k-th largest samples enclose the median often enough; 0 if none do.

    Fewer than 6 samples have no such pair for 95 %.
    """
    tail, term, rank = 0.0, 0.5**num_samples, 0  # term: P(Binomial(n, 1/2) = rank)
    while rank < num_samples and 2 * (tail + term) <= 1 - confidence:
        tail += term
        term *= (num_samples - rank) / (rank + 1)
        rank += 1
    return rank


def find_median_interval(samples: Sequence[float]) -> Interval:
    """The median of independent samples and its interval, which is unbounded for fewer than 6."""
    ordered, rank = sorted(samples), interval_rank(len(samples))
    median = statistics.median(ordered)
    if not rank:
        return Interval(median, -math.inf, math.inf)
    return Interval(median, ordered[rank - 1], ordered[-rank])


def find_interval(measurement: Measurement) -> Interval:
    """The median of a measurement and its interval over the trials.

    Samples of one trial are more alike than those of two: on an H200 the variance between trials was 3 times what
    independent samples have. So a trial counts once, by its median. What changes from process to process is not in it.
    """
    medians = list(map(statistics.median, split_trials(measurement))) or measurement.samples_us
    bounds = find_median_interval(medians)
    return Interval(statistics.median(measurement.samples_us), bounds.low, bounds.high)


def find_paired_ratio(measurement: Measurement, baseline: Measurement) -> Interval | None:
    """How many times as long one provider took as another on the same case, round by round: drift cancels.

    Returns:
        The median of the rounds' ratios of medians; None where they share no round. Two cases share none, though the
        rounds of each are numbered from 0.
    """
    if measurement.check.case != baseline.check.case:
        return None
    ours, theirs = group_rounds(measurement), group_rounds(baseline)
    both = [number for number in ours if number in theirs]
    ratios = [statistics.median(ours[number]) / statistics.median(theirs[number]) for number in both]
    return find_median_interval(ratios) if ratios else None


def group_rounds(measurement: Measurement) -> Mapping[int, Sequence[float]]:
    """The samples that count, by the round they were taken in."""
    numbers = [trial.round for trial in measurement.trials if trial.num_samples]
    return dict(zip(numbers, split_trials(measurement), strict=True))


def split_trials(measurement: Measurement) -> list[Sequence[float]]:
    """The samples of each trial that counts, in order."""
    ends = list(itertools.accumulate(trial.num_samples for trial in measurement.trials))
    parts = [measurement.samples_us[first:end] for first, end in itertools.pairwise([0, *ends])]
    return [part for part in parts if part]
