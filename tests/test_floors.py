"""The floor of a case by hand, and empty wherever something was not measured."""

import pytest
from records import make_ceiling, make_measurement

from tasks.floors import find_floor_us, group_rates

RATES = {"copy": 4000.0, "float8_e4m3fn gemm": 1000.0, "bfloat16 gemm": 500.0}


@pytest.mark.parametrize(
    ("bytes_moved", "flops", "dtype", "floor_us"),
    [
        (4_000_000_000, 0, "", 1000.0),  # 4 GB at 4000 GB/s
        (4_000_000_000, 10**15, "", 1000.0),  # without a GEMM operations do not bound
        (4_000_000_000, 10**9, "bfloat16", 1000.0),
        (4_000_000_000, 10**12, "bfloat16", 2000.0),  # 1 TFLOP at 500 TFLOP/s
        (4_000_000_000, 2 * 10**12, "float8_e4m3fn", 2000.0),
        (1_000, 2 * 10**12, "float8_e4m3fn", 2000.0),
        (4_000_000_000, 0, "bfloat16", 1000.0),  # no token of an expert-parallel batch is this rank's
    ],
)
def test_the_floor_is_the_larger_of_bytes_and_operations(
    bytes_moved: int, flops: int, dtype: str, floor_us: float
) -> None:
    check = make_measurement(bytes_moved=bytes_moved, flops=flops).check
    assert find_floor_us(check, RATES, dtype) == pytest.approx(floor_us)


@pytest.mark.parametrize("dtype", ["int8", "float4_e2m1fn_x2"])
def test_a_rate_that_was_not_measured_leaves_the_floor_empty(dtype: str) -> None:
    check = make_measurement(bytes_moved=10**9, flops=10**12).check
    assert find_floor_us(check, RATES, dtype) is None
    assert find_floor_us(check, {}, "") is None
    assert find_floor_us(check, {"bfloat16 gemm": 500.0}, "bfloat16") is None


def test_a_case_without_inputs_has_no_floor() -> None:
    assert find_floor_us(make_measurement().check, RATES, "bfloat16") is None


def test_rates_are_kept_apart_by_host() -> None:
    there = make_ceiling("int8 gemm", 9.0)
    here = make_ceiling()
    assert group_rates([here, there]) == {here.host_id: {"copy": 4256.5, "int8 gemm": 9.0}}
    assert group_rates([]) == {}
