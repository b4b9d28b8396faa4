"""The table that holds our kernels against vLLM's: what is ours, what is the fastest other, what has no time."""

from datetime import UTC, datetime

import pytest
from against_vllm import Row, add_marlin, list_providers, print_means, print_table

from kernels.spec import Case, Device, Layer
from tasks.records import Check, Measurement, Status

H200 = Device("cuda", "NVIDIA H200", (9, 0))
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def case_of(scheme: str, num_tokens: int = 16) -> Case:
    return Case(Layer("mxfp4_gemm", "grid", 1, 1, scheme, "bfloat16", {"n": 256, "k": 512}), num_tokens)


def measured(case: Case, provider: str, us: float) -> Measurement:
    check = Check(case, provider, Status.OK, "host")
    return Measurement("run", check, "graph", H200, NOW, (us, us, us))


def test_the_faster_of_ours_is_held_against_the_fastest_other() -> None:
    row = Row(case_of("mxfp4_w4a4_hadamard32"), "graph", 8.0)
    row.times = {"triton": 30.0, "triton-exact-fp8": 20.0, "torch-bf16": 50.0, "vllm-marlin": 40.0, "torch": 1.0}
    assert (row.ours_us, row.best_other_us, row.ratio) == (20.0, 40.0, 2.0)
    row.times = {"vllm-marlin": 40.0}
    assert row.ratio is None


def test_marlin_on_16_bit_activations_stands_beside_the_dynamic_row_of_the_same_layer() -> None:
    rows = [Row(case_of("mxfp4_w4a4_hadamard32", tokens), "graph") for tokens in (16, 64)]
    add_marlin(rows, [measured(case_of("mxfp4_w4a16"), "vllm-marlin", 40.0)])
    assert [row.times for row in rows] == [{"vllm-marlin (mxfp4_w4a16)": 40.0}, {}]


def test_the_table_says_why_ours_has_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(case_of("mxfp4_w4a16", tokens), "graph", 8.0) for tokens in (1, 16)]
    rows[0].times, rows[1].times = {"triton": 16.0, "vllm-marlin": 20.0}, {"vllm-marlin": 21.0}
    rows[1].why["triton"] = "wrong"
    print_table(rows)
    print_means(rows)
    printed = capsys.readouterr().out
    assert "| 1 | 16.0 | 20.0 | 8.0 | 50% | 1.25 |" in printed
    assert "| 16 | wrong | 21.0 | 8.0 |  |  |" in printed
    assert "| mxfp4_gemm | mxfp4_w4a16 |  | graph | 1 | 1.25 | 1.25 | 1.25 |" in printed


def test_plain_torch_does_not_compete() -> None:
    names = list_providers()
    assert "torch" not in names
    assert {"triton", "triton-exact-fp8", "torch-bf16", "vllm-marlin"} <= set(names)
