"""Made-up nights for the tests of the dashboards: every status and state, one or several nights of history."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np

from kernels.errors import RegistryError
from kernels.spec import Case, Device, Layer
from tasks.judgement.histories import Histories, History, Setting
from tasks.judgement.incidents import Incident
from tasks.judgement.references import summarize_references
from tasks.nights import Night
from tasks.records import (
    Ceiling,
    Check,
    DeviceState,
    Host,
    Measurement,
    Point,
    ReferenceTime,
    Run,
    Series,
    State,
    Status,
    Trial,
    UnitCost,
    Verdict,
    WeightsReceipt,
)

WEIGHTS_BYTES = 640_000_000
STARTED = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
H200 = Device("cuda", "NVIDIA H200", (9, 0))
CPU = Device("cpu", "AMD EPYC 9654 96-Core Processor")
PROVIDERS = ("torch", "triton", "vllm-triton-shipped", "vllm-cutlass")
FACTORS = {"torch": 7.3, "triton": 0.93, "vllm-triton-shipped": 1.0, "vllm-cutlass": 1.14}
TOKENS = (1, 16, 64, 256, 1024, 4096)
ERROR_RATIOS = {(64, "vllm-triton-shipped"): 1.8}
"""(tokens, provider) of series whose error moved tonight."""
SLOW_CLOCK = (4096, "triton")
"""Tokens and provider of the series that were timed at a slow clock."""
SLOW_MACHINE_TOKENS = 1024
"""The copy beside such cases of fused_moe takes 3.1 % longer than usual."""
SAMPLES_PER_ROUND = 5
COST_SECONDS = {
    "generate weights": 1.5,
    "verify": 6.0,
    "time": 4.0,
    "total": 11.5,
    "inputs": 0.4,
    "reference": 1.1,
    "prepare": 0.9,
    "first run": 3.2,
    "compare": 0.6,
    "capture": 0.5,
    "sampling": 3.4,
    "kernels": 3.3,
}
HOSTILE = '<script>alert("x")</script> & $co'
REASONS = {
    Status.WRONG: "relative error 0.31 is above 0.02",
    Status.UNSUPPORTED: "needs sm_100 (this is sm_90)",
    Status.CRASHED: "CUDA error: an illegal memory access was encountered",
    Status.HUNG: "no answer within 120 s",
    Status.OUT_OF_MEMORY: "tried to allocate 42.0 GiB",
}


def moe_layer(model: str = "Qwen3-30B-A3B", tp_size: int = 1, scheme: str = "fp8_block") -> Layer:
    sizes = {"num_experts": 128, "top_k": 8, "hidden_size": 2048, "intermediate_size": 768 // tp_size}
    return Layer("fused_moe", model, tp_size, 1, scheme, "bfloat16", sizes)


def silu_layer() -> Layer:
    sizes = {"num_experts": 32, "hidden_size": 7168}
    return Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", sizes)


def make_state(clock_mhz: int, *reasons: str) -> DeviceState:
    return DeviceState(clock_mhz, 3201, clock_mhz / 3, 51, reasons)


def make_trials(num_samples: int, device: Device = H200, is_slow: bool = False) -> tuple[Trial, ...]:
    """Five samples a round; of slow ones the first trial was repeated twice and the second stayed slow."""
    fast, slow = (make_state(1980), make_state(1785, "sw_power_cap")) if device is H200 else (None, None)
    rounds = [Trial(number, SAMPLES_PER_ROUND, fast) for number in range(num_samples // SAMPLES_PER_ROUND)]
    if is_slow:
        rounds[1] = Trial(1, SAMPLES_PER_ROUND, slow, is_slow_clock=True)
        rounds = [Trial(0, 0, slow, is_slow_clock=True, set_aside_us=(99.0,) * SAMPLES_PER_ROUND)] * 2 + rounds
    return tuple(rounds)


def make_measurement(
    case: Case,
    provider: str,
    status: Status = Status.OK,
    device: Device = H200,
    usual_us: float | None = None,
    timer: str = "graph",
) -> Measurement:
    usual = usual_us or (20 + 8 * case.num_tokens**0.55) * FACTORS.get(provider, 1.0)
    noise = random.Random(f"{case.key} {provider} {device.name} {timer}")
    samples = tuple(noise.gauss(usual, usual * 0.02) for _ in range(30)) if status is Status.OK else ()
    compared = status in (Status.OK, Status.WRONG)
    check = Check(
        case=case,
        provider=provider,
        status=status,
        host_id="0123456789abcdef" if device is H200 else "fedcba9876543210",
        reason=REASONS.get(status, ""),
        relative_error=(0.31 if status is Status.WRONG else 0.0123) if compared else None,
        share_close=(0.42 if status is Status.WRONG else 0.9998) if compared else None,
        flops=case.num_tokens * 75_497_472,
        bytes_moved=60_400_000,
    )
    trials = make_trials(len(samples), device, (case.num_tokens, provider) == SLOW_CLOCK) if samples else ()
    return Measurement("run-3", check, timer, device, STARTED, samples, trials)


def divide_rounds(ours: Measurement, theirs: Measurement) -> float:
    """The median of the rounds' ratios, as `make_trials` makes rounds."""
    ratios = []
    for first in range(0, len(ours.samples_us), SAMPLES_PER_ROUND):
        medians = [statistics.median(m.samples_us[first : first + SAMPLES_PER_ROUND]) for m in (ours, theirs)]
        ratios.append(medians[0] / medians[1])
    return statistics.median(ratios)


