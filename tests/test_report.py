"""What a run tells in a terminal, and the exit code it gives a script."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import pytest
from nights import (
    H200,
    WEIGHTS_BYTES,
    count_weights,
    find_made_up_kernel,
    make_measurement,
    make_night,
    make_verdict,
    moe_layer,
    silu_layer,
)
from rich.console import Console

from flows.report import exit_code, print_report
from kernels.spec import Case
from tasks.records import Measurement, Night, State, Status

CASE = Case(moe_layer(), 16)


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def night_of(state: State, status: str = "complete") -> Night:
    night = make_night()
    verdict = make_verdict(make_measurement(CASE, "triton"), state, 0.2)
    return replace(night, run=replace(night.run, status=status), verdicts=(verdict,))


def print_night(night: Night) -> str:
    stream = StringIO()
    print_report(Console(file=stream, width=160), night)
    return stream.getvalue()


def report_of(measurements: Sequence[Measurement]) -> str:
    return print_night(replace(make_night(1, measurements=measurements), verdicts=()))


@pytest.mark.parametrize("state", State)
def test_only_a_state_that_needs_a_look_is_an_exit_code_of_1(state: State) -> None:
    urgent = {State.SLOW, State.WRONG, State.FAILED, State.MISSING}
    assert exit_code(night_of(state)) == (1 if state in urgent else 0)


@pytest.mark.parametrize("status", ["running", "partial", "interrupted", "failed"])
def test_a_run_that_did_not_finish_is_an_exit_code_of_3_whatever_it_found(status: str) -> None:
    assert exit_code(night_of(State.SLOW, status)) == 3


def test_speed_ups_are_told_against_the_fastest_vllm_provider_that_ran() -> None:
    measurements = [
        make_measurement(CASE, "triton", usual_us=50.0),
        make_measurement(CASE, "vllm-triton-shipped", usual_us=100.0),
        make_measurement(CASE, "vllm-cutlass", Status.WRONG, usual_us=1.0),
    ]
    best = measurements[1].median_us
    assert best is not None
    (triton,) = [line for line in report_of(measurements).splitlines() if " triton " in line]
    assert f"{best / (measurements[0].median_us or 0):.2f}x" in triton


def test_without_a_vllm_provider_speed_ups_are_told_against_the_baseline() -> None:
    measurements = [make_measurement(CASE, "torch", usual_us=90.0), make_measurement(CASE, "triton", usual_us=30.0)]
    torch_us, triton_us = (m.median_us or 0.0 for m in measurements)
    (triton,) = [line for line in report_of(measurements).splitlines() if " triton " in line]
    assert f"{torch_us / triton_us:.2f}x" in triton


def test_what_cannot_run_stands_once_beneath_its_table() -> None:
    cases = [Case(moe_layer(), num_tokens) for num_tokens in (1, 16)]
    measurements = [make_measurement(case, "triton") for case in cases]
    measurements += [make_measurement(case, "vllm-cutlass", Status.UNSUPPORTED) for case in cases]
    told = report_of(measurements)
    assert told.count("vllm-cutlass") == 1
    assert "vllm-cutlass: needs sm_100 (this is sm_90) (2 cases)" in told
    assert H200.name in told


def test_a_layer_that_cannot_run_at_all_has_no_table() -> None:
    told = report_of([make_measurement(CASE, "vllm-cutlass", Status.UNSUPPORTED)])
    assert "median us" not in told
    assert "vllm-cutlass: needs sm_100 (this is sm_90) (1 case)" in told


def test_a_reason_in_brackets_is_printed_as_it_is() -> None:
    crashed = make_measurement(CASE, "triton", Status.CRASHED)
    crashed = replace(crashed, check=replace(crashed.check, reason="no kernel for [bfloat16] [/]"))
    assert "no kernel for [bfloat16] [/]" in report_of([crashed])


def test_what_is_missing_stands_in_the_table_with_its_evidence() -> None:
    told = print_night(make_night())
    (missing,) = [line for line in told.splitlines() if "vllm-deepgemm" in line]
    assert "MISSING in 8 earlier nights" in missing


def test_the_format_of_weights_is_told_by_what_it_saves() -> None:
    told = report_of([make_measurement(CASE, "triton")])
    wide = 2 * count_weights(moe_layer())
    assert f"weights: 640.00 MB, {wide / WEIGHTS_BYTES:.2f}x smaller than with 16 bits each" in told
    assert f"({(wide - WEIGHTS_BYTES) / 1e6:.2f} MB saved)" in told
    assert "weights:" not in report_of([make_measurement(Case(silu_layer(), 64), "triton")])


def test_the_devices_are_told_with_what_they_do_at_best() -> None:
    told = report_of([make_measurement(CASE, "triton")])
    assert "at best on NVIDIA H200: copy 4,000 GB/s, bfloat16 gemm 700 TFLOP/s" in told
    before = replace(make_night(1), ceilings=())
    assert "at best" not in print_night(before)
