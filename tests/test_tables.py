"""Every table against the samples, by hand."""

import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from nights import (
    CPU,
    H200,
    WEIGHTS_BYTES,
    count_weights,
    divide_rounds,
    find_made_up_kernel,
    make_measurement,
    make_night,
    moe_layer,
    silu_layer,
)
from rich.console import Console

from flows.arguments import TABLES
from flows.tables import VIEWS, print_tables
from kernels.spec import Case
from tasks.nights import Night
from tasks.records import Measurement, Status

CASES = [Case(moe_layer(), num_tokens) for num_tokens in (1, 16)]
PROVIDERS = ("torch", "triton", "vllm-cutlass")


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def print_night(night: Night, table: str, width: int = 80) -> str:
    stream = StringIO()
    print_tables(Console(file=stream, width=width), night, table)
    return stream.getvalue()


@pytest.fixture
def measured() -> dict[tuple[int, str], Measurement]:
    return {(case.num_tokens, name): make_measurement(case, name) for case in CASES for name in PROVIDERS}


@pytest.fixture
def night(measured: dict[tuple[int, str], Measurement]) -> Night:
    return replace(make_night(1, measurements=list(measured.values())), verdicts=())


def cells_of(text: str, num_tokens: int) -> list[str]:
    (line,) = [line for line in text.splitlines() if re.match(rf"\s+{num_tokens}\s", line)]
    return re.split(r"\s{2,}", line.strip())[1:]


def median(measurement: Measurement) -> float:
    assert measurement.median_us is not None
    return measurement.median_us


def test_every_table_can_be_asked_for() -> None:
    assert (*VIEWS, "memory", "costs", "all") == TABLES


def test_times_are_microseconds_by_batch_size_and_provider(
    night: Night, measured: dict[tuple[int, str], Measurement]
) -> None:
    told = print_night(night, "times")
    assert re.search(r"^\s+M\s+torch\s+triton\s+vllm-cutlass\s*$", told, re.MULTILINE)
    for tokens in (1, 16):
        assert cells_of(told, tokens) == [f"{median(measured[tokens, name]):.1f}" for name in PROVIDERS]


def test_throughput_has_its_median_between_the_slow_and_the_fast_fifth(
    night: Night, measured: dict[tuple[int, str], Measurement]
) -> None:
    told = print_night(night, "throughput")
    for cell, name in zip(cells_of(told, 16), PROVIDERS, strict=True):
        found = re.fullmatch(r"([\d.]+) \(([\d.]+)-([\d.]+)\)", cell)
        assert found
        middle, low, high = map(float, found.groups())
        assert low < middle < high
        m = measured[16, name]
        p20, p80 = np.percentile(m.samples_us, (20, 80))
        expected = [m.check.flops / us / 1e6 for us in (median(m), p80, p20)]
        assert [middle, low, high] == pytest.approx(expected, rel=1e-3)


def test_bandwidth_is_told_with_the_share_of_the_floor(
    night: Night, measured: dict[tuple[int, str], Measurement]
) -> None:
    told = print_night(night, "bandwidth")
    m = measured[16, "triton"]
    floor_us = max(m.check.bytes_moved / 4000e9, m.check.flops / 1400e12) * 1e6
    found = re.fullmatch(r"([\d.,]+) \((\d+%)\)", cells_of(told, 16)[1])
    assert found
    assert float(found[1].replace(",", "")) == pytest.approx(m.check.bytes_moved / median(m) / 1e3, rel=1e-3)
    assert found[2] == f"{floor_us / median(m):.0%}"


def test_without_a_measured_ceiling_there_is_no_share(night: Night) -> None:
    for ceilings in ((), tuple(c for c in night.ceilings if c.name != "float8_e4m3fn gemm")):
        told = print_night(replace(night, ceilings=ceilings), "bandwidth")
        assert "%" not in told
        assert ("no ceiling was measured in this run" in told) is (not ceilings)
        assert re.fullmatch(r"[\d.,]+", cells_of(told, 16)[1])


