"""A Night arranged for reading: kernel -> layer -> panel (one set of axes) -> row (one provider on one case)."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from kernels.spec import Layer
from tasks.records import Measurement, Night, Point, Series, State, Status, Verdict

K = TypeVar("K")
V = TypeVar("V")

STATE_ORDER = (
    State.SLOW,
    State.WRONG,
    State.FAILED,
    State.MISSING,
    State.AMBIGUOUS,
    State.FAST,
    State.NEW,
    State.SAME,
    State.UNSUPPORTED,
)
"""Worst first."""
QUIET_STATES = frozenset({State.SAME, State.NEW, State.UNSUPPORTED})
"""States that nobody has to look at."""


@dataclass(frozen=True, slots=True)
class Row:
    """One series in this night: what was measured, what it was compared with, and the verdict."""

    series: Series
    layer_key: str
    num_tokens: int
    """0 where the key of an old night does not tell."""
    options: str
    """Values of the case's options, "" without any."""
    measurement: Measurement | None
    """None for a series that is missing from the run."""
    verdict: Verdict | None
    median_us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    reference: str = ""
    """The fastest vLLM provider of the case, else the kernel's baseline; "" if neither ran."""
    speedup: float | None = None
    """Median of the reference / median of this row: above 1 is faster than the reference."""

    @property
    def provider(self) -> str:
        return self.series.provider

    @property
    def status(self) -> str:
        """The measurement's status, "missing" without one."""
        return self.measurement.status.value if self.measurement else "missing"

    @property
    def state(self) -> State | None:
        return self.verdict.state if self.verdict else None

    @property
    def case_label(self) -> str:
        """Tokens and options: what tells the cases of one layer apart."""
        return f"M={self.num_tokens} {self.options}".strip() if self.num_tokens else self.series.case_key

    @property
    def tflops(self) -> float | None:
        """Tera floating-point operations per second at the median."""
        if self.measurement is None or not self.median_us:
            return None
        return self.measurement.check.flops / self.median_us / 1e6

    @property
    def gbytes_per_second(self) -> float | None:
        """Least gigabytes moved per second at the median."""
        if self.measurement is None or not self.median_us:
            return None
        return self.measurement.check.bytes_moved / self.median_us / 1e3


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows that share axes: one layer, one set of options, one device, one timer."""

    options: str
    device_name: str
    timer: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class LayerRows:
    """A layer with its panels, in the order of the measurements."""

    key: str
    label: str
    scheme: str
    """"" for a layer that is only known from an earlier night."""
    sizes: str
    panels: tuple[Panel, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for panel in self.panels for row in panel.rows)

    @property
    def anchor(self) -> str:
        """The id of the layer's section, stable across nights."""
        return f"layer-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class KernelRows:
    """Everything the page of one kernel shows."""

    name: str
    title: str
    """"" for a kernel that is no longer in the code."""
    layers: tuple[LayerRows, ...]
    trends: Mapping[Series, tuple[Point, ...]] = field(hash=False)
    """History of the kernel's series, oldest night first."""

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for layer in self.layers for row in layer.rows)

    @property
    def slug(self) -> str:
        """The name as it stands in file names."""
        safe = re.sub(r"[^A-Za-z0-9_-]", "-", self.name)
        return safe if safe == self.name else f"{safe}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    @property
    def counts(self) -> dict[State, int]:
        """Verdicts by state, worst first, states that did not occur left out."""
        return count_states(row.verdict for row in self.rows if row.verdict)


def count_states(verdicts: Iterable[Verdict]) -> dict[State, int]:
    """Count verdicts by state, worst first, states that did not occur left out."""
    counts = Counter(verdict.state for verdict in verdicts)
    return {state: counts[state] for state in STATE_ORDER if counts[state]}


