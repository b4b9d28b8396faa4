"""The heat map of the front page: how much longer each kernel takes on each model's layers than a month ago."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dashboards.rows import KernelRows
from dashboards.words import tell_change
from tasks.judgement.histories import History
from tasks.nights import Night
from tasks.records import Series

NIGHTS_BACK = 30
STEPS = (0.01, 0.02, 0.05, 0.1)
"""Changes from which on a cell has the next colour."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kernel on the layers of one model, on one kind of device."""

    mean_change: float
    """Of the geometric mean of the series' ratios."""
    worst_change: float
    """Of the series that moved furthest."""
    worst: Series
    num_series: int

    @property
    def shade(self) -> str:
        """A class of the style sheet, by the mean, or by the worst series where that is far worse."""
        level = sum(abs(self.mean_change) >= step for step in STEPS)
        return f"{'slower' if self.mean_change > 0 else 'faster'}-{level}" if level else "level"


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One kind of device."""

    device_name: str
    kernels: tuple[str, ...]
    models: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    """By kernel and model; none where no series has an earlier night."""
    nights_back: tuple[int, int]
    """Fewest and most nights that were compared over."""


def find_ratio(history: History, tonight: int) -> tuple[float, int] | None:
    """Tonight's time over that of NIGHTS_BACK nights ago, and how many nights that were; None without either.

    What it took then is the median of the night and its neighbours; of a younger series, of its first nights.
    """
    if history.nights[-1] != tonight or len(history) < 2:
        return None
    then = max(int(np.searchsorted(history.nights, tonight - NIGHTS_BACK, "right")) - 1, 0)
    around = history.median_us[max(then - 1, 0) : min(then + 2, len(history) - 1)]
    return float(history.median_us[-1] / np.median(around)), int(tonight - history.nights[then])


def find_ratios(night: Night) -> dict[Series, tuple[float, int]]:
    """Of every series that was timed tonight and before."""
    tonight = next((n for n, run in enumerate(night.trends.runs) if run.run_id == night.run.run_id), -1)
    found = {series: find_ratio(history, tonight) for series, history in night.trends.columns.items()}
    return {series: ratio for series, ratio in found.items() if ratio}


def map_heat(kernels: Sequence[KernelRows], ratios: dict[Series, tuple[float, int]]) -> list[HeatMap]:
    """One map for each kind of device."""
    by_cell: dict[str, dict[tuple[str, str], list[Series]]] = {}
    for kernel in kernels:
        for layer in kernel.layers:
            for row in layer.rows:
                if row.series in ratios:
                    of_device = by_cell.setdefault(row.series.device_name, {})
                    of_device.setdefault((kernel.name, layer.model), []).append(row.series)
    maps = []
    for device_name, cells in by_cell.items():
        back = [ratios[series][1] for found in cells.values() for series in found]
        maps.append(
            HeatMap(
                device_name=device_name,
                kernels=tuple(dict.fromkeys(kernel for kernel, _ in cells)),
                models=tuple(sorted({model for _, model in cells})),
                cells={place: make_cell(found, ratios) for place, found in cells.items()},
                nights_back=(min(back), max(back)),
            )
        )
    return maps


def make_cell(found: Sequence[Series], ratios: dict[Series, tuple[float, int]]) -> Cell:
    """Many series as one."""
    logs = {series: math.log(ratios[series][0]) for series in found}
    worst = max(found, key=lambda series: abs(logs[series]))
    return Cell(math.expm1(sum(logs.values()) / len(logs)), math.expm1(logs[worst]), worst, len(found))


def tell_heat(maps: Iterable[HeatMap]) -> list[dict[str, object]]:
    """The cells as lines of a CSV."""
    return [
        {
            "device": found.device_name,
            "kernel": kernel,
            "model": model,
            "mean_change": cell.mean_change,
            "worst_change": cell.worst_change,
            "worst_case": cell.worst.case_key,
            "worst_provider": cell.worst.provider,
            "num_series": cell.num_series,
        }
        for found in maps
        for (kernel, model), cell in found.cells.items()
    ]


def tell_cell(cell: Cell) -> str:
    """What hovering over a cell says."""
    return f"{cell.num_series} series, mean {tell_change(cell.mean_change)}, furthest {tell_change(cell.worst_change)}"