def make_references(measurements: Sequence[Measurement]) -> tuple[ReferenceTime, ...]:
    """A copy and a GEMM beside every case that was timed."""
    beside = {(m.check.host_id, m.check.case.key, m.timer): m for m in measurements if m.samples_us}
    found = []
    for (host_id, case_key, timer), m in beside.items():
        case, noise = m.check.case, random.Random(f"{host_id} {case_key} {timer}")
        slow = case.layer.kernel == "fused_moe" and case.num_tokens == SLOW_MACHINE_TOKENS
        for name, usual_us in (("copy", 141.0 * (1.031 if slow else 1.0)), ("bfloat16 gemm", 190.0)):
            samples = tuple(noise.gauss(usual_us, usual_us * 1e-3) for _ in range(9))
            found.append(ReferenceTime("run-3", case_key, timer, host_id, name, STARTED, samples))
    return tuple(found)


def make_usual_references(
    references: Sequence[ReferenceTime], devices: Sequence[Device]
) -> dict[tuple[str, str, str, str], float]:
    """What every reference kernel usually takes."""
    names = {make_host(device).host_id: device.name for device in devices}
    usual_us = {"copy": 141.0, "bfloat16 gemm": 190.0}
    return {(names[r.host_id], r.case_key, r.timer, r.name): usual_us[r.name] for r in references}


def make_reference_trends(
    references: Sequence[ReferenceTime], devices: Sequence[Device], num_nights: int
) -> dict[tuple[str, str], tuple[Point, ...]]:
    """Tonight's medians, with the copy 3 % slower than on the earlier nights."""
    names = {make_host(device).host_id: device.name for device in devices}
    trends = {}
    for found in summarize_references(references):
        noise, drift = random.Random(found.name), 1.03 if found.name == "copy" else 1.0
        spread = (found.p20_us / found.median_us, found.p80_us / found.median_us)
        points = []
        for age in range(num_nights - 1, -1, -1):
            median = found.median_us if age == 0 else found.median_us / drift * noise.gauss(1, 0.002)
            quantiles = (median * spread[0], median * spread[1])
            points.append(Point(f"run-{3 - age}", STARTED - timedelta(days=age), median, *quantiles))
        trends[names[found.host_id], found.name] = tuple(points)
    return trends


def make_trend(
    measurement: Measurement, num_nights: int, change: float = 0.0, error_ratio: float = 1.0
) -> tuple[Point, ...]:
    """History that ends in the measurement; `change` and `error_ratio` tell tonight from the earlier nights."""
    tonight = measurement.median_us
    assert tonight is not None
    noise = random.Random(str(measurement.series))
    points = []
    for age in range(num_nights - 1, -1, -1):
        median = tonight if age == 0 else tonight / (1 + change) * noise.gauss(1, 0.01)
        run_id = f"run-{3 - age}"
        error = (measurement.check.relative_error or 0.0) / (1 if age == 0 else error_ratio)
        started_at, spread = STARTED - timedelta(days=age), (median * 0.985, median * 1.015)
        points.append(Point(run_id, started_at, median, *spread, error, measurement.check.share_close))
    return tuple(points)


def make_histories(trends: Mapping[Series, Sequence[Point]], hosts: Sequence[Host] = ()) -> Histories:
    """Points as columns: every run that they name, and a host for every card."""
    starts = {point.run_id: point.started_at for points in trends.values() for point in points}
    commit = "252e9d4c0ffee0123456789abcdef0123456789a"
    runs = [Run(run_id, "nightly-h200", {}, 7, commit, False, started) for run_id, started in starts.items()]
    runs.sort(key=lambda run: run.started_at)
    numbers = {run.run_id: number for number, run in enumerate(runs)}
    cards = {host.device_uuid: host for host in (make_host(H200), make_host(CPU), *hosts)}
    for points in trends.values():
        for point in points:
            cards.setdefault(point.device_uuid, replace(make_host(H200), host_id=point.device_uuid))
    cards = {uuid: replace(host, device_uuid=uuid) for uuid, host in cards.items()}
    places = {uuid: number for number, uuid in enumerate(cards)}

    def make_column(points: Sequence[Point], name: str) -> Any:
        return np.array([np.nan if getattr(p, name) is None else getattr(p, name) for p in points], dtype=float)

    columns = {
        series: History(
            np.array([numbers[point.run_id] for point in points]),
            *(make_column(points, n) for n in ("median_us", "p20_us", "p80_us", "relative_error", "share_close")),
            np.array([places[point.device_uuid] for point in points]),
        )
        for series, points in trends.items()
    }
    settings = tuple(Setting(host.host_id, '{"BLOCK_SIZE_M": 64}', "ab" * 32) for host in cards.values())
    return Histories(tuple(runs), {host.host_id: host for host in cards.values()}, settings, columns)


