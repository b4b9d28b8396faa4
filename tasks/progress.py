"""Where a run is: a live bar with time left on a terminal, one plain line per unit elsewhere."""

import threading
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kernels.spec import Case
from tasks.records import WorkUnit


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
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
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
        self._console.print(
            f"unit {done}/{total}  {where}: {summary}  ({left:.0f} s left)", soft_wrap=True, highlight=False
        )

    def _describe(self, text: str) -> None:
        if self._bar:
            counted = f"{self._units_done}/{len(self._units)} units  {text}"
            self._bar.update(self._bar_task, description=counted)