def test_speed_ups_are_over_the_baseline_and_over_the_fastest_vllm_provider(
    night: Night, measured: dict[tuple[int, str], Measurement]
) -> None:
    told = print_night(night, "speedup")
    torch, triton, vllm = (measured[16, name] for name in PROVIDERS)
    assert cells_of(told, 16) == [
        f"1.00x / {divide_rounds(vllm, torch):.2f}x",
        f"{divide_rounds(torch, triton):.2f}x / {divide_rounds(vllm, triton):.2f}x",
        f"{divide_rounds(torch, vllm):.2f}x / 1.00x",
    ]
    assert "speed-up over torch / over the fastest vLLM provider" in told


def test_memory_is_one_row_per_layer_with_weights(night: Night) -> None:
    told = print_night(make_night(1), "memory")
    lines = [line for line in told.splitlines() if "fp8_block" in line]
    assert len(lines) == 2  # silu_mul_fp8 has no weights
    wide = 2 * count_weights(moe_layer())
    assert f"{wide / 1e9:.2f} GB" in lines[0]
    assert f"{(wide - WEIGHTS_BYTES) / 1e6:.2f} MB" in lines[0]
    assert f"{wide / WEIGHTS_BYTES:.2f}x" in lines[0]
    assert "times" not in told


def test_what_was_not_timed_shows_its_status_and_what_never_ran_its_reason() -> None:
    statuses = {
        (1, "torch"): Status.OK,
        (1, "triton"): Status.WRONG,
        (1, "vllm-cutlass"): Status.UNSUPPORTED,
        (16, "torch"): Status.OUT_OF_MEMORY,
        (16, "triton"): Status.OK,
        (16, "vllm-cutlass"): Status.UNSUPPORTED,
    }
    measurements = [make_measurement(Case(moe_layer(), t), name, status) for (t, name), status in statuses.items()]
    told = print_night(replace(make_night(1, measurements=measurements), verdicts=()), "times")
    assert cells_of(told, 1)[1] == "wrong"
    assert cells_of(told, 16)[0] == "out of memory"
    assert told.count("vllm-cutlass") == 1
    assert "vllm-cutlass: needs sm_100 (this is sm_90) (2 cases)" in told


def test_options_and_devices_have_tables_of_their_own() -> None:
    cases = [Case(silu_layer(), 64), Case(silu_layer(), 64, {"token_strategy": "max_t"})]
    measurements = [make_measurement(case, "triton", device=device) for case in cases for device in (H200, CPU)]
    told = print_night(replace(make_night(1, (H200, CPU), measurements), verdicts=()), "times")
    for axes in (f"{H200.name}, graph", f"max_t, {H200.name}", f"max_t, {CPU.name}"):
        assert f"  {axes}" in told
    assert told.count("median us per call") == 4


def test_an_option_that_is_switched_on_is_told_by_its_name() -> None:
    case = Case(moe_layer(), 16, {"apply_router_weight_on_input": "true", "activation_format": "batched"})
    told = print_night(replace(make_night(1, measurements=[make_measurement(case, "triton")]), verdicts=()), "times")
    assert f"  batched apply_router_weight_on_input, {H200.name}, graph: median us per call" in told


def test_a_table_is_never_wrapped_however_narrow_the_terminal(night: Night) -> None:
    assert print_night(night, "all", width=30).count("vllm-cutlass") == len(VIEWS)
    for table in VIEWS:
        narrow, wide = (cells_of(print_night(night, table, width), 16) for width in (20, 200))
        assert narrow == wide


def test_all_is_every_table(night: Night) -> None:
    told = print_night(night, "all")
    assert all(view.title.partition("{")[0] in told for view in VIEWS.values())
    assert "memory of the weights" in told
    assert "seconds of each unit" in told


def test_a_night_of_before_costs_were_noted_says_so(night: Night) -> None:
    assert "none were noted in this run" in print_night(replace(night, costs=()), "costs")


def test_each_timer_has_tables_of_its_own_and_the_main_one_comes_first() -> None:
    timed = [make_measurement(CASES[0], name, timer=timer) for name in PROVIDERS for timer in ("cold", "graph")]
    told = print_night(replace(make_night(1, measurements=timed), verdicts=()), "times")
    assert told.index(f"{H200.name}, graph: median") < told.index(f"{H200.name}, cold: median")
