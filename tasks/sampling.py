"""When to take which sample: providers in turn, in balanced order, until each median is known well enough.

Drift of the machine falls on all providers of a case alike and cancels in their ratios. A trial at a slow clock is
repeated, a few times at most, unless it is the kernel's own power that slows it; what is left is kept and marked.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.clock import Clock
from tasks.intervals import find_median_interval
from tasks.records import PRECISION, DeviceState, Trial

if TYPE_CHECKING:  # a night is judged by POWER_LIMIT without waiting for torch
    from kernels.timing.timers import Sampling, Stopwatch

SLOW_CLOCK = 0.95
"""A trial at less than this share of the fastest SM clock is repeated or marked."""
POWER_LIMIT = "sw_power_cap"
"""NVML's reason for the clock of a kernel that takes the card to its power limit: that is how fast it runs."""
MOST_REPEATS = 2
"""Trials of one provider on one case that may be set aside for a slow clock."""
REFERENCE_SAMPLES = 3
"""Of each reference kernel, a round."""

ReadState = Callable[[], DeviceState | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one provider's stopwatch gave."""

    samples_us: tuple[float, ...]
    """Those that count, in the order taken."""
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Readings:
    """What timing the providers of one case gave."""

    providers: Mapping[str, Reading] = field(default_factory=dict)
    references: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Samples of the reference kernels by name."""
    rounds: int = 0
    holds_for: tuple[str, ...] = ()
    """Names of other timers that would have replayed the same launches on the same tensors: these are their samples."""
    unsupported: str = ""
    """Why the timer cannot time this case; "" if it did."""


def list_trial_medians(reading: Reading) -> tuple[float, ...]:
    """The median of each trial that counts, in the order taken."""
    samples = iter(reading.samples_us)
    counts = [trial.num_samples for trial in reading.trials if trial.num_samples]
    return tuple(statistics.median(itertools.islice(samples, count)) for count in counts)


class ClockWatch:
    """Knows the fastest SM clock that a device was seen at."""

    def __init__(self, read_state: ReadState) -> None:
        self._read_state = read_state
        self._top_mhz = 0
        self.last: DeviceState | None = None
        """The state that was read last; None where none can be read."""

    def read(self) -> None:
        """Look at the device now."""
        self.last = self._read_state()
        if self.last:
            self._top_mhz = max(self._top_mhz, self.last.sm_clock_mhz)

    @property
    def may_pass(self) -> bool:
        """Whether another trial could find a faster clock: not where only the power that is drawn holds it down."""
        return self.last is not None and self.last.throttle_reasons != (POWER_LIMIT,)

    @property
    def is_slow(self) -> bool:
        """Whether the last clock was well below the fastest."""
        return self.last is not None and self.last.sm_clock_mhz < SLOW_CLOCK * self._top_mhz


class _Subject:
    """One provider while it is sampled."""

    def __init__(self, stopwatch: Stopwatch, sampling: Sampling, precision: float, watch: ClockWatch) -> None:
        self._stopwatch = stopwatch
        self._sampling = sampling
        self._precision = precision
        self._watch = watch
        self._repeats_left = MOST_REPEATS
        self._clock = Clock()
        self._medians: list[float] = []
        """Of the trials that count."""
        self.samples_us: list[float] = []
        self.trials: list[Trial] = []

    def take_trial(self, number: int) -> None:
        """Take one trial that counts, after those that are set aside."""
        count = self._sampling.count_samples(self._stopwatch.sample_seconds)
        while True:
            with self._clock.measure("trial"):
                taken = self._stopwatch.take(count, self._watch.read)
            state, is_slow = self._watch.last, self._watch.is_slow
            if not (self._repeats_left and is_slow and self._watch.may_pass):
                break
            self._repeats_left -= 1
            self.trials.append(Trial(number, 0, state, is_slow, taken))
        self.samples_us.extend(taken)
        self.trials.append(Trial(number, len(taken), state, is_slow))
        self._medians.append(statistics.median(taken))

    @property
    def is_at_its_limit(self) -> bool:
        """Whether it has as many trials as it may have, or its time is up and it has those that it needs at least."""
        num_trials, spent = len(self._medians), self._clock.seconds.get("trial", 0.0)
        is_late = spent >= self._sampling.budget_seconds and num_trials >= self._sampling.least_trials
        return is_late or num_trials >= self._sampling.most_trials

    @property
    def ends_all(self) -> bool:
        """Whether it stops having held the card at its power limit: without it all others would find other clocks."""
        state = self.trials[-1].state
        return self.is_at_its_limit and state is not None and POWER_LIMIT in state.throttle_reasons

    @property
    def is_known(self) -> bool:
        """Whether more trials would tell no more, or it may have no more."""
        if self.is_at_its_limit:
            return True
        if len(self._medians) < self._sampling.least_trials:
            return False
        return find_median_interval(self._medians).relative_half_width <= self._precision


def list_turns(names: Sequence[str], number: int) -> list[str]:
    """The order of one round. In two rounds for each name everybody has every place, and comes after each other, twice.

    So what a kernel leaves behind, such as the clocks of a card at its power limit, is found by all others alike.

    Source: Williams, Experimental designs balanced for the estimation of residual effects of treatments
    (doi:10.1071/CH9490149).
    """
    steps = [-(place + 1) // 2 if place % 2 else place // 2 for place in range(len(names))]  # 0, -1, 1, -2, 2, ...
    turns = [names[(number // 2 + step) % len(names)] for step in steps]
    return list(reversed(turns)) if number % 2 else turns


def take_in_turn(
    stopwatches: Mapping[str, Stopwatch],
    references: Mapping[str, Stopwatch],
    sampling: Sampling,
    watch: ClockWatch,
    precision: float = PRECISION,
    first_round: int = 0,
) -> Readings:
    """Sample providers round by round until each is known; each round has another order.

    Who is known goes on while others are not, up to its limit, so that their rounds stay side by side. At the card's
    power limit all end with the first that comes to its own.

    Args:
        references: launches that are sampled once a round, in turn with the providers.
        first_round: the number of the first round.
    """
    subjects = {name: _Subject(stopwatch, sampling, precision, watch) for name, stopwatch in stopwatches.items()}
    reference_us: dict[str, list[float]] = {name: [] for name in references}
    number = first_round
    while not all(subject.is_known for subject in subjects.values()):
        for name in list_turns([*subjects, *references], number):
            if name in reference_us:
                reference_us[name].extend(references[name].take(REFERENCE_SAMPLES, watch.read))
            elif not subjects[name].is_at_its_limit:
                subjects[name].take_trial(number)
        number += 1
        if any(subject.ends_all for subject in subjects.values()):
            break
    return Readings(
        providers={name: Reading(tuple(s.samples_us), tuple(s.trials)) for name, s in subjects.items()},
        references={name: tuple(samples) for name, samples in reference_us.items()},
        rounds=number - first_round,
    )
