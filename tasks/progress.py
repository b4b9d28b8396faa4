"""Where a run is: a live bar with time left on a terminal, one plain line per unit elsewhere."""

import threading
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kernels.spec import Case
from tasks.lines import print_line
from tasks.records import WorkUnit
from tasks.tuning.plan import Outcome

LINE_SECONDS = 10.0
"""Between two lines of a search that has decided nothing yet."""


def make_bar(console: Console) -> Progress:
    """A bar that is gone when it has ended."""
    told = TextColumn("{task.description}", markup=False)
    return Progress(told, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)


class RunProgress:
    """Counts units done, and shows the case in hand. Every method may be called from any thread."""

    def __init__(self, console: Console, lines: Mapping[str, Sequence[WorkUnit]]) -> None:
        """
        Args:
            lines: by device name, the units that it is to measure.
        """
        self._console = console
        self._units = [unit for line in lines.values() for unit in line]
        self._has_several_kinds = len(lines) > 1
        self._units_done = 0
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._bar_task = TaskID(0)

    def __enter__(self) -> "RunProgress":
        if self._console.is_terminal:
            self._bar = make_bar(self._console)
            steps = sum(2 * len(unit.cases) * len(unit.providers) for unit in self._units)
            self._bar_task = self._bar.add_task("starting", total=steps)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def counted(self) -> tuple[int, int]:
        """Units done, and units to do in all."""
        return self._units_done, len(self._units)

    def begin_stage(self, stage: str, unit: WorkUnit) -> None:
        """Say what is being done to which unit."""
        self._describe(f"{unit.layer.kernel} {unit.layer.label}: {stage}")

    def tell(self, case: Case, provider: str) -> None:
        """One provider was checked or timed on one case."""
        if self._bar:
            self._bar.advance(self._bar_task)
            self._describe(f"{case.layer.kernel} {case.label} {provider}")

    def end_unit(self, unit: WorkUnit, device_name: str, summary: str) -> None:
        """A unit is in the store, as measured on a device of that name."""
        with self._lock:
            self._units_done += 1
            done, total = self._units_done, len(self._units)
        elapsed = time.monotonic() - self._started
        left = elapsed / done * (total - done)
        where = f"{unit.layer.kernel} {unit.layer.label} {unit.layer.scheme}"
        if self._has_several_kinds:
            where += f" on {device_name}"
        print_line(self._console, f"unit {done}/{total}  {where}: {summary}  ({left:.0f} s left)")

    def _describe(self, text: str) -> None:
        if self._bar:
            counted = f"{self._units_done}/{len(self._units)} units  {text}"
            self._bar.update(self._bar_task, description=counted)


class SearchProgress:
    """Where a search for configurations is: a bar on a terminal, elsewhere a line now and then; and every decision."""

    def __init__(self, console: Console, label: str) -> None:
        """
        Args:
            label: of what is tuned.
        """
        self._console = console
        self._label = label
        self._started = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._bar_task = TaskID(0)

    def __enter__(self) -> "SearchProgress":
        if self._console.is_terminal:
            self._bar = make_bar(self._console)
            self._bar_task = self._bar.add_task(f"tuning {self._label}", total=None)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def tell(self, done: int, steps: int, decided: Sequence[Outcome]) -> None:
        """So many steps of a search are done; the last of them decided some batch sizes."""
        now = time.monotonic()
        left = (now - self._started) / done * (steps - done)
        if self._bar:
            self._bar.update(self._bar_task, completed=done, total=steps)
        elif not decided and now - self._told >= LINE_SECONDS:
            self._print(f"  searching: {done} of {steps} steps  ({left:.0f} s left)")
            self._told = now
        for outcome in decided:
            took = f"{outcome.num_configs} configurations in {outcome.seconds:.1f} s"
            self._print(f"  batch size {outcome.batch_size}: {outcome.verdict.reason}; {took}  ({left:.0f} s left)")

    def _print(self, line: str) -> None:
        print_line(self._console, line)
