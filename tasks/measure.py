"""One work unit on one worker: weights, checks, times. What goes wrong becomes a status, never a missing row."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kernels.spec import Case
from tasks.errors import WorkerCrashed, WorkerHung, WorkerRaised
from tasks.records import Ceiling, Check, Host, Measurement, Status, WeightsReceipt, WorkUnit
from tasks.workers import START_SECONDS, Worker

WEIGHTS_LIMIT_SECONDS = 600.0
CASE_LIMIT_SECONDS = 180.0
"""Longest one provider may take to compile, run and be compared, or to be timed, on one case."""

CEILINGS_LIMIT_SECONDS = 60.0

Tell = Callable[[Case, str], None]
"""Called after each (case, provider), so that a person sees where the run is."""


Failure = tuple[Status, str]
"""A status other than ok, and the reason in one line."""


class UnitBench:
    """A work unit on a worker: loads the layer again whenever the worker's process had to be replaced."""

    def __init__(
        self, worker: Worker, unit: WorkUnit, seed: int, case_limit_seconds: float = CASE_LIMIT_SECONDS
    ) -> None:
        self.unit = unit
        self._worker = worker
        self._seed = seed
        self._case_limit_seconds = case_limit_seconds
        self._loaded = False
        self._load_failure: Failure | None = None
        self.host: Host = worker.call("host", limit_seconds=START_SECONDS)

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
            self._load_failure = (status, f"generating weights: {reason}")
            return None
        self._loaded = True
        return receipt

    def check(self, case: Case, provider: str) -> Check:
        """Check one provider on one case."""
        answer, failure = self._attempt("check", case, provider)
        return Check(case, provider, failure[0], self.host.host_id, failure[1]) if failure else answer

    def time(self, check: Check, timer: str) -> tuple[Check, tuple[float, ...]]:
        """Time a provider whose check is ok; one that fails now gives its check with the new status, and no samples."""
        if check.status is not Status.OK:
            return check, ()
        samples_us, failure = self._attempt("time", check.case, check.provider, timer)
        if failure:
            return replace(check, status=failure[0], reason=f"while timing: {failure[1]}"), ()
        return check, samples_us

    def _attempt(self, method: str, *arguments: object) -> tuple[Any, Failure | None]:
        """The worker's answer and None, or None and why it failed."""
        if not self._loaded and self._load_failure is None:
            self.load()
        if self._load_failure:
            return None, self._load_failure
        try:
            return self._worker.call(method, *arguments, limit_seconds=self._case_limit_seconds), None
        except (WorkerRaised, WorkerCrashed, WorkerHung) as failure:
            self._loaded = isinstance(failure, WorkerRaised) and not failure.device_lost
            return None, classify_failure(failure)


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
            checks.append(bench.check(case, provider))
            tell(case, provider)
    return checks


def time_unit(
    bench: UnitBench, checks: Sequence[Check], timers: Sequence[str], run_id: str, tell: Tell
) -> list[Measurement]:
    """Time what passed its check with every timer; what did not keeps its status, one row per timer."""
    measurements = []
    for check in checks:
        for timer in timers:
            timed, samples_us = bench.time(check, timer)
            now = datetime.now(UTC)
            measurements.append(Measurement(run_id, timed, timer, bench.host.device, now, samples_us))
        tell(check.case, check.provider)
    return measurements
