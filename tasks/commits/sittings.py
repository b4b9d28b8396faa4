"""One sitting: a unit on two fresh processes of a device, one of each commit, that take turns A B B A."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

from kernels.spec import Case
from tasks.bench import compete_as_is
from tasks.commits.archive import Archive
from tasks.commits.beside import CommitWorker
from tasks.commits.comparisons import Comparison, Sitting, is_head_first
from tasks.commits.sides import Side, load_beside
from tasks.measure import LIMITS, Failure, Limits, UnitBench
from tasks.records import Check, Host, Measurement, Status, WorkUnit
from tasks.workers import Worker

HEAD, BASE = "head", "base"
TURNS_OF_HEAD_FIRST, TURNS_OF_BASE_FIRST = (HEAD, BASE, BASE, HEAD), (BASE, HEAD, HEAD, BASE)
"""In turn: what comes of being first falls on both alike."""


def sit(
    worker: Worker,
    unit: WorkUnit,
    comparison: Comparison,
    number: int,
    archive: Archive,
    limits: Limits = LIMITS,
) -> tuple[Sitting, Host]:
    """Check and time the unit once on each commit; what fails on one costs the other nothing. Also, on what.

    Raises:
        WorkerLost: the worker's device or machine is gone.
    """
    start, host = time.monotonic(), worker.host()
    commits = {HEAD: comparison.head_commit, BASE: comparison.base_commit}
    order = TURNS_OF_HEAD_FIRST if is_head_first(number) else TURNS_OF_BASE_FIRST
    with ExitStack() as stack:
        processes = {place: open_process(stack, worker, archive, commits[place]) for place in order[:2]}
        seats = {place: load(process, unit, comparison, limits) for place, process in processes.items()}
        if not any(isinstance(bench, UnitBench) for bench in seats.values()):
            worker.stop()  # whether it is the device that is gone shows in a fresh process
            worker.host()
        measured: dict[str, list[Measurement]] = {HEAD: [], BASE: []}
        for case in unit.cases:
            for place, found in measure_case(seats, unit, case, order, comparison.comparison_id).items():
                measured[place] += found
    for place, bench in seats.items():
        if not isinstance(bench, UnitBench):
            measured[place] = leave_out(unit, host, comparison.comparison_id, bench)
    return Sitting(
        comparison_id=comparison.comparison_id,
        layer_key=unit.key,
        device_name=host.device.name,
        number=number,
        seconds=round(time.monotonic() - start, 3),
        head=tuple(measured[HEAD]),
        base=tuple(measured[BASE]),
    ), host


def open_process(stack: ExitStack, worker: Worker, archive: Archive, commit: str) -> CommitWorker | Failure:
    """A process of a commit's code that starts at once and ends with the stack; or why there is none."""
    folder, reason = archive.find(commit)
    if folder is None:
        return Status.CRASHED, reason
    process = CommitWorker(worker, folder, commit)
    stack.callback(process.end)
    process.start()
    return process


def load(
    process: CommitWorker | Failure, unit: WorkUnit, comparison: Comparison, limits: Limits
) -> UnitBench | Failure:
    """The unit's weights in a process; or why that cannot be."""
    if not isinstance(process, CommitWorker):
        return process
    return load_beside(process, unit, comparison.seed, comparison.comparison_id, limits)


def measure_case(
    seats: Mapping[str, UnitBench | Failure], unit: WorkUnit, case: Case, order: Sequence[str], run_id: str
) -> dict[str, list[Measurement]]:
    """One case with every timer, by those sides that have loaded it."""
    contenders = [compete_as_is(provider) for provider in unit.providers]
    sides = {
        place: Side(bench, case, contenders, unit.timers)
        for place, bench in seats.items()
        if isinstance(bench, UnitBench)
    }
    for side in sides.values():
        side.check()
    for timer in unit.timers:
        for turn, place in enumerate(order if len(sides) == 2 else [*sides][:1]):
            sides[place].take_turn(turn, timer)
    now = datetime.now(UTC)
    return {
        place: [side.make_measurement(run_id, name, timer, now) for name in unit.providers for timer in unit.timers]
        for place, side in sides.items()
    }


def leave_out(unit: WorkUnit, host: Host, run_id: str, why: Failure) -> list[Measurement]:
    """A side that was not measured."""
    (status, reason), now = why, datetime.now(UTC)
    return [
        Measurement(run_id, Check(case, provider, status, host.host_id, reason), timer, host.device, now)
        for case in unit.cases
        for provider in unit.providers
        for timer in unit.timers
    ]
