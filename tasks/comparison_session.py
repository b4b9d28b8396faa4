"""What a comparison holds open while it lasts, and what of its units is still to be measured."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tasks.commits.archive import Archive, open_archive
from tasks.commits.comparisons import Comparison, Contrast, Sitting
from tasks.commits.paired import FEW_SITTINGS, LOOKS, judge_sittings
from tasks.commits.refs import tell_commit
from tasks.commits.sittings import sit
from tasks.errors import WorkerError
from tasks.lines import print_line
from tasks.pool import WorkerPool, open_workers
from tasks.records import Series, State, WorkUnit
from tasks.storage.comparison_store import ComparisonStore
from tasks.workers import Worker


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a comparison."""

    comparison: Comparison
    contrasts: tuple[Contrast, ...]
    sittings: int
    seconds: float
    """Of all sittings; several devices sit at the same time."""


class ComparisonSession:
    """Open comparisons. Not a dataclass, so that Prefect passes it on as it is instead of walking through it."""

    def __init__(
        self,
        store: ComparisonStore,
        workers: WorkerPool,
        archive: Archive,
        console: Console,
        budget_seconds: float,
    ) -> None:
        self.store = store
        self.workers = workers
        self.archive = archive
        self._console = console
        self._budget_seconds = budget_seconds
        """Of one unit: what it may take beyond its first FEW_SITTINGS."""

    def tell(self, line: str) -> None:
        """Print a line."""
        print_line(self._console, line)

    def announce(self, comparison: Comparison, units: Sequence[WorkUnit]) -> None:
        """Say what is compared, and where."""
        devices = ", ".join(f"{number} x {name}" for name, number in self.workers.devices().items())
        head, base = tell_commit(comparison.head_commit), tell_commit(comparison.base_commit)
        self.tell(f"{comparison.head} ({head}) against {comparison.base} ({base}): {len(units)} units on {devices}")

    def list_undecided(
        self, comparison: Comparison, units: Sequence[WorkUnit], devices: Collection[str], look: int
    ) -> Mapping[str, Sequence[WorkUnit]]:
        """By device name, the units that are to have `look` sittings: new ones, those in doubt, and interrupted ones.

        What was interrupted between two looks is not judged there: the p-value does not pay for it.
        """
        sittings = self.store.sittings(comparison.comparison_id)
        open_series = {c.series for c in judge_sittings(sittings, comparison.least_change) if is_undecided(c)}
        lines: dict[str, list[WorkUnit]] = {}
        for device in devices:
            for unit in units:
                done = [s for s in sittings if (s.layer_key, s.device_name) == (unit.key, device)]
                is_open = not done or any(m.series in open_series for m in done[-1].head)
                is_between_looks = bool(done) and len(done) not in LOOKS and can_be_compared(done[-1])
                if (is_open or is_between_looks) and self._has_time(done, look):
                    lines.setdefault(device, []).append(unit)
        return lines

    def _has_time(self, done: Sequence[Sitting], look: int) -> bool:
        """Whether a unit with these sittings may have another before that look."""
        spent = sum(sitting.seconds for sitting in done)
        return len(done) < look and (len(done) < FEW_SITTINGS or spent < self._budget_seconds)

    def sit_until(self, comparison: Comparison, worker: Worker, unit: WorkUnit, look: int) -> None:
        """Sittings of one unit until there are `look` of them, or no time is left, or nothing can be compared.

        Raises:
            WorkerLost: the worker's device or machine is gone; what it has measured is stored.
        """
        device = worker.host().device.name
        stored = self.store.sittings(comparison.comparison_id)
        done = [s for s in stored if (s.layer_key, s.device_name) == (unit.key, device)]
        while self._has_time(done, look) and (not done or can_be_compared(done[-1])):
            sitting, host = sit(worker, unit, comparison, len(done), self.archive)
            self.store.commit_sitting(sitting, host)
            done.append(sitting)
            self.tell(tell_sitting(sitting, unit))

    def recall(self, asked: Comparison, series: Series) -> Outcome | None:
        """An earlier comparison of the same commits that has told of a series, judged as is asked for now."""
        for earlier in reversed(self.store.comparisons()):
            is_same = all(
                getattr(earlier, name) == getattr(asked, name) for name in ("head_commit", "base_commit", "seed")
            )
            if is_same and earlier.status == "complete":
                outcome = self.read(replace(earlier, least_change=asked.least_change))
                found = [c for c in outcome.contrasts if c.series == series and not is_undecided(c)]
                if found:
                    return replace(outcome, contrasts=tuple(found))
        return None

    def conclude(self, comparison: Comparison) -> Outcome:
        """Judge what was measured, and store that the comparison has ended: complete, or partial if units are left."""
        status = "partial" if self.workers.num_left else "complete"
        ended = replace(comparison, status=status, finished_at=datetime.now(UTC))
        self.store.finish(ended)
        return self.read(ended)

    def read(self, comparison: Comparison) -> Outcome:
        """What a comparison has come to."""
        sittings = self.store.sittings(comparison.comparison_id)
        contrasts = judge_sittings(sittings, comparison.least_change)
        return Outcome(comparison, tuple(contrasts), len(sittings), sum(sitting.seconds for sitting in sittings))


def is_undecided(contrast: Contrast) -> bool:
    """Whether more sittings could tell more."""
    return contrast.state is State.AMBIGUOUS


def can_be_compared(sitting: Sitting) -> bool:
    """Whether any series has times on both sides."""
    timed = {measurement.series for measurement in sitting.base if measurement.samples_us}
    return any(measurement.samples_us and measurement.series in timed for measurement in sitting.head)


def tell_sitting(sitting: Sitting, unit: WorkUnit) -> str:
    """One line of progress."""
    both = {m.series for m in sitting.head if m.samples_us} & {m.series for m in sitting.base if m.samples_us}
    where = f"{unit.layer.kernel} {unit.layer.label} {unit.layer.scheme} on {sitting.device_name}"
    return f"sitting {sitting.number + 1} of {where}: {len(both)} series on both sides ({sitting.seconds:.1f} s)"


@contextmanager
def open_comparisons(
    device_type: str, save_dir: Path, address: str, console: Console, budget_seconds: float
) -> Iterator[ComparisonSession]:
    """Open everything that comparisons need; what is interrupted is stored as such, and goes on when asked again."""
    with ExitStack() as stack:
        store = stack.enter_context(ComparisonStore.open(save_dir))
        stack.callback(store.publish)
        workers = stack.enter_context(open_workers(device_type, address, most_companions=0))
        archive = stack.enter_context(open_archive(save_dir))
        yield ComparisonSession(store, workers, archive, console, budget_seconds)


@contextmanager
def noting_the_end(store: ComparisonStore, comparison: Comparison) -> Iterator[None]:
    """Store how a comparison ends that does not come to its end."""
    status = "interrupted"  # by whatever is no Exception: Ctrl-C, or SIGTERM as Prefect or Python raise it
    try:
        yield
        status = ""
    except WorkerError:
        status = "partial"
        raise
    except Exception:
        status = "failed"
        raise
    finally:
        if status:
            store.finish(replace(comparison, status=status, finished_at=datetime.now(UTC)))
