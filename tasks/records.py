"""The nouns of the pipeline. All are frozen: a stage makes new records, it never changes old ones.

Suite -> ModelShape -> Case -> WorkUnit -> WeightsReceipt -> Check -> Trial -> Measurement -> Verdict
                                Host -> Ceiling -----------> ReferenceTime ----/
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kernels.spec import Case, CompiledKernel, Device, Layer

PRECISION = 0.005
"""Default: a median is known well enough when its interval is no wider than +- 0.5 %."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of one layer of one model, as one rank sees them after TP and EP."""

    model: str
    """Short name, e.g. "Mixtral-8x7B"."""
    tp_size: int
    ep_size: int
    """1 without expert parallelism."""
    dtype: str
    """Activation dtype, e.g. "bfloat16"."""
    sizes: Mapping[str, int] = field(hash=False)
    """Per rank: num_experts, top_k, hidden_size, intermediate_size of experts; n, k of a linear layer."""
    module: str = ""
    """vLLM's name of the linear layer of a dense model: qkv_proj, o_proj, gate_up_proj or down_proj; "" for experts."""


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One layer with all its cases: weights are generated once, on the worker that measures them."""

    layer: Layer
    cases: tuple[Case, ...]
    providers: tuple[str, ...]
    """Names of the providers to check and time, in Kernel.providers order."""
    timers: tuple[str, ...] = ()
    """Names of the timers that every case is timed with."""
    precision: float = PRECISION
    """Relative half-width of a median's interval at which sampling stops."""

    @property
    def key(self) -> str:
        return self.layer.key


@dataclass(frozen=True, slots=True)
class Host:
    """One distinct environment a measurement was made in."""

    host_id: str
    """sha256 over every other field, first 16 hex digits."""
    device: Device
    device_uuid: str
    """GPU UUID as the driver prints it, "" on a CPU."""
    driver: str
    """GPU driver version, "" on a CPU."""
    cuda: str
    """CUDA version torch was built for, "" for a CPU build."""
    python: str
    torch: str
    triton: str
    vllm: str
    """"" where vLLM is not installed."""
    num_cpus: int


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a flow over a suite."""

    run_id: str
    suite: str
    arguments: Mapping[str, object] = field(hash=False)
    """The device type, and what narrowed or replaced the suite's own choices; runs are compared with their like."""
    seed: int
    git_commit: str
    """Full hash, "" outside a checkout."""
    git_dirty: bool
    started_at: datetime
    """UTC."""
    status: str = "running"
    """running (or killed: it can be resumed), complete, partial (a worker was lost for good), interrupted or failed."""
    finished_at: datetime | None = None
    """UTC; None while running."""
    stage_seconds: Mapping[str, float] = field(hash=False, default_factory=dict)
    """Wall seconds of each stage of the flow, in order."""


@dataclass(frozen=True, slots=True)
class WeightsReceipt:
    """What crosses the stage instead of the weights: which bytes were generated, how fast."""

    layer_key: str
    seed: int
    sha256: str
    """Over names, shapes, dtypes and bytes of the tensors; "" for a layer without weights."""
    size_bytes: int
    seconds: float
    host_id: str


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What one host was measured to do at best in one run: shares of the floor are told against it."""

    run_id: str
    host_id: str
    name: str
    """"copy", or a dtype and " gemm" (kernels/rates.py)."""
    value: float
    unit: str
    """"GB/s" or "TFLOP/s"."""


class Status(StrEnum):
    """How an attempt to check and time one provider on one case ended."""

    OK = "ok"
    WRONG = "wrong"
    UNSUPPORTED = "unsupported"
    CRASHED = "crashed"
    HUNG = "hung"
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Check:
    """A provider's output on one case against the reference."""

    case: Case
    provider: str
    status: Status
    host_id: str
    reason: str = ""
    """Why the status is not ok; one line."""
    relative_error: float | None = None
    """||output - reference|| / ||reference||; None if no output came."""
    share_close: float | None = None
    """Share of elements close to the reference (kernels.spec.Tolerance)."""
    config: Mapping[str, object] = field(hash=False, default_factory=dict)
    """Launch configuration the provider chose."""
    flops: int = 0
    """Floating-point operations the case needs; 0 if no inputs were made."""
    bytes_moved: int = 0
    """Least bytes the case must move; 0 if no inputs were made."""
    source_sha256: str = ""
    """Of the source files of the kernel and of what it imports of ours (kernels/source.py)."""
    compiled: tuple[CompiledKernel, ...] = ()
    """The Triton kernels that ran; other libraries are told by their version."""


@dataclass(frozen=True, slots=True)
class Series:
    """The identity of a trend: points of one series, and only they, are compared over nights."""

    case_key: str
    provider: str
    timer: str
    """The timer's name (kernels/timing/timers.py): two timers never share a series."""
    device_name: str
    """E.g. "NVIDIA H200"; series of different devices never mix."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a GPU says of itself at one moment; None is what this GPU or its driver does not tell."""

    sm_clock_mhz: int
    memory_clock_mhz: int | None
    power_watts: float | None
    """NVML's average over the last second."""
    temperature_celsius: int | None
    throttle_reasons: tuple[str, ...] = ()
    """Why the clocks are not higher, in NVML's words, e.g. "sw_power_cap"."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Samples that were taken in one go, in turn with the other providers of the case."""

    round: int
    """Trials of one round and one case were taken next to each other, whatever their provider."""
    num_samples: int
    """Of Measurement.samples_us, in their order; 0 for a trial that was set aside."""
    state: DeviceState | None = None
    """Of the device meanwhile; None on a CPU or without NVML."""
    is_slow_clock: bool = False
    """The SM clock was below 95 % of the fastest that the worker has seen in this run."""
    set_aside_us: tuple[float, ...] = ()
    """Samples of a trial that was repeated for its slow clock: kept, and not counted."""


