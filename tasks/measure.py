"""One work unit on one worker: weights, checks, times. What goes wrong becomes a status, never a missing row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kernels.spec import Case
from tasks.bench import Contender, compete_as_is
from tasks.clock import Clock
from tasks.errors import WorkerCrashed, WorkerHung, WorkerLost, WorkerRaised
from tasks.quarantine import Quarantine
from tasks.records import (
    Ceiling,
    Check,
    Host,
    Measurement,
    ReferenceTime,
    Status,
    UnitCost,
    WeightsReceipt,
    WorkUnit,
)
from tasks.sampling import Reading, Readings
from tasks.workers import Worker

WEIGHTS_LIMIT_SECONDS = 600.0
CHECK_LIMIT_SECONDS = 180.0
"""Longest one provider may take to compile, run and be compared on one case."""
TIMING_LIMIT_SECONDS = 60.0
"""Longest to time the providers of one case, whose kernels are compiled by then, in turn or alone; and for each ..."""
TIMING_LIMIT_SECONDS_PER_PROVIDER = 15.0
"""... as much more."""
CEILINGS_LIMIT_SECONDS = 60.0

Tell = Callable[[Case, str], None]
"""Called after each (case, provider), so that a person sees where the run is."""


Failure = tuple[Status, str]
"""A status other than ok, and the reason in one line."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest that a worker may take to answer."""

    check_seconds: float = CHECK_LIMIT_SECONDS
    timing_seconds: float = TIMING_LIMIT_SECONDS
    timing_seconds_per_provider: float = TIMING_LIMIT_SECONDS_PER_PROVIDER

    def find_timing_seconds(self, num_providers: int) -> float:
        """Of timing so many providers in one call."""
        return self.timing_seconds + num_providers * self.timing_seconds_per_provider


LIMITS = Limits()


