"""What a run holds open while it lasts: its store, its workers, its progress display and its clock."""

import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from tasks.ahead import AheadReport
from tasks.channels.letters import Channel
from tasks.checkout import read_git_state
from tasks.clock import Clock, find_process_seconds
from tasks.commits.archive import Archive, open_archive
from tasks.errors import WorkerError
from tasks.judgement.findings import Past
from tasks.lines import print_line
from tasks.planning.cases import Plan, Selection
from tasks.planning.order import line_up
from tasks.pool import WorkerPool, open_workers
from tasks.progress import RunProgress
from tasks.quarantine import Quarantine
from tasks.records import Host, Run, Suspect, UnitResult, WorkUnit
from tasks.retrial import make_units
from tasks.storage.store import Store
from tasks.workers import Worker

MOMENT = "%Y-%m-%d %H:%M:%S UTC"
"""How a time is told."""


class Session:
    """An open run. Not a dataclass, so that Prefect passes it on as it is instead of walking through it."""

    def __init__(
        self,
        run: Run,
        lines: Mapping[str, list[WorkUnit]],
        store: Store,
        workers: WorkerPool,
        progress: RunProgress,
        console: Console,
        clock: Clock,
        channels: Sequence[Channel],
        archive: Archive,
    ) -> None:
        self.run = run
        self.lines = lines
        """By device name, the units that this run has still to measure on it, in order."""
        self.store = store
        self.workers = workers
        self.progress = progress
        self.console = console
        self.clock = clock
        self.channels = channels
        """Who is told."""
        self.archive = archive
        """The code of past commits."""
        self.past: Past | None = None
        """What the run is judged by, once all its units are measured."""
        self.quarantine = Quarantine(run.run_id, store.crashes(run.run_id), store.commit_crash)
        self._hosts_with_ceilings = {ceiling.host_id for ceiling in store.ceilings(run.run_id)}
        self._devices_without_clocks: set[str] = set()
        """Names of those that the console was told of."""
        self._lock = threading.Lock()

    def share_out(self) -> Iterator[tuple[WorkUnit, Worker]]:
        """Each unit that is left with the next idle worker of its device; waits until there is one."""
        return self.workers.share_out(self.lines, self.tell)

    def share_out_again(self, suspects: Sequence[Suspect]) -> Iterator[tuple[WorkUnit, Worker]]:
        """The suspects of each layer as a unit, with the next idle worker of their device."""
        return self.workers.share_out(make_units(suspects), self.tell, again=True)

    def tell(self, line: str) -> None:
        """Print a line above the progress bar."""
        print_line(self.console, line)

    def lacks_ceilings(self, host: Host) -> bool:
        """Whether nobody has measured what a host does at best in this run: true once, for whoever asks first."""
        with self._lock:
            is_first = host.host_id not in self._hosts_with_ceilings
            self._hosts_with_ceilings.add(host.host_id)
        return is_first

    def tell_of_missing_clocks(self, result: UnitResult) -> None:
        """Say, once for each kind of GPU, that it was timed without a look at its clocks."""
        device = result.host.device
        trials = (trial for measurement in result.measurements for trial in measurement.trials)
        if device.type != "cuda" or all(trial.state for trial in trials):
            return
        with self._lock:
            is_told = device.name in self._devices_without_clocks
            self._devices_without_clocks.add(device.name)
        if not is_told:
            self.tell(f"no clocks of {device.name}: NVML does not answer there; a throttled GPU goes unnoticed")


class Workshop:
    """What tuning holds open while it lasts; an ordinary class for the same reason as Session."""

    def __init__(self, store: Store, workers: WorkerPool, console: Console) -> None:
        self.store = store
        self.workers = workers
        self.console = console


@contextmanager
def open_workshop(device_type: str, save_dir: Path, address: str, console: Console) -> Iterator[Workshop]:
    """Open the store and the workers; whoever reads the store finds what was tuned."""
    with Store.open(save_dir) as store, open_workers(device_type, address, most_companions=1) as workers:
        _announce_devices(console, workers)
        try:
            yield Workshop(store, workers, console)
        finally:
            store.publish()