def arrange_night(night: Night, describe: Callable[[str], tuple[str, str]]) -> tuple[KernelRows, ...]:
    """Arrange a night by kernel, layer and panel.

    Args:
        describe: kernel name -> its (title, baseline provider), ("", "") for a kernel that is no longer in the code.
    """
    layers = {m.check.case.layer.key: m.check.case.layer for m in night.measurements}
    kernels = []
    for name, rows in group(collect_rows(night), lambda row: row.series.case_key.partition("/")[0]).items():
        title, baseline = describe(name)
        by_layer = group(compare_rows(rows, baseline), lambda row: row.layer_key)
        kernels.append(
            KernelRows(
                name=name,
                title=title,
                layers=tuple(arrange_layer(key, layers.get(key), found) for key, found in by_layer.items()),
                trends={row.series: night.trends[row.series] for row in rows if row.series in night.trends},
            )
        )
    return tuple(kernels)


def arrange_layer(key: str, layer: Layer | None, rows: list[Row]) -> LayerRows:
    """Split the rows of a layer into panels; a layer that was not measured is known by its key alone."""
    panels = group(rows, lambda row: (row.options, row.series.device_name, row.series.timer))
    return LayerRows(
        key=key,
        label=layer.label if layer else key.partition("/")[2].rpartition("/")[0] or key,
        scheme=layer.scheme if layer else "",
        sizes=", ".join(f"{name} {size}" for name, size in layer.sizes.items()) if layer else "",
        panels=tuple(
            Panel(*axes, rows=tuple(sorted(found, key=lambda row: row.num_tokens))) for axes, found in panels.items()
        ),
    )


def collect_rows(night: Night) -> list[Row]:
    """One row per measurement, in their order, then one per verdict on a series that was not measured."""
    verdicts = {verdict.series: verdict for verdict in night.verdicts}
    measured = {measurement.series for measurement in night.measurements}
    rows = [make_row(m.series, m, verdicts.get(m.series)) for m in night.measurements]
    return rows + [make_row(series, None, verdict) for series, verdict in verdicts.items() if series not in measured]


def make_row(series: Series, measurement: Measurement | None, verdict: Verdict | None) -> Row:
    """Read the case off the series' key and the quantiles off the samples."""
    layer_key, _, tail = series.case_key.rpartition("/num_tokens=")
    tokens, *options = tail.split("/")
    row = Row(
        series=series,
        layer_key=layer_key or series.case_key,
        num_tokens=int(tokens) if tokens.isdigit() else 0,
        options=" ".join(option.partition("=")[2] for option in options),
        measurement=measurement,
        verdict=verdict,
    )
    if measurement is None or not measurement.samples_us:
        return row
    p20, p80 = np.percentile(measurement.samples_us, (20, 80))
    return replace(row, median_us=measurement.median_us, p20_us=float(p20), p80_us=float(p80))


def compare_rows(rows: list[Row], baseline: str) -> list[Row]:
    """Give every row its reference and its speed-up against it; only rows of one case, device and timer compare."""
    by_case = group(rows, same_case)
    references = {case: find_reference(found, baseline) for case, found in by_case.items()}
    compared = []
    for row in rows:
        reference = references[same_case(row)]
        if reference is not None and reference.median_us is not None:
            speedup = reference.median_us / row.median_us if row.median_us else None
            compared.append(replace(row, reference=reference.provider, speedup=speedup))
        else:
            compared.append(row)
    return compared


def same_case(row: Row) -> tuple[str, str, str]:
    """What two rows must share to be compared."""
    return row.series.case_key, row.series.device_name, row.series.timer


def find_reference(rows: list[Row], baseline: str) -> Row | None:
    """The fastest vLLM provider of a case, else the baseline, else None."""
    timed = [row for row in rows if row.status == Status.OK and row.median_us]
    vllm = [row for row in timed if is_vllm(row.provider)]
    candidates = vllm or [row for row in timed if row.provider == baseline]
    return min(candidates, key=lambda row: row.median_us or 0.0, default=None)


def is_vllm(provider: str) -> bool:
    """Providers that call vLLM are named after it."""
    return provider.startswith("vllm")


def group(items: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    """Group items by key, keys in order of first appearance."""
    groups: dict[K, list[V]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