def make_ceilings(device: Device) -> tuple[Ceiling, ...]:
    """Round figures of a GPU; a CPU has no FP8."""
    values = {"copy": 4000.0, "bfloat16 gemm": 700.0, "float8_e4m3fn gemm": 1400.0, "int8 gemm": 1300.0}
    if device.type == "cpu":
        values = {"copy": 30.0, "bfloat16 gemm": 0.2, "float32 gemm": 0.1}
    host_id = make_host(device).host_id
    units = {name: "GB/s" if name == "copy" else "TFLOP/s" for name in values}
    return tuple(Ceiling("run-3", host_id, name, value, units[name]) for name, value in values.items())


def make_verdict(measurement: Measurement, state: State, change: float = 0.0) -> Verdict:
    median = measurement.median_us
    baseline = median / (1 + change) if median else None
    if state is State.SAME:
        evidence = "same as the 8 earlier nights"
    else:
        evidence = REASONS.get(measurement.status) or f"{change:+.1%} against the 8 earlier nights, p = 0.0002"
    verdict = Verdict("run-3", measurement.series, state, evidence, median, baseline, change if median else None)
    if not median or not change:
        return verdict
    moved = replace(verdict, low=change - 0.011, high=change + 0.009, p_value=0.0002)
    if state is State.AMBIGUOUS:
        return replace(moved, is_confirmed=False)
    return replace(moved, since_run="run-2", is_confirmed=True)


def make_incidents(night: Night) -> tuple[Incident, ...]:
    """One for each state that somebody is told of: MISSING is acknowledged, FAST is over, WRONG speaks in markup."""
    found = []
    for state in (State.FAST, State.MISSING, State.WRONG, State.SLOW):
        verdicts = [v for v in night.verdicts if v.state is state and v.series.device_name == H200.name]
        series = tuple(verdict.series for verdict in verdicts)
        is_wrong, is_moved = state is State.WRONG, state in (State.SLOW, State.FAST)
        incident = Incident(
            incident_id=f"{state.lower()}-3f9a1c",
            state=state,
            subject=HOSTILE if is_wrong else f"fused_moe {series[0].provider} on {series[0].device_name}",
            since_run="run-2" if is_moved else "run-3",
            opened_run="run-2" if is_moved else "run-3",
            opened_at=STARTED,
            series=series,
            lowest_change=verdicts[0].relative_change if is_moved else None,
            highest_change=verdicts[0].relative_change if is_moved else None,
            causes=(HOSTILE,) if is_wrong else ("triton 3.6.0 -> 3.7.1", "commit 252e9d4c0ffe -> 9b1deb4d3b7d"),
            evidence=f"{series[0].case_key} {series[0].provider} ({series[0].timer}): {verdicts[0].evidence}",
            resolved_run="run-3" if state is State.FAST else "",
            acknowledgement=f"no longer built {HOSTILE}" if state is State.MISSING else "",
        )
        found.append(incident)
    return tuple(found)


def judge(measurement: Measurement, num_nights: int) -> tuple[State, float]:
    """Which state a made-up measurement gets, and its change."""
    status, case = measurement.status, measurement.check.case
    if status is Status.UNSUPPORTED:
        return State.UNSUPPORTED, 0.0
    if status is not Status.OK:
        return (State.WRONG if status is Status.WRONG else State.FAILED), 0.0
    if num_nights < 2:
        return State.NEW, 0.0
    special = {(64, "triton"): (State.SLOW, 0.12), (256, "vllm-cutlass"): (State.FAST, -0.09)}
    special[(1024, "torch")] = (State.AMBIGUOUS, 0.04)
    return special.get((case.num_tokens, measurement.check.provider), (State.SAME, 0.0))