def new_run(suite: str, selection: Selection, device_type: str, seed: int, run_id: str = "") -> Run:
    """A run about to start; without an id the store gives it one."""
    started_at = datetime.now(UTC)
    commit, dirty = read_git_state()
    asked = {entry.name: getattr(selection, entry.name) for entry in fields(selection)}
    whole_suite = Selection()
    arguments = {name: value for name, value in asked.items() if value != getattr(whole_suite, name)}
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    arguments["device"] = device_type
    return Run(run_id, suite, arguments, seed, commit, dirty, started_at)


@contextmanager
def open_session(
    run: Run,
    plan: Plan,
    device_type: str,
    save_dir: Path,
    address: str,
    console: Console,
    channels: Sequence[Channel] = (),
) -> Iterator[Session]:
    """Open everything a run needs, and store how it ended: complete, partial, interrupted or failed.

    A run whose id is already in the store is resumed: only the units it lacks are left to measure. Every unit is
    measured once on each kind of device there is.
    """
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(save_dir))
        run = store.begin_run(run)
        clock = Clock(dict(run.stage_seconds))
        clock.add("start", find_process_seconds())
        done = store.measured_units(run.run_id)
        _announce(console, run, plan, done)
        _announce_clock(console, run, store.runs())
        store.publish()  # whoever kills this run finds its id
        stack.callback(store.publish)
        status = "interrupted"  # by whatever is no Exception: Ctrl-C, or SIGTERM as Prefect or Python raise it
        try:
            with clock.measure("start workers"):
                workers = stack.enter_context(open_workers(device_type, address))
            lines = line_up(plan.units, workers.devices(), done, store.last_unit_seconds())
            _announce_devices(console, workers)
            progress = stack.enter_context(RunProgress(console, lines))
            archive = stack.enter_context(open_archive(save_dir))
            yield Session(run, lines, store, workers, progress, console, clock, channels, archive)
            _announce_ahead(console, workers.take_ahead_reports())
            status = "partial" if workers.num_left else "complete"
        except WorkerError:
            status = "partial"
            raise
        except Exception:
            status = "failed"
            raise
        finally:
            seconds = {stage: round(value, 3) for stage, value in clock.seconds.items()}
            store.finish_run(replace(run, status=status, finished_at=datetime.now(UTC), stage_seconds=seconds))


def _announce_ahead(console: Console, reports: Sequence[AheadReport]) -> None:
    """Say what was compiled while something else was timed."""
    if reports:
        compiled, found = sum(report.compiled for report in reports), sum(report.found for report in reports)
        seconds = sum(report.seconds for report in reports)
        num_units = len({report.unit_key for report in reports})
        told = f"compiled ahead: {compiled} kernels of {num_units} units in {seconds:.0f} s, {found} were cached"
        print_line(console, told)
    left_out = {f"{name}: {reason}" for report in reports for name, reason in report.left_out.items()}
    for reason in sorted(left_out):
        print_line(console, f"not compiled ahead: {reason}")


def tell_left_out(console: Console, plan: Plan) -> None:
    """Say what was asked for and will not run."""
    for reason in plan.left_out:
        print_line(console, f"left out: {reason}")


def _announce(console: Console, run: Run, plan: Plan, done: Set[tuple[str, str]]) -> None:
    """Say what is about to run, and what will not."""
    tell_left_out(console, plan)
    layers_done = {layer_key for layer_key, _ in done}
    kept = sum(unit.key in layers_done for unit in plan.units)
    resumed = f", {kept} of them measured before" if kept else ""
    print_line(console, f"run {run.run_id}: suite {run.suite}, {len(plan.units)} units{resumed}")


def _announce_clock(console: Console, run: Run, runs: Sequence[Run]) -> None:
    """Say that the clock went back between a new run and the one before it, if it did."""
    for before, newest in pairwise(runs[-2:]):
        if newest.run_id == run.run_id and newest.started_at < before.started_at:
            told = f"run {before.run_id} started at {before.started_at:{MOMENT}}, this one at {run.started_at:{MOMENT}}"
            print_line(console, f"the clock went back: {told}; runs are ordered as they were started")


def _announce_devices(console: Console, workers: WorkerPool) -> None:
    """Say what the run is spread over, and which workers did not start."""
    for loss in workers.losses:
        print_line(console, loss)
    devices = workers.devices()
    if devices.total() > 1:
        told = ", ".join(f"{number} x {device}" for device, number in devices.items())
        print_line(console, f"on {told}")
