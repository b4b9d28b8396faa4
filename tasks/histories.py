"""Every night of every series as columns: a year of ten thousand series is a few arrays, not millions of records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernels.ceilings import COPY, gemm_name
from tasks.records import Host, Point, Run, Series

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a night of a series was measured on and with."""

    host_id: str = ""
    config: str = "{}"
    """Launch configuration, as JSON."""
    source_sha256: str = ""
    compiled: str = "[]"
    """The Triton kernels that ran, as JSON."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The nights of one series, oldest first: columns of one length, not a number where nothing is known."""

    nights: Integers
    """Indices into Histories.runs."""
    median_us: Floats
    p20_us: Floats
    p80_us: Floats
    relative_error: Floats
    share_close: Floats
    settings: Integers
    """Indices into Histories.settings."""

    def __len__(self) -> int:
        return len(self.nights)


@dataclass(frozen=True, slots=True, eq=False)
class Histories(Mapping[Series, tuple[Point, ...]]):
    """The histories of many series; the points of one are made when they are asked for."""

    runs: tuple[Run, ...] = ()
    """In the order they were started."""
    hosts: Mapping[str, Host] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    columns: Mapping[Series, History] = field(default_factory=dict)
    rates: Mapping[str, Floats] = field(default_factory=dict)
    """Ceilings by name [runs, hosts], hosts in the order of `hosts`; not a number where one was not measured."""

    def __getitem__(self, series: Series) -> tuple[Point, ...]:
        history = self.columns[series]
        return tuple(self._make_point(history, row) for row in range(len(history)))

    def __iter__(self) -> Iterator[Series]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def _make_point(self, history: History, row: int) -> Point:
        run = self.runs[history.nights[row]]
        host = self.hosts.get(self.settings[history.settings[row]].host_id)
        return Point(
            run_id=run.run_id,
            started_at=run.started_at,
            median_us=float(history.median_us[row]),
            p20_us=float(history.p20_us[row]),
            p80_us=float(history.p80_us[row]),
            relative_error=_known(history.relative_error[row]),
            share_close=_known(history.share_close[row]),
            device_uuid=host.device_uuid if host else "",
        )

    def find_floors_us(self, history: History, bytes_moved: int, flops: int, gemm_dtype: str) -> Floats:
        """The floor of a case on each night, as tasks/floors.py tells tonight's; not a number without its ceilings.

        Args:
            bytes_moved: of the case, as the next; today's code counts them for every night.
            gemm_dtype: what tensor cores multiply; "" for a kernel that only moves bytes.
        """
        numbers = {host_id: number for number, host_id in enumerate(self.hosts)}
        of_settings = np.array([numbers.get(setting.host_id, -1) for setting in self.settings], dtype=np.int64)
        hosts = of_settings[history.settings]

        def rates_of(name: str) -> Floats:
            known = self.rates.get(name)
            if known is None:
                return np.full(len(history), np.nan)
            return np.where(hosts >= 0, known[history.nights, hosts], np.nan)

        copy_us = bytes_moved / 1e3 / rates_of(COPY)
        return np.maximum(copy_us, flops / 1e6 / rates_of(gemm_name(gemm_dtype))) if gemm_dtype else copy_us


def _known(value: float) -> float | None:
    """None for what is not a number."""
    return None if np.isnan(value) else float(value)


def narrow_histories(histories: Histories, wanted: Sequence[Series]) -> Histories:
    """Only some of the series."""
    columns = {series: histories.columns[series] for series in wanted if series in histories.columns}
    return Histories(histories.runs, histories.hosts, histories.settings, columns, histories.rates)
