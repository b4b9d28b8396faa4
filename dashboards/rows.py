"""The records of a night arranged for reading: a row is one provider on one case (dashboards/arrangement.py)."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from dashboards.trials import TrialSummary, summarize_trials
from tasks.intervals import Interval
from tasks.judgement.accuracy import compare_errors, is_jump
from tasks.judgement.histories import Histories
from tasks.judgement.references import ReferenceChange
from tasks.records import Measurement, Series, State, Status, Verdict

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
MAIN_TIMER = "graph"
"""Shown first where a kernel was timed in several ways."""


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as fast as another provider a provider was, on one case under one timer."""

    ratio: float
    """Above 1 is faster: the median of the ratios of their rounds, or the ratio of their medians."""
    interval: Interval | None = None
    """Of the ratios of their rounds; None where it is the ratio of their medians."""
    is_timed_alone: bool = False
    """They share no round, though it was noted who was timed in which."""

    @property
    def half_width(self) -> float | None:
        """The plus or minus, as a share of the ratio; None where it is not known."""
        return known_half_width(self.interval)


@dataclass(frozen=True, slots=True)
class Row:
    """One series in this night: what was measured, what it was compared with, and the verdict."""

    series: Series
    layer_key: str
    num_tokens: int
    """0 where the key of an old night does not tell."""
    options: str
    """Labels of the case's options, "" without any."""
    measurement: Measurement | None
    """None for a series that is missing from the run."""
    verdict: Verdict | None
    median_us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    interval: Interval | None = None
    """Where the true median lies; unbounded for few samples."""
    reference: str = ""
    """The fastest vLLM provider of the case, else the kernel's baseline; "" if neither ran."""
    speedup_over_vllm: Speedup | None = None
    """Against the fastest vLLM provider; None where either was not timed."""
    speedup_over_baseline: Speedup | None = None
    """The same against the kernel's baseline."""
    machine: ReferenceChange | None = None
    """The reference kernel that fared worst beside the case, against the runs before; None where they timed none."""
    floor_us: float | None = None
    """Least time of the case on this host (tasks/floors.py); None where a ceiling was not measured."""
    earlier_error: float | None = None
    """Median of the earlier nights' relative errors; None without history."""
    incident_id: str = ""
    """Of the incident that it belongs to, "" for none."""
    since: datetime | None = None
    """Start of the run that its verdict holds since, UTC; None where it holds for this night alone."""

    @property
    def anchor(self) -> str:
        """The id of the row on the page of its kernel, stable across nights."""
        return f"row-{hashlib.sha256(repr(self.series).encode()).hexdigest()[:12]}"

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
    def is_loud(self) -> bool:
        """Whether somebody has to look at it."""
        return self.state is not None and self.state not in QUIET_STATES

    @property
    def case_label(self) -> str:
        """Tokens and options: what tells the cases of one layer apart."""
        return f"M={self.num_tokens} {self.options}".strip() if self.num_tokens else self.series.case_key

    @property
    def num_samples(self) -> int:
        """Those that count."""
        return len(self.measurement.samples_us) if self.measurement else 0

    @property
    def trials(self) -> TrialSummary | None:
        """How the samples were taken; None where that was not noted."""
        return summarize_trials(self.measurement.trials) if self.measurement and self.measurement.trials else None

    @property
    def half_width(self) -> float | None:
        """The plus or minus of the median, as a share of it; None where it is not known."""
        return known_half_width(self.interval)

    @property
    def speedup(self) -> Speedup | None:
        """Against the reference."""
        return self.speedup_over_baseline if self.speedup_over_vllm is None else self.speedup_over_vllm

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

    @property
    def share_of_floor(self) -> float | None:
        """Floor / median: 1 is as fast as the device allows."""
        return self.floor_us / self.median_us if self.floor_us and self.median_us else None

    @property
    def relative_error(self) -> float | None:
        return self.measurement.check.relative_error if self.measurement else None

    @property
    def error_ratio(self) -> float | None:
        """Tonight's relative error over that of the earlier nights, None without either."""
        if self.relative_error is None or self.earlier_error is None:
            return None
        return compare_errors(self.relative_error, self.earlier_error)

    @property
    def error_jumped(self) -> bool:
        """Within tolerance, and still another error than on the earlier nights."""
        ratio = self.error_ratio
        return self.status == Status.OK and ratio is not None and is_jump(ratio)


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows that share axes: one layer, one set of options, one device, one timer."""

    options: str
    device_name: str
    timer: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a layer's weights beside that of as many weights of 16 bits."""

    size_bytes: int
    """As generated: quantized weights with their scales."""
    num_weights: int

    @property
    def unquantized_bytes(self) -> int:
        return 2 * self.num_weights

    @property
    def saved_bytes(self) -> int:
        return self.unquantized_bytes - self.size_bytes

    @property
    def times_smaller(self) -> float:
        return self.unquantized_bytes / self.size_bytes


@dataclass(frozen=True, slots=True)
class LayerRows:
    """A layer with its panels, in the order of the measurements."""

    key: str
    label: str
    scheme: str
    """"" for a layer that is only known from an earlier night."""
    model: str
    """"grid" for sizes of no model."""
    sizes: str
    footprint: Footprint | None
    """None for a layer without weights, or whose kernel is no longer in the code."""
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
    baseline: str
    """Provider that speed-ups are told against where no vLLM provider ran; "" as title."""
    layers: tuple[LayerRows, ...]
    gemm_dtype: Mapping[str, str] = field(hash=False)
    """By scheme, what tensor cores multiply; empty for a kernel that only moves bytes, and for one that is gone."""
    defaults: Mapping[str, str] = field(hash=False)
    """Of the options of its cases; empty for one that is gone."""
    trends: Histories = field(hash=False)
    """Of all series of the night."""

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for layer in self.layers for row in layer.rows)

    @property
    def timers(self) -> tuple[str, ...]:
        """What the rows were timed with, the main one first."""
        return tuple(sorted({row.series.timer for row in self.rows}, key=lambda timer: (timer != MAIN_TIMER, timer)))

    @property
    def slug(self) -> str:
        """The name as it stands in file names."""
        safe = make_safe(self.name)
        return safe if safe == self.name else f"{safe}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    @property
    def counts(self) -> dict[State, int]:
        """Verdicts by state, worst first, states that did not occur left out."""
        return count_states(row.verdict for row in self.rows if row.verdict)


def count_states(verdicts: Iterable[Verdict]) -> dict[State, int]:
    """Count verdicts by state, worst first, states that did not occur left out."""
    counts = Counter(verdict.state for verdict in verdicts)
    return {state: counts[state] for state in STATE_ORDER if counts[state]}


def known_half_width(interval: Interval | None) -> float | None:
    """Half an interval as a share of its middle, None for an unbounded one."""
    return interval.relative_half_width if interval and math.isfinite(interval.relative_half_width) else None


def make_safe(name: str) -> str:
    """A name as it may stand in file names and ids."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def is_vllm(provider: str) -> bool:
    """Providers that call vLLM are named after it."""
    return provider.startswith("vllm")


def group(items: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    """Group items by key, keys in order of first appearance."""
    groups: dict[K, list[V]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
