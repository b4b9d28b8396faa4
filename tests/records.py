"""Small records with every field filled, for the tests of the store, the verdicts and what reads them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from kernels.spec import Case, Device, Layer
from tasks.records import Ceiling, Check, Host, Measurement, Run, Series, Status, WeightsReceipt

STARTED = datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC)
GPU = Device("cuda", "NVIDIA H200", (9, 0))
SIZES = {"num_experts": 8, "top_k": 2, "hidden_size": 256, "intermediate_size": 128}


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