@dataclass(frozen=True, slots=True)
class ReferenceTime:
    """A kernel that never changes, timed beside a case: tells a slow machine from a slow kernel."""

    run_id: str
    case_key: str
    timer: str
    """Of the providers it was timed beside."""
    host_id: str
    name: str
    """As of a Ceiling: "copy", or a dtype and " gemm"."""
    measured_at: datetime
    """UTC."""
    samples_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One provider on one case in one run: every sample, or the status and the reason why there is none."""

    run_id: str
    check: Check
    timer: str
    device: Device
    measured_at: datetime
    """UTC."""
    samples_us: tuple[float, ...] = ()
    """Every sample that counts, in microseconds per call, in the order taken; () unless status is ok."""
    trials: tuple[Trial, ...] = ()
    """How the samples were taken; () for a night of before that was noted."""

    @property
    def series(self) -> Series:
        return Series(self.check.case.key, self.check.provider, self.timer, self.device.name)

    @property
    def status(self) -> Status:
        return self.check.status

    @property
    def median_us(self) -> float | None:
        return statistics.median(self.samples_us) if self.samples_us else None


@dataclass(frozen=True, slots=True)
class UnitCost:
    """Where the seconds of a work unit went, on its worker."""

    run_id: str
    layer_key: str
    host_id: str
    seconds: Mapping[str, float] = field(hash=False)
    """By stage ("generate weights", "verify", "time") and their "total"; inside them, by what the worker did."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A provider that killed its worker, lost it its device or hung in it, on one case."""

    run_id: str
    case_key: str
    provider: str
    device_name: str
    status: Status
    """Why the worker is gone: crashed, hung, or out_of_memory where that cost it its device."""
    reason: str
    crashed_at: datetime
    """UTC."""


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Everything that measuring one work unit on one host gave: committed whole or not at all."""

    host: Host
    receipt: WeightsReceipt | None
    """None if the weights could not be generated."""
    measurements: tuple[Measurement, ...]
    references: tuple[ReferenceTime, ...] = ()
    cost: UnitCost | None = None


class Version(StrEnum):
    """Which version of a suspect was measured again."""

    TONIGHT = "tonight"
    LAST_GOOD_CONFIG = "last good config"
    PREVIOUS_CODE = "previous code"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A series whose time seems to have changed: measured again the same night, before anybody is told."""

    series: Series
    case: Case
    good_run: str
    """The last run before the change."""
    good_commit: str
    """Of that run's code; "" where it is not known or had uncommitted edits."""
    good_config: Mapping[str, object] = field(hash=False, default_factory=dict)
    """Launch configuration of the series in that run."""
    tonight_config: Mapping[str, object] = field(hash=False, default_factory=dict)
    """The same in this run."""


@dataclass(frozen=True, slots=True)
class Retrial:
    """One version of a suspect, measured again in turn with the others on one device."""

    measurement: Measurement
    version: Version
    of_run: str = ""
    """The run whose configuration or code it is; "" for tonight's."""


class State(StrEnum):
    """What a night says about one series."""

    SAME = "SAME"
    FAST = "FAST"
    SLOW = "SLOW"
    AMBIGUOUS = "AMBIGUOUS"
    NEW = "NEW"
    MISSING = "MISSING"
    WRONG = "WRONG"
    FAILED = "FAILED"
    UNSUPPORTED = "UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of one series after one run, with the evidence in one sentence."""

    run_id: str
    series: Series
    state: State
    evidence: str
    median_us: float | None = None
    baseline_us: float | None = None
    """What the nights before took, that it is compared with; None without history."""
    relative_change: float | None = None
    """What it takes now / baseline_us - 1: over the nights since since_run, and the retrial of tonight."""
    low: float | None = None
    """The true relative change is between low and high in 95 of 100 cases."""
    high: float | None = None
    p_value: float | None = None
    """How often noise alone would look like this, or worse; None without history."""
    since_run: str = ""
    """The first run of what is not as it should be; "" if nothing is."""
    baseline_run: str = ""
    """The first run that counts for the baseline, where one was marked or accepted; "" if all do."""
    is_confirmed: bool | None = None
    """Whether it was the same when measured again in the same night; None if it was not."""
    is_machine: bool = False
    """The machine moved too: the kernel is not to blame."""


@dataclass(frozen=True, slots=True)
class Point:
    """One night of one series or of one reference kernel, as the trend chart needs it."""

    run_id: str
    started_at: datetime
    """Start of the run, UTC."""
    median_us: float
    p20_us: float
    p80_us: float
    relative_error: float | None = None
    """Of the check before the timing, as Check.relative_error."""
    share_close: float | None = None
    device_uuid: str = ""
    """Of the GPU that measured the series; "" on a CPU, and of a reference kernel, whose point may be of several."""
