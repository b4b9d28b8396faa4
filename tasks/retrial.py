"""Suspects measured again the same night, in turn with the last good configuration and with the previous code.

On a fresh process of the worker, whose tensors lie elsewhere than before, tonight's version and the one with the last
good configuration are timed round by round. The previous code runs in a process of its own on the same device, with
weights of the same seed, and the two processes take turns: tonight, previous, previous, tonight, three times.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from kernels.registry import find_kernel
from tasks.bench import Contender, compete_as_is
from tasks.commits.archive import Archive
from tasks.commits.beside import CommitWorker
from tasks.commits.sides import Side, forget_crashes, load_beside
from tasks.measure import LIMITS, Failure, Limits, UnitBench
from tasks.records import Check, Measurement, Retrial, Run, Status, Suspect, Version, WorkUnit
from tasks.turns import TURNS_OF_TWO
from tasks.workers import Worker

TURNS_OF_ONE = (0,)
"""Without the previous code."""


def make_units(suspects: Sequence[Suspect]) -> dict[str, list[WorkUnit]]:
    """By device name, the units to be measured again on it, as a pool shares them out: a layer's suspects are one."""
    lines: dict[str, list[WorkUnit]] = {}
    ordered = sorted(suspects, key=lambda suspect: (suspect.series.device_name, suspect.case.layer.key))
    for (device, _), group in groupby(ordered, lambda suspect: (suspect.series.device_name, suspect.case.layer.key)):
        of_layer = list(group)
        unit = WorkUnit(
            layer=of_layer[0].case.layer,
            cases=tuple({suspect.case.key: suspect.case for suspect in of_layer}.values()),
            providers=tuple(dict.fromkeys(suspect.series.provider for suspect in of_layer)),
            timers=tuple(dict.fromkeys(suspect.series.timer for suspect in of_layer)),
        )
        lines.setdefault(device, []).append(unit)
    return lines


def measure_again(
    worker: Worker, unit: WorkUnit, suspects: Sequence[Suspect], run: Run, archive: Archive, limits: Limits = LIMITS
) -> list[Retrial]:
    """Measure those suspects again that are of the unit's layer and the worker's device.

    Raises:
        WorkerLost: the worker's device or machine is gone.
    """
    worker.stop()  # memory addresses are drawn anew
    bench = UnitBench(worker, unit, run.seed, forget_crashes(run.run_id), limits)
    bench.load()
    bench.drop_case()  # generating weights leaves memory behind that the other process may need
    here = [s for s in suspects if s.case.layer.key == unit.key and s.series.device_name == bench.host.device.name]
    retrials: list[Retrial] = []
    by_commit = sorted(here, key=lambda suspect: (suspect.good_commit, suspect.case.key, suspect.series.timer))
    for commit, of_commit in groupby(by_commit, lambda suspect: suspect.good_commit):
        with opening_previous(worker, bench, run, commit, archive, limits) as previous:
            for _, group in groupby(of_commit, lambda suspect: (suspect.case.key, suspect.series.timer)):
                retrials += retry_suspects(bench, previous, list(group), run.run_id)
    return retrials


@contextmanager
def opening_previous(
    worker: Worker, bench: UnitBench, run: Run, commit: str, archive: Archive, limits: Limits
) -> Iterator[UnitBench | Failure]:
    """The unit in a process beside the worker's that runs a commit's code, or why there is none."""
    if commit and commit == run.git_commit and not run.git_dirty:
        yield Status.UNSUPPORTED, f"tonight's code is that of the last good run: commit {commit[:12]}"
        return
    folder, reason = archive.find(commit)
    if folder is None or bench.load_failure:
        yield bench.load_failure or (Status.UNSUPPORTED, reason)
        return
    earlier = CommitWorker(worker, folder, commit)
    try:
        yield load_beside(earlier, bench.unit, run.seed, run.run_id, limits)
    finally:
        earlier.end()


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a suspect, as it takes part."""

    suspect: Suspect
    version: Version
    contender: Contender


def retry_suspects(
    bench: UnitBench, previous: UnitBench | Failure, suspects: Sequence[Suspect], run_id: str
) -> list[Retrial]:
    """Every version of the suspects of one case and one timer.

    Args:
        bench: the unit in a process of tonight's code.
        previous: the same in a process of the previous code, or why there is none.
    """
    case, timer = suspects[0].case, suspects[0].series.timer
    entries = list_entries(suspects)
    earlier = [Entry(s, Version.PREVIOUS_CODE, compete_as_is(s.series.provider)) for s in suspects]
    sides = [(Side(bench, case, [entry.contender for entry in entries], [timer]), entries)]
    if isinstance(previous, UnitBench):
        sides.append((Side(previous, case, [entry.contender for entry in earlier], [timer]), earlier))
    for side, _ in sides:
        side.check()
    for number, whose in enumerate(TURNS_OF_TWO if len(sides) == 2 else TURNS_OF_ONE):
        sides[whose][0].take_turn(number, timer)
    now = datetime.now(UTC)
    retrials = [
        make_retrial(entry, side.make_measurement(run_id, entry.contender.name, timer, now))
        for side, taking_part in sides
        for entry in taking_part
    ]
    if not isinstance(previous, UnitBench):
        retrials += [leave_out(entry, bench, run_id, previous) for entry in earlier]
    return retrials


def list_entries(suspects: Sequence[Suspect]) -> list[Entry]:
    """Who takes part in tonight's process: tonight's version, and the last good configuration where it is another."""
    entries = []
    for suspect in suspects:
        provider = suspect.series.provider
        entries.append(Entry(suspect, Version.TONIGHT, compete_as_is(provider)))
        takes_config = find_kernel(suspect.case.layer.kernel).providers[provider].prepare_with is not None
        if takes_config and suspect.good_config and dict(suspect.good_config) != dict(suspect.tonight_config):
            name = f"{provider}, {Version.LAST_GOOD_CONFIG}"
            entries.append(Entry(suspect, Version.LAST_GOOD_CONFIG, Contender(name, provider, suspect.good_config)))
    return entries


def make_retrial(entry: Entry, measurement: Measurement) -> Retrial:
    """What came of an entry; of_run is "" for tonight's version."""
    return Retrial(measurement, entry.version, "" if entry.version is Version.TONIGHT else entry.suspect.good_run)


def leave_out(entry: Entry, bench: UnitBench, run_id: str, why: Failure) -> Retrial:
    """A version that was not tried."""
    status, reason = why
    suspect, host = entry.suspect, bench.host
    check = Check(suspect.case, suspect.series.provider, status, host.host_id, reason)
    return make_retrial(entry, Measurement(run_id, check, suspect.series.timer, host.device, datetime.now(UTC)))
