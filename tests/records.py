"""Small records with every field filled, for the tests of the store, the verdicts and what reads them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb

from kernels.spec import Case, CompiledKernel, Device, Layer
from tasks.commits.comparisons import Comparison
from tasks.records import (
    Ceiling,
    Check,
    Crash,
    DeviceState,
    Host,
    Measurement,
    Point,
    ReferenceTime,
    Retrial,
    Run,
    Series,
    State,
    Status,
    Trial,
    UnitCost,
    UnitResult,
    Verdict,
    Version,
    WeightsReceipt,
)
from tasks.storage.rows import Row

STARTED = datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC)
GPU = Device("cuda", "NVIDIA H200", (9, 0))
SIZES = {"num_experts": 8, "top_k": 2, "hidden_size": 256, "intermediate_size": 128}
COMPILED = CompiledKernel("matmul_kernel", "sm_90", 8, 168, 4, 98_304, "cd" * 32)


def make_host(device: Device = GPU, host_id: str = "0123456789abcdef") -> Host:
    return Host(host_id, device, "GPU-4f2c", "580.159.04", "13.0", "3.11.2", "2.11.0", "3.6.0", "0.26.0", 16)


def make_layer(model: str = "Mixtral-8x7B") -> Layer:
    return Layer("fused_moe", model, 2, 1, "fp8_w8a8", "bfloat16", SIZES)


def make_case(num_tokens: int = 16, model: str = "Mixtral-8x7B") -> Case:
    return Case(make_layer(model), num_tokens, {"token_strategy": "uniform", "activation": "silu"})


def make_run(run_id: str = "run-1", nights: int = 0, **changes: object) -> Run:
    """A run that started so many nights after the first."""
    fields: dict[str, object] = {
        "suite": "nightly",
        "arguments": {"models": ["Mixtral-8x7B"], "tp_sizes": [2]},
        "seed": 7,
        "git_commit": "252e9d4c0ffee0123456789abcdef0123456789a",
        "git_dirty": True,
        "started_at": STARTED + timedelta(days=nights),
    }
    return Run(run_id, **{**fields, **changes})  # type: ignore[arg-type]


def make_receipt(layer: Layer, host: Host | None = None) -> WeightsReceipt:
    return WeightsReceipt(layer.key, 7, "ab" * 32, 1_207_959_552, 3.21, (host or make_host()).host_id)


def make_ceiling(name: str = "copy", value: float = 4256.5, run_id: str = "run-1") -> Ceiling:
    return Ceiling(run_id, make_host().host_id, name, value, "GB/s" if name == "copy" else "TFLOP/s")


def make_measurement(
    run_id: str = "run-1",
    case: Case | None = None,
    provider: str = "triton",
    samples_us: Sequence[float] = (10.0, 10.5, 11.25),
    status: Status = Status.OK,
    **check: object,
) -> Measurement:
    """Measured by the timer "graph" on the host of `make_host`; no samples unless the status is ok."""
    made = Check(case or make_case(), provider, status, make_host().host_id, **check)  # type: ignore[arg-type]
    samples = tuple(samples_us) if status is Status.OK else ()
    return Measurement(run_id, made, "graph", GPU, STARTED, samples)


def make_series(provider: str = "triton", case: Case | None = None) -> Series:
    return make_measurement(case=case, provider=provider).series


def make_points(medians_us: Sequence[float], cards: Sequence[str] | None = None) -> tuple[Point, ...]:
    """Nights "night-0", "night-1" ... of one series, all on one card unless cards are given."""
    uuids = cards or ("GPU-4f2c",) * len(medians_us)
    return tuple(
        Point(f"night-{n}", STARTED + timedelta(days=n), us, us * 0.99, us * 1.01, device_uuid=uuid)
        for n, (us, uuid) in enumerate(zip(medians_us, uuids, strict=True))
    )


def make_verdict(state: State = State.SLOW, series: Series | None = None, **changes: object) -> Verdict:
    """What was said of a series; of a time that has changed, by 10 % and since the run itself."""
    moved_by = {State.SLOW: 0.1, State.FAST: -0.1}.get(state)
    fields: dict[str, object] = {"run_id": "run-1", "evidence": "as it was seen", "relative_change": moved_by}
    if state not in (State.FAILED, State.MISSING, State.WRONG, State.UNSUPPORTED):
        fields |= {"median_us": 100.0}
    if moved_by:
        fields |= {"since_run": changes.get("run_id", "run-1")}
    return Verdict(state=state, series=series or make_series(), **{**fields, **changes})  # type: ignore[arg-type]


def make_retrial(
    series_of: Measurement, median_us: float, version: Version = Version.TONIGHT, of_run: str = ""
) -> Retrial:
    """A measurement's series, measured again."""
    return Retrial(replace(series_of, samples_us=(median_us,)), version, of_run)


def make_unit(
    measurements: Sequence[Measurement], receipt: WeightsReceipt | None = None, host: Host | None = None
) -> UnitResult:
    """What measuring one unit gave, without what was timed beside it."""
    return UnitResult(host or make_host(), receipt, tuple(measurements))


def make_trial(number: int = 0, num_samples: int = 3, **changes: object) -> Trial:
    """A trial of a GPU whose power was capped."""
    state = DeviceState(1980, 3201, 412.5, 63, ("sw_power_cap", "hw_slowdown"))
    return replace(Trial(number, num_samples, state), **changes)  # type: ignore[arg-type]


def make_reference(name: str = "copy", run_id: str = "run-1", timer: str = "graph") -> ReferenceTime:
    return ReferenceTime(run_id, make_case().key, timer, make_host().host_id, name, STARTED, (7.5, 7.25, 1 / 3))


def make_cost(run_id: str = "run-1", host: Host | None = None, total: float = 12.5) -> UnitCost:
    seconds = {"generate weights": 1.5, "verify": 3.0, "time": total - 4.5, "total": total, "kernels": 2.25}
    return UnitCost(run_id, make_layer().key, (host or make_host()).host_id, seconds)


def make_crash(provider: str = "triton", run_id: str = "run-1", status: Status = Status.CRASHED) -> Crash:
    return Crash(run_id, make_case().key, provider, GPU.name, status, "CUDA error: 'it' broke", STARTED)


def insert_known(connection: duckdb.DuckDBPyConnection, table: str, row: Row) -> None:
    """Insert what of the row the table has a column for."""
    columns = [column[0] for column in connection.execute(f"DESCRIBE {table}").fetchall() if column[0] in row]
    marks, values = ", ".join("?" * len(columns)), [row[column] for column in columns]
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)


def make_comparison(**changes: object) -> Comparison:
    """A branch against main."""
    comparison = Comparison("one", "topic", "a" * 40, "main", "b" * 40, {"device": "cpu"}, 0, 0.2, STARTED)
    return replace(comparison, **changes)