class UnitBench:
    """A work unit on a worker: loads the layer again whenever the worker's process had to be replaced."""

    def __init__(
        self,
        worker: Worker,
        unit: WorkUnit,
        seed: int,
        quarantine: Quarantine,
        limits: Limits = LIMITS,
    ) -> None:
        self.unit = unit
        self.clock = Clock()
        self._worker = worker
        self._seed = seed
        self._quarantine = quarantine
        self._limits = limits
        self._loaded = False
        self.load_failure: Failure | None = None
        """Why the unit's weights could not be generated."""
        self.host: Host = worker.host()

    def measure_ceilings(self, run_id: str) -> tuple[list[Ceiling], str]:
        """What the worker's device does at best, or none and why it could not be measured."""
        try:
            rates = self._worker.call("ceilings", limit_seconds=CEILINGS_LIMIT_SECONDS)
        except (WorkerRaised, WorkerCrashed, WorkerHung) as failure:
            self._loaded = False
            return [], str(failure)
        return [Ceiling(run_id, self.host.host_id, rate.name, rate.value, rate.unit) for rate in rates], ""

    def load(self) -> WeightsReceipt | None:
        """Generate the unit's weights on the worker; None if that failed, and every check will say why."""
        try:
            receipt: WeightsReceipt = self._worker.call(
                "load_layer", self.unit.layer, self._seed, limit_seconds=WEIGHTS_LIMIT_SECONDS
            )
        except (WorkerRaised, WorkerCrashed, WorkerHung) as failure:
            status, reason = classify_failure(failure)
            self.load_failure = (status, f"generating weights: {reason}")
            return None
        self._loaded = True
        return receipt

    def check(self, case: Case, contender: Contender) -> Check:
        """Check one contender on one case, twice if it kills its worker."""
        limit_seconds = self._limits.check_seconds
        answer, failure = self._try_alone(limit_seconds, case, contender, "check", case, contender)
        return Check(case, contender.provider, failure[0], self.host.host_id, failure[1]) if failure else answer

    def time(self, case: Case, contenders: Sequence[Contender], timer: str, first_round: int = 0) -> "TimedCase":
        """Time contenders that passed their checks of a case, in turn; if that fails, each alone.

        Alone, who failed gets the status. The others take turns again without it; if that fails too, or nobody failed
        alone, they keep the times that they had alone, which share no round.
        """
        timed = TimedCase(case, timer, first_round)
        fit = [contender for contender in contenders if not self._quarantine.find(case, contender.name, self.host)]
        if len(fit) > 1 and self._time_together(fit, timed):
            return timed
        limit_seconds = self._limits.find_timing_seconds(1)
        for contender in fit:
            arguments = (case, [contender], timer, self.unit.precision, timed.next_round)
            readings, failure = self._try_alone(limit_seconds, case, contender, "time", *arguments)
            if failure:
                timed.failures[contender.name] = failure
            else:
                timed.add(readings, [contender])
        left = [contender for contender in fit if contender.name in timed.readings]
        if timed.failures and len(left) > 1:
            self._time_together(left, timed)
        return timed

    def _time_together(self, contenders: Sequence[Contender], timed: "TimedCase") -> bool:
        """Time contenders in turn; whether that went well, and replaced what they had."""
        arguments = (timed.case, contenders, timed.timer, self.unit.precision, timed.next_round)
        readings, failure = self._attempt(self._limits.find_timing_seconds(len(contenders)), "time", *arguments)
        if failure:
            return False
        timed.add(readings, contenders)
        return True

    def find_failure(self, name: str, timed: "TimedCase") -> Failure | None:
        """Why a contender whose check was ok has no samples."""
        if name in timed.failures:
            return timed.failures[name]
        return None if name in timed.readings else self._quarantine.find(timed.case, name, self.host)

    def drop_case(self) -> None:
        """Free what the worker holds of a case; a process that dies of that is replaced when it is needed."""
        if self._loaded:
            self._attempt(CEILINGS_LIMIT_SECONDS, "drop_case")

    def take_cost(self, run_id: str) -> UnitCost:
        """Where the unit's seconds went, stage by stage and on the worker; a process that died took its own along.

        Raises:
            WorkerLost: the process died of the unit's last case and none can be started: its device may be to blame.
        """
        seconds = self.clock.take()
        seconds["total"] = sum(seconds.values())
        try:
            seconds |= self._worker.call("take_seconds", limit_seconds=CEILINGS_LIMIT_SECONDS)
        except (WorkerRaised, WorkerCrashed, WorkerHung):
            self._loaded = False
        except WorkerLost:
            if not self._loaded:
                raise
            self._loaded = False  # lost since, and the unit is measured
        rounded = {activity: round(value, 4) for activity, value in seconds.items()}
        return UnitCost(run_id, self.unit.key, self.host.host_id, rounded)

    def _try_alone(
        self, limit_seconds: float, case: Case, contender: Contender, method: str, *arguments: object
    ) -> tuple[Any, Failure | None]:
        """What one contender answers; it is tried again where its worker died, until it is quarantined."""
        while True:
            quarantined = self._quarantine.find(case, contender.name, self.host)
            if quarantined:
                return None, quarantined
            answer, failure = self._attempt(limit_seconds, method, *arguments)
            if failure is None or self._loaded or self.load_failure:
                return answer, failure
            self._quarantine.note(case, contender.name, self.host, *failure)

    def _attempt(self, limit_seconds: float, method: str, *arguments: object) -> tuple[Any, Failure | None]:
        """The worker's answer and None, or None and why it failed."""
        if not self._loaded and self.load_failure is None:
            self.load()
        if self.load_failure:
            return None, self.load_failure
        try:
            return self._worker.call(method, *arguments, limit_seconds=limit_seconds), None
        except (WorkerRaised, WorkerCrashed, WorkerHung) as failure:
            self._loaded = isinstance(failure, WorkerRaised) and not failure.device_lost
            return None, classify_failure(failure)


