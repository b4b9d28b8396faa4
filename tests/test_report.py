"""What a run tells in a terminal, and the exit code it gives a script."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import pytest
from nights import (
    H200,
    SAMPLES_PER_ROUND,
    STARTED,
    WEIGHTS_BYTES,
    count_weights,
    divide_rounds,
    find_made_up_kernel,
    make_measurement,
    make_night,
    make_verdict,
    moe_layer,
    silu_layer,
)
from rich.console import Console

from dashboards.words import tell_half_width
from flows.report import exit_code, print_report
from kernels.spec import Case
from tasks.judgement.incidents import Incident
from tasks.nights import Night
from tasks.records import Measurement, State, Status

CASE = Case(moe_layer(), 16)


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def night_of(state: State, status: str = "complete") -> Night:
    night = make_night()
    verdict = make_verdict(make_measurement(CASE, "triton"), state, 0.2)
    incident = Incident("name-3f9a1c", state, "fused_moe", "run-3", "run-3", STARTED, (verdict.series,))
    return replace(night, run=replace(night.run, status=status), verdicts=(verdict,), incidents=(incident,))


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


@pytest.mark.parametrize("said", [{"acknowledgement": "expected"}, {"resolved_run": "run-3"}])
def test_an_incident_that_is_expected_or_over_is_an_exit_code_of_0(said: dict[str, str]) -> None:
    night = night_of(State.SLOW)
    [incident] = night.incidents
    assert exit_code(replace(night, incidents=(replace(incident, **said),))) == 0


@pytest.mark.parametrize("status", ["running", "partial", "interrupted", "failed"])
def test_a_run_that_did_not_finish_is_an_exit_code_of_3_whatever_it_found(status: str) -> None:
    assert exit_code(night_of(State.SLOW, status)) == 3


def test_speed_ups_are_told_against_the_fastest_vllm_provider_that_ran() -> None:
    measurements = [
        make_measurement(CASE, "triton", usual_us=50.0),
        make_measurement(CASE, "vllm-triton-shipped", usual_us=100.0),
        make_measurement(CASE, "vllm-cutlass", Status.WRONG, usual_us=1.0),
    ]
    (triton,) = [line for line in report_of(measurements).splitlines() if " triton " in line]
    assert f"{divide_rounds(measurements[1], measurements[0]):.2f}x" in triton


def test_without_a_vllm_provider_speed_ups_are_told_against_the_baseline() -> None:
    measurements = [make_measurement(CASE, "torch", usual_us=90.0), make_measurement(CASE, "triton", usual_us=30.0)]
    (triton,) = [line for line in report_of(measurements).splitlines() if " triton " in line]
    assert f"{divide_rounds(*measurements):.2f}x" in triton


def test_a_median_is_told_with_its_interval_its_samples_and_its_share_of_the_floor() -> None:
    (measured,) = measurements = [make_measurement(CASE, "triton")]
    (line,) = [line for line in report_of(measurements).splitlines() if " triton " in line]
    rounds = [measured.samples_us[first : first + SAMPLES_PER_ROUND] for first in range(0, 30, SAMPLES_PER_ROUND)]
    medians = [statistics.median(samples) for samples in rounds]  # of 6 the smallest and the largest bound the interval
    half = (max(medians) - min(medians)) / 2 / (measured.median_us or 0)
    floor_us = max(measured.check.bytes_moved / 4000e3, measured.check.flops / 1400e6)
    cells = line.split()
    assert cells[:2] == ["M=16", "triton"]
    assert cells[3:6] == [f"{measured.median_us:.1f}", tell_half_width(half), "30"]
    assert cells[6] == f"{floor_us / (measured.median_us or 0):.0%}"


def test_a_slow_clock_is_marked_in_its_row_and_told_beneath_the_table() -> None:
    told = report_of([make_measurement(Case(moe_layer(), tokens), "triton") for tokens in (16, 4096)])
    (slow,) = [line for line in told.splitlines() if ", clock 3/8" in line]
    assert "M=4096" in slow
    assert "1 series: slow clock in 3 of 8 trials, 2 set aside; 1785-1980 MHz; sw_power_cap" in told


def test_the_reference_kernels_tell_how_steady_each_machine_was() -> None:
    night = make_night()
    (copy,) = [line for line in print_night(night).splitlines() if line.startswith("reference copy on NVIDIA H200")]
    assert re.search(
        r": 141 us beside 18 cases \(p20-p80 [+-]0.\d% to \+0.\d%\), slowest \+3\.\d% beside fused_moe", copy
    )
    assert copy.endswith("M=1024, graph")
    assert "reference bfloat16 gemm on NVIDIA H200: 190" in print_night(night)
    assert "reference" not in print_night(replace(night, references=()))


def test_what_was_timed_on_a_slow_machine_is_marked_once_per_case() -> None:
    cases = [Case(moe_layer(), tokens) for tokens in (1, 16, 64, 1024)]
    measured = [make_measurement(case, provider) for case in cases for provider in ("torch", "triton")]
    night = make_night(2, measurements=measured)
    told = [line for line in print_night(night).splitlines() if "reference slow +3." in line]
    assert ["M=1024" in line for line in told] == [True]
    assert "reference slow" not in print_night(replace(night, usual_references={}))


def test_two_gpus_of_one_name_are_told_apart_by_their_ids() -> None:
    night = make_night(1)
    other = replace(night.hosts[0], host_id="other", device_uuid="GPU-77aa0000-1111")
    ceilings = tuple(replace(ceiling, host_id="other") for ceiling in night.ceilings)
    told = print_night(replace(night, hosts=(*night.hosts, other), ceilings=(*night.ceilings, *ceilings)))
    assert "at best on NVIDIA H200 GPU-4f2c: copy" in told
    assert "at best on NVIDIA H200 GPU-77aa0000: copy" in told


@pytest.mark.parametrize("width", [100, 120, 160])
def test_a_long_reason_is_wrapped_and_printed_whole(width: int) -> None:
    reason = "CUDA error: " + "/a/path/without/a/space" * 12 + " and then some words"
    crashed = make_measurement(Case(moe_layer(), 16, {"apply_router_weight_on_input": "true"}), "vllm-triton-shipped")
    crashed = replace(crashed, check=replace(crashed.check, status=Status.CRASHED, reason=reason), samples_us=())
    stream = StringIO()
    night = replace(make_night(1, measurements=[crashed]), verdicts=())
    print_report(Console(file=stream, width=width), night)
    lines = stream.getvalue().splitlines()
    (heading,) = [line for line in lines if "median us" in line]
    table = lines[lines.index(heading) :]
    assert max(map(len, table)) <= width
    wrapped = "".join(line[heading.index("verdict") :] for line in table)
    assert reason.replace(" ", "") in wrapped.replace(" ", "")


def test_providers_that_cannot_run_the_same_cases_share_a_line() -> None:
    measurements = [make_measurement(CASE, name, Status.UNSUPPORTED) for name in ("torch", "triton")]
    told = report_of(measurements)
    assert "torch, triton: needs sm_100 (this is sm_90) (1 case)" in told


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


def test_weights_of_16_bits_are_not_called_smaller() -> None:
    night = replace(make_night(1, measurements=[make_measurement(CASE, "triton")]), verdicts=())
    (receipt,) = [one for one in night.receipts if one.layer_key == CASE.layer.key]
    wide = replace(receipt, size_bytes=2 * count_weights(CASE.layer))
    told = print_night(replace(night, receipts=(wide,)))
    assert re.search(r"weights: [\d.]+ GB, 16 bits each\n", told)
    assert "smaller" not in told


def test_the_devices_are_told_with_what_they_do_at_best() -> None:
    told = report_of([make_measurement(CASE, "triton")])
    assert "at best on NVIDIA H200: copy 4,000 GB/s, bfloat16 gemm 700 TFLOP/s" in told
    before = replace(make_night(1), ceilings=())
    assert "at best" not in print_night(before)
