"""Processes of one device that take turns on a case: each side is one of them, and who takes part in it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kernels.spec import Case
from tasks.bench import Contender
from tasks.errors import WorkerCrashed
from tasks.measure import Failure, Limits, TimedCase, UnitBench, make_measurement
from tasks.quarantine import Quarantine
from tasks.records import Check, Crash, Measurement, Status, WorkUnit
from tasks.turns import ROUNDS_OF_A_TURN
from tasks.workers import Worker


def forget_crashes(run_id: str) -> Quarantine:
    """Of processes beside others: their crashes are told by their statuses, and are none of a night's."""

    def forget(_crash: Crash) -> None:
        """Store nothing."""

    return Quarantine(run_id, (), forget)


def load_beside(worker: Worker, unit: WorkUnit, seed: int, run_id: str, limits: Limits) -> UnitBench | Failure:
    """The unit's weights in a process beside others; or why that cannot be."""
    try:
        bench = UnitBench(worker, unit, seed, forget_crashes(run_id), limits)
    except WorkerCrashed as failure:
        return Status.CRASHED, str(failure)
    bench.load()
    bench.drop_case()  # generating weights leaves memory behind that the other process may need
    return bench.load_failure or bench


class Side:
    """One of the processes that take turns on a case, and who takes part in it."""

    def __init__(self, bench: UnitBench, case: Case, contenders: Sequence[Contender], timers: Sequence[str]) -> None:
        self.bench = bench
        self._case = case
        self._contenders = {contender.name: contender for contender in contenders}
        self._checks: dict[str, Check] = {}
        self._timed = {timer: TimedCase(case, timer) for timer in timers}

    def check(self) -> None:
        """Check everybody; whose output is not right is not timed."""
        for name, contender in self._contenders.items():
            check = self.bench.check(self._case, contender)
            self._checks[name] = replace(check, host_id=self.bench.host.host_id)  # other code may tell another
        self.bench.drop_case()

    def take_turn(self, number: int, timer: str) -> None:
        """Time who is right and has not failed in an earlier turn, and make room for the other side."""
        timed = self._timed[timer]
        fit = [
            contender
            for name, contender in self._contenders.items()
            if self._checks[name].status is Status.OK and self.bench.find_failure(name, timed) is None
        ]
        timed.extend(self.bench.time(self._case, fit, timer, number * ROUNDS_OF_A_TURN))
        self.bench.drop_case()

    def make_measurement(self, run_id: str, name: str, timer: str, now: datetime) -> Measurement:
        """What came of a contender."""
        return make_measurement(self.bench, run_id, name, self._checks[name], self._timed[timer], now)