def make_measurements(device: Device) -> list[Measurement]:
    """Two kernels: a model's layer under two parallelisms with every status, and a grid layer with options."""
    found = []
    statuses = {
        (1, "vllm-cutlass"): Status.UNSUPPORTED,
        (16, "triton"): Status.WRONG,
        (256, "triton"): Status.CRASHED,
        (1024, "vllm-cutlass"): Status.HUNG,
        (4096, "torch"): Status.OUT_OF_MEMORY,
    }
    for layer in (moe_layer(), moe_layer(HOSTILE, tp_size=2)):
        for tokens in TOKENS:
            for provider in PROVIDERS:
                status = statuses.get((tokens, provider), Status.OK) if layer.tp_size == 1 else Status.OK
                found.append(make_measurement(Case(layer, tokens), provider, status, device))
    for strategy in ("uniform", "max_t", "first_t"):
        for tokens in (64, 1024):
            for provider in ("torch", "triton", "vllm-cutlass"):
                case = Case(silu_layer(), tokens, {"token_strategy": strategy})
                found.append(make_measurement(case, provider, Status.OK, device))
    return found


def make_night(
    num_nights: int = 3, devices: Sequence[Device] = (H200,), measurements: Sequence[Measurement] | None = None
) -> Night:
    """A night with its verdicts, one missing series and `num_nights` of history (this one included)."""
    if measurements is None:
        measurements = [m for device in devices for m in make_measurements(device)]
    judged = [(m, *judge(m, num_nights)) for m in measurements]
    verdicts = [make_verdict(m, state, change) for m, state, change in judged]
    if num_nights > 1:
        gone = Series(Case(moe_layer("Mixtral-8x7B", 2), 64).key, "vllm-deepgemm", "graph", H200.name)
        verdicts.append(Verdict("run-3", gone, State.MISSING, "in 8 earlier nights, not in this one", None, 193.1))
    trends = {
        m.series: make_trend(m, num_nights, change, ERROR_RATIOS.get((m.check.case.num_tokens, m.check.provider), 1.0))
        for m, _, change in judged
        if m.samples_us
    }
    layers = {m.check.case.layer.key: None for m in measurements}
    references = make_references(measurements)
    return Night(
        run=Run(
            run_id="run-3",
            suite="nightly-h200",
            arguments={"kernels": ["fused_moe", "silu_mul_fp8"]},
            seed=7,
            git_commit="252e9d4c0ffee0123456789abcdef0123456789a",
            git_dirty=True,
            started_at=STARTED,
            status="complete",
            finished_at=STARTED + timedelta(minutes=41, seconds=12),
            stage_seconds={"cases": 0.4, "weights": 61.2, "measure": 2210.7, "retune": 151.0, "verdicts": 1.3},
        ),
        hosts=tuple(make_host(device) for device in devices),
        receipts=tuple(
            WeightsReceipt(key, 7, "ab12" * 16 if "moe" in key else "", WEIGHTS_BYTES if "moe" in key else 0, 3.21, "h")
            for key in layers
        ),
        measurements=tuple(measurements),
        verdicts=tuple(verdicts),
        trends=make_histories(trends),
        ceilings=tuple(ceiling for device in devices for ceiling in make_ceilings(device)),
        references=references,
        costs=tuple(UnitCost("run-3", key, make_host(devices[0]).host_id, COST_SECONDS) for key in layers),
        reference_trends=make_reference_trends(references, devices, num_nights),
        usual_references=make_usual_references(references, devices) if num_nights > 1 else {},
    )


def make_host(device: Device) -> Host:
    on_gpu = device.type == "cuda"
    return Host(
        host_id="0123456789abcdef" if on_gpu else "fedcba9876543210",
        device=device,
        device_uuid="GPU-4f2c" if on_gpu else "",
        driver="580.159.04" if on_gpu else "",
        cuda="13.0" if on_gpu else "",
        python="3.11.2",
        torch="2.11.0",
        triton="3.6.0",
        vllm="0.26.0" if on_gpu else "",
        num_cpus=16,
    )


TITLES = {"fused_moe": "Fused mixture of experts, FP8 W8A8", "silu_mul_fp8": "SiLU-and-multiply with FP8 quantization"}


def find_made_up_kernel(name: str) -> SimpleNamespace:
    """Stands in for kernels.registry.find_kernel: the tests of the site need no kernel's code."""
    if name not in TITLES:
        raise RegistryError(f"no kernel is named {name!r}")
    gemm_dtype = {"fp8_block": "float8_e4m3fn"} if name == "fused_moe" else {}
    options = {"token_strategy": ("uniform", "max_t", "first_t")} if name == "silu_mul_fp8" else {}
    about = {"title": TITLES[name], "baseline": "torch", "gemm_dtype": gemm_dtype, "options": options}
    return SimpleNamespace(**about, num_weights=count_weights)


def count_weights(layer: Layer) -> int:
    """Of the made-up kernels: two matrices of a mixture of experts."""
    sizes = layer.sizes
    return 3 * sizes["num_experts"] * sizes["hidden_size"] * sizes["intermediate_size"] if "top_k" in sizes else 0
