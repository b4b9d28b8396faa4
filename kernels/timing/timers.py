"""Ways to time a launch, CPU and GPU; beside graphs.py the only owner of clocks and CUDA events.

A timer's name is part of a series' identity: the same kernel reads 23 us from a replayed CUDA graph and 38 us from
single launches with a cold L2, and neither is wrong.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from kernels.errors import KernelError
from kernels.timing.graphs import WARMUP_CALLS, GraphStopwatch, Run


class Stopwatch(Protocol):
    """A launch made ready to be timed, again and again."""

    num_calls: int
    """Calls so far, those too that only warmed up."""
    sample_seconds: float
    """About how long taking one sample lasts."""

    def take(self, count: int, meanwhile: Callable[[], object]) -> tuple[float, ...]:
        """`count` samples in microseconds per call; `meanwhile` is called once while they are taken."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many samples a timer takes."""

    per_trial: int
    """Most samples that are taken in one go, before the next provider has its turn."""
    trial_seconds: float
    """About the longest that a trial of more than one sample may last: it has fewer where samples take long."""
    least_trials: int
    """Fewest trials, however alike they are: six are the fewest that bound a median."""
    most_trials: int
    """Most trials, however far apart they are."""
    budget_seconds: float
    """Of one provider on one case: over it, the fewest trials are enough, alike or not."""

    def count_samples(self, sample_seconds: float) -> int:
        """Samples of one trial."""
        fitting = int(self.trial_seconds / max(sample_seconds, 1e-9))
        return max(1, min(self.per_trial, fitting))


@dataclass(frozen=True, slots=True)
class Timer:
    """One way to time a launch; samples of two timers are never compared."""

    name: str
    """Short name, part of a series' identity."""
    device_type: str
    """The device it works on: "cuda" or "cpu"."""
    description: str
    """What one sample is, in one line."""
    prepare: Callable[[Sequence[Run]], Stopwatch]
    """(one run per input set) -> the stopwatch; there are several sets only for a timer that rotates them."""
    sampling: Sampling
    rotates_inputs: bool = False
    """Whether each call gets other tensors than the one before, more than twice the L2 in all."""


class CallStopwatch(ABC):
    """Times single calls of one launch."""

    def __init__(self, runs: Sequence[Run]) -> None:
        [self._run] = runs
        self.num_calls = WARMUP_CALLS
        for _ in range(WARMUP_CALLS):
            self._run()
        self.sample_seconds = self.take(1, lambda: None)[0] / 1e6

    @abstractmethod
    def take(self, count: int, meanwhile: Callable[[], object]) -> tuple[float, ...]:
        """As Stopwatch.take; it also counts the calls."""

    def close(self) -> None:
        """Let go of the launch, and with it of its tensors."""
        del self._run


class EagerStopwatch(CallStopwatch):
    """Times single calls as a program without CUDA graphs makes them: with launch overhead, warm L2."""

    def take(self, count: int, meanwhile: Callable[[], object]) -> tuple[float, ...]:
        """The device is idle before each call: queued behind another, it would hide its launches behind that one's."""
        self._run()
        self.num_calls += count + 1
        samples_us = []
        for index in range(count):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            self._run()
            stop.record()
            if index == 0:
                meanwhile()
            stop.synchronize()
            samples_us.append(start.elapsed_time(stop) * 1e3)
        return tuple(samples_us)


class WallStopwatch(CallStopwatch):
    """Times single calls on the CPU."""

    def take(self, count: int, meanwhile: Callable[[], object]) -> tuple[float, ...]:
        """By the host's monotonic clock."""
        meanwhile()
        self.num_calls += count
        elapsed_ns = []
        for _ in range(count):
            start_ns = time.perf_counter_ns()
            self._run()
            elapsed_ns.append(time.perf_counter_ns() - start_ns)
        return tuple(ns / 1e3 for ns in elapsed_ns)


ON_GPU = Sampling(per_trial=5, trial_seconds=0.05, least_trials=6, most_trials=40, budget_seconds=1.0)
ON_CPU = Sampling(per_trial=2, trial_seconds=0.05, least_trials=6, most_trials=25, budget_seconds=0.3)

TIMERS: dict[str, Timer] = {
    "graph": Timer("graph", "cuda", "a replayed CUDA graph of 10 calls, per call; warm L2", GraphStopwatch, ON_GPU),
    "cold": Timer(
        "cold",
        "cuda",
        "a replayed CUDA graph that rotates input sets of more than twice the L2, per call; cold L2",
        GraphStopwatch,
        ON_GPU,
        rotates_inputs=True,
    ),
    "eager": Timer("eager", "cuda", "a call between two events, with launch overhead; warm L2", EagerStopwatch, ON_GPU),
    "wall": Timer("wall", "cpu", "one call by the host's monotonic clock", WallStopwatch, ON_CPU),
}


def timers_for(device_type: str) -> tuple[Timer, ...]:
    """The timers that work on a type of device; the first is the default.

    Raises:
        KernelError: there is none; the message lists the types there are.
    """
    found = tuple(timer for timer in TIMERS.values() if timer.device_type == device_type)
    if not found:
        known = ", ".join(sorted({timer.device_type for timer in TIMERS.values()}))
        raise KernelError(f"no timer works on device type {device_type!r}: use one of {known}")
    return found


def list_twins(timer: Timer) -> tuple[str, ...]:
    """Names of the timers that differ from this one in whether input sets are rotated, and in nothing else."""
    twins = (other for other in TIMERS.values() if other.rotates_inputs != timer.rotates_inputs)
    return tuple(twin.name for twin in twins if (twin.prepare, twin.sampling) == (timer.prepare, timer.sampling))


def time_alone(timer: Timer, run: Run, count: int) -> tuple[float, ...]:
    """`count` samples of one launch with nothing in between, in microseconds per call."""
    stopwatch = timer.prepare([run])
    try:
        return stopwatch.take(count, lambda: None)
    finally:
        stopwatch.close()