@dataclass(slots=True)
class TimedCase:
    """What timing contenders on one case gave, by their names, whether together or one by one."""

    case: Case
    timer: str
    next_round: int = 0
    readings: dict[str, Reading] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    holds_for: tuple[str, ...] = ()
    """As of Readings: other timers whose samples these are too."""
    references: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def add(self, readings: Readings, contenders: Sequence[Contender]) -> None:
        """Take over what the worker answered for some contenders."""
        self.readings |= readings.providers
        self.holds_for = readings.holds_for
        if readings.unsupported:
            for contender in contenders:
                self.failures[contender.name] = (Status.UNSUPPORTED, readings.unsupported)
        for name, samples_us in readings.references.items():
            self.references[name] = (*self.references.get(name, ()), *samples_us)
        self.next_round += readings.rounds

    def extend(self, later: "TimedCase") -> None:
        """Take over a later turn of the same contenders, behind what is there."""
        for name, reading in later.readings.items():
            before = self.readings.get(name, Reading((), ()))
            self.readings[name] = Reading(before.samples_us + reading.samples_us, before.trials + reading.trials)
        self.failures |= later.failures
        for name, samples_us in later.references.items():
            self.references[name] = (*self.references.get(name, ()), *samples_us)
        self.next_round = later.next_round


def classify_failure(failure: WorkerRaised | WorkerCrashed | WorkerHung) -> Failure:
    """The status a worker's failure gives a measurement, and the reason in one line."""
    if isinstance(failure, WorkerHung):
        return Status.HUNG, str(failure)
    if isinstance(failure, WorkerRaised) and failure.out_of_memory:
        return Status.OUT_OF_MEMORY, str(failure)
    return Status.CRASHED, str(failure)


def check_unit(bench: UnitBench, tell: Tell) -> list[Check]:
    """Check every provider on every case of the unit."""
    checks = []
    for case in bench.unit.cases:
        for provider in bench.unit.providers:
            checks.append(bench.check(case, compete_as_is(provider)))
            tell(case, provider)
    return checks


def time_unit(
    bench: UnitBench, checks: Sequence[Check], run_id: str, tell: Tell
) -> tuple[list[Measurement], list[ReferenceTime]]:
    """Time what passed its check with every timer of the unit; what did not keeps its status, one row per timer.

    Timers that would do the same with a case share its samples.
    """
    measurements: list[Measurement] = []
    references: list[ReferenceTime] = []
    by_case: dict[str, list[Check]] = {}
    for check in checks:
        by_case.setdefault(check.case.key, []).append(check)
    for case_key, of_case in by_case.items():
        fit = [compete_as_is(check.provider) for check in of_case if check.status is Status.OK]
        shared: dict[str, TimedCase] = {}
        for timer in bench.unit.timers:
            timed = replace(shared.get(timer) or bench.time(of_case[0].case, fit, timer), timer=timer)
            shared |= dict.fromkeys(timed.holds_for, timed)
            now = datetime.now(UTC)
            measurements += [make_measurement(bench, run_id, c.provider, c, timed, now) for c in of_case]
            references += [
                ReferenceTime(run_id, case_key, timer, bench.host.host_id, name, now, samples_us)
                for name, samples_us in timed.references.items()
            ]
        for check in of_case:
            tell(check.case, check.provider)
    return measurements, references


def make_measurement(
    bench: UnitBench, run_id: str, name: str, check: Check, timed: TimedCase, now: datetime
) -> Measurement:
    """The row of the contender of that name: its samples, or its status and why there are none."""
    failure = bench.find_failure(name, timed) if check.status is Status.OK else None
    if failure:
        status, reason = failure
        told = reason if status is Status.UNSUPPORTED else f"while timing: {reason}"
        check = replace(check, status=status, reason=told)
    reading = Reading((), ()) if failure else timed.readings.get(name, Reading((), ()))
    return Measurement(run_id, check, timed.timer, bench.host.device, now, reading.samples_us, reading.trials)
