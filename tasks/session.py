"""What a run holds open while it lasts: its store, its workers, its progress display and its clock."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tasks.cases import Plan, Selection
from tasks.errors import WorkerError
from tasks.progress import RunProgress
from tasks.provenance import read_git_state
from tasks.records import Host, Run, WorkUnit
from tasks.store import Store
from tasks.workers import WorkerPool, open_workers


@dataclass(slots=True)
class Clock:
    """Seconds spent in each stage, summed over workers; safe to use from any thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Session:
    """An open run. Not a dataclass, so that Prefect passes it on as it is instead of walking through it."""

    def __init__(
        self,
        run: Run,
        units: tuple[WorkUnit, ...],
        store: Store,
        workers: WorkerPool,
        progress: RunProgress,
        console: Console,
        clock: Clock,
    ) -> None:
        self.run = run
        self.units = units
        """Units that this run has still to measure."""
        self.store = store
        self.workers = workers
        self.progress = progress
        self.console = console
        self.clock = clock
        self._hosts_with_ceilings = {ceiling.host_id for ceiling in store.ceilings(run.run_id)}

    def lacks_ceilings(self, host: Host) -> bool:
        """Whether nobody has measured what a host does at best in this run: true once, for whoever asks first."""
        if host.host_id in self._hosts_with_ceilings:
            return False
        self._hosts_with_ceilings.add(host.host_id)
        return True


def new_run(suite: str, selection: Selection, device_type: str, seed: int, run_id: str = "") -> Run:
    """A run about to start; without an id it gets one from the time."""
    started_at = datetime.now(UTC)
    commit, dirty = read_git_state()
    asked = {entry.name: getattr(selection, entry.name) for entry in fields(selection)}
    whole_suite = Selection()
    arguments = {name: value for name, value in asked.items() if value != getattr(whole_suite, name)}
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    arguments["device"] = device_type
    return Run(run_id or f"{started_at:%Y%m%dT%H%M%SZ}", suite, arguments, seed, commit, dirty, started_at)


@contextmanager
def open_session(
    run: Run, plan: Plan, device_type: str, save_dir: Path, address: str, console: Console
) -> Iterator[Session]:
    """Open everything a run needs, and store how it ended: complete, partial, interrupted or failed.

    A run whose id is already in the store is resumed: only the units it lacks are left to measure.
    """
    clock = Clock()
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(save_dir))
        run = store.begin_run(run)
        done = store.measured_layers(run.run_id)
        left = tuple(unit for unit in plan.units if unit.key not in done)
        _announce(console, run, plan, left)
        store.publish()  # whoever kills this run finds its id
        stack.callback(store.publish)
        status = "failed"
        try:
            with clock.measure("start workers"):
                workers = stack.enter_context(open_workers(device_type, address))
            progress = stack.enter_context(RunProgress(console, left))
            yield Session(run, left, store, workers, progress, console, clock)
            status = "complete"
        except WorkerError:
            status = "partial"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            seconds = {stage: round(value, 3) for stage, value in clock.seconds.items()}
            store.finish_run(replace(run, status=status, finished_at=datetime.now(UTC), stage_seconds=seconds))


def _announce(console: Console, run: Run, plan: Plan, left: tuple[WorkUnit, ...]) -> None:
    """Say what is about to run, and what will not."""
    for reason in plan.left_out:
        console.print(f"left out: {reason}", highlight=False, soft_wrap=True)
    kept = len(plan.units) - len(left)
    resumed = f", {kept} of them measured before" if kept else ""
    console.print(f"run {run.run_id}: suite {run.suite}, {len(plan.units)} units{resumed}", highlight=False)
