"""Every night of every series as columns: a year of ten thousand series is a few arrays, not millions of records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

import numpy as np
from numpy.typing import NDArray

from kernels.rates import COPY, gemm_name
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
        runs = [self.runs[night] for night in history.nights.tolist()]
        hosts = [self.hosts.get(self.settings[setting].host_id) for setting in history.settings.tolist()]
        columns = history.median_us, history.p20_us, history.p80_us, history.relative_error, history.share_close
        values = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(
            Point(
                run.run_id, run.started_at, us, p20, p80, _known(error), _known(share), host.device_uuid if host else ""
            )
            for run, host, (us, p20, p80, error, share) in zip(runs, hosts, values, strict=True)
        )

    def __iter__(self) -> Iterator[Series]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

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
    return None if isnan(value) else value


def narrow_histories(histories: Histories, wanted: Sequence[Series]) -> Histories:
    """Only some of the series."""
    columns = {series: histories.columns[series] for series in wanted if series in histories.columns}
    return Histories(histories.runs, histories.hosts, histories.settings, columns, histories.rates)
