"""The quantizers against torch's own casts and ml_dtypes, bit for bit, and the properties every group must have."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.errors import ShapeError
from kernels.quantize.fp8 import (
    AMAX_FLOOR,
    FP8_MAX,
    ceil_to_ue8m0,
    dequantize_fp8_block,
    dequantize_fp8_group,
    dequantize_fp8_tensor,
    quantize_fp8_block,
    quantize_fp8_group,
    quantize_fp8_tensor,
)

HALF_STEP = 2.0**-4  # of a normal e4m3 value, relative; below 2**-6 the step is 2**-9 of the scale


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def bits(codes: torch.Tensor) -> torch.Tensor:
    return codes.view(torch.uint8)


def test_one_scale_gives_the_codes_of_torchs_cast():
    x = random_matrix(37, 50)
    codes, scale = quantize_fp8_tensor(x)
    assert torch.equal(scale, (x.abs().max() / 448).reshape(1))
    assert torch.equal(bits(codes), bits((x / scale).to(torch.float8_e4m3fn)))


def test_groups_give_the_codes_of_quantizing_each_group_alone():
    x = random_matrix(3, 384).to(torch.bfloat16)
    codes, scales = quantize_fp8_group(x)
    assert scales.shape == (3, 3)
    for row in range(3):
        for group in range(3):
            columns = slice(128 * group, 128 * (group + 1))
            expected, scale = quantize_fp8_tensor(x[row, columns])
            assert torch.equal(bits(codes[row, columns]), bits(expected))
            assert scales[row, group] == scale


def test_blocks_give_the_codes_of_quantizing_each_block_alone():
    w = random_matrix(2 * 256, 384).reshape(2, 256, 384)
    codes, scales = quantize_fp8_block(w, 128, 128)
    assert scales.shape == (2, 2, 3)
    for expert in range(2):
        for i in range(2):
            for j in range(3):
                block = (expert, slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1)))
                expected, scale = quantize_fp8_tensor(w[block])
                assert torch.equal(bits(codes[block]), bits(expected))
                assert scales[expert, i, j] == scale


def test_a_static_scale_saturates_what_is_larger():
    codes, scale = quantize_fp8_tensor(torch.tensor([1.0, -3.0, 100.0, -1e30]), torch.tensor([1 / 448]))
    assert codes.float().tolist() == [448.0, -448.0, 448.0, -448.0]
    assert scale.tolist() == torch.tensor([1 / 448]).tolist()


@pytest.mark.parametrize("quantize", [quantize_fp8_tensor, quantize_fp8_block, quantize_fp8_group])
def test_zeros_quantize_to_zeros_with_the_floor_as_scale(quantize):
    codes, scales = quantize(torch.zeros(128, 256))
    assert not codes.float().any()
    torch.testing.assert_close(scales, torch.full_like(scales, AMAX_FLOOR / FP8_MAX))


def test_a_zero_row_among_others_stays_zero():
    x = random_matrix(4, 256)
    x[2] = 0
    assert not dequantize_fp8_group(*quantize_fp8_group(x))[2].any()


def test_codes_come_back_as_they_were():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = codes[codes.float().isfinite()]
    scale = torch.tensor([0.125])
    again, _ = quantize_fp8_tensor(dequantize_fp8_tensor(codes, scale), scale)
    assert torch.equal(bits(again), bits(codes))


@pytest.mark.parametrize("shape", [(128, 96), (96, 128)])
def test_a_weight_that_does_not_divide_into_blocks_is_refused(shape):
    with pytest.raises(ShapeError, match=f"{shape[0]} x {shape[1]} weights do not divide into 128 x 128 blocks"):
        quantize_fp8_block(torch.zeros(shape))


def test_a_row_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ShapeError, match="96 does not divide into groups of 128"):
        quantize_fp8_group(torch.zeros(2, 96))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 4), groups=st.integers(1, 3), exponent=st.integers(-20, 20), seed=st.integers(0, 999))
def test_every_value_is_within_half_a_step_of_itself(rows: int, groups: int, exponent: int, seed: int):
    x = random_matrix(rows, 128 * groups, seed) * 2.0**exponent
    codes, scales = quantize_fp8_group(x)
    error = (dequantize_fp8_group(codes, scales) - x).abs()
    limit = torch.maximum(x.abs() * HALF_STEP, scales.repeat_interleave(128, dim=-1) * 2.0**-10)
    assert (error <= limit * 1.0001).all()


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), seed=st.integers(0, 999))
def test_blocks_of_one_row_are_groups(rows: int, columns: int, seed: int):
    x = random_matrix(rows, 128 * columns, seed)
    by_block, by_group = quantize_fp8_block(x, 1, 128), quantize_fp8_group(x)
    assert torch.equal(bits(by_block[0]), bits(by_group[0]))
    assert torch.equal(by_block[1], by_group[1])
    assert torch.equal(dequantize_fp8_block(*by_block), dequantize_fp8_group(*by_group))


def quantize_alone(group: np.ndarray, ue8m0: bool) -> tuple[bytes, np.float32]:
    """Codes and scale of one group, by numpy and ml_dtypes; a power of two is taken apart in double precision."""
    amax = max(np.abs(group).max(), np.float32(AMAX_FLOOR))
    scale = amax / np.float32(FP8_MAX)
    if ue8m0:
        mantissa, exponent = math.frexp(float(amax) / FP8_MAX)  # in [0.5, 1)
        power = ml_dtypes.float8_e8m0fnu(2.0 ** (exponent - (mantissa == 0.5)))
        scale = np.float32(power)
    return (group / scale).astype(ml_dtypes.float8_e4m3fn).tobytes(), scale


@settings(max_examples=40, deadline=None)
@given(
    group_size=st.sampled_from([64, 128, 256]),
    ue8m0=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    exponent=st.integers(-40, 100),
    seed=st.integers(0, 999),
)
def test_groups_are_those_of_ml_dtypes_bit_for_bit(
    group_size: int, ue8m0: bool, dtype: torch.dtype, exponent: int, seed: int
):
    x = (random_matrix(3, 2 * group_size, seed) * 2.0**exponent).to(dtype)
    x[1] = 0
    codes, scales = quantize_fp8_group(x, group_size, ue8m0)
    assert codes.dtype == torch.float8_e4m3fn
    assert scales.dtype == torch.float32
    groups = x.float().numpy().reshape(3, 2, group_size)
    for row in range(3):
        for group in range(2):
            expected, scale = quantize_alone(groups[row, group], ue8m0)
            columns = slice(group * group_size, (group + 1) * group_size)
            assert bytes(bits(codes[row, columns]).numpy()) == expected
            assert scales[row, group].item() == scale


@pytest.mark.parametrize("exponent", [-34, -1, 0, 1, 100])
def test_a_ue8m0_scale_doubles_one_float_above_448_times_a_power_of_two(exponent: int):
    boundary = torch.tensor(448 * 2.0**exponent)
    above = boundary.nextafter(torch.tensor(math.inf))
    for largest, expected in ((boundary, 2.0**exponent), (above, 2.0 ** (exponent + 1))):
        codes, scales = quantize_fp8_group(torch.stack((largest, -largest)).repeat(32), 64, ue8m0=True)
        assert scales.tolist() == [expected]
        assert dequantize_fp8_group(codes, scales).tolist() == [448 * 2.0**exponent, -448 * 2.0**exponent] * 32


@settings(max_examples=100, deadline=None)
@given(st.floats(2.0**-126, 2.0**127, width=32))
def test_a_ue8m0_scale_is_the_next_power_of_two_and_its_exponent_is_all_of_it(scale: float):
    power = ceil_to_ue8m0(torch.tensor([scale]))
    assert power.item() / 2 < scale <= power.item()
    assert torch.equal(power.to(torch.float8_e8m0fnu).float(), power)
    assert np.float32(ml_dtypes.float8_e8m0fnu(power.item())) == power.item()


def test_ue8m0_has_one_code_for_infinity_and_nan():
    scales = ceil_to_ue8m0(torch.tensor([math.inf, math.nan, 1.0]))
    assert scales.isnan().tolist() == [True, True, False]
    assert scales.to(torch.float8_e8m0fnu).view(torch.uint8).tolist() == [255, 255, 127]


@pytest.mark.parametrize("ue8m0", [False, True])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_infinity_or_nan_makes_its_group_nan_and_no_other(value: float, ue8m0: bool):
    x = random_matrix(2, 384)
    x[1, 130] = value
    values = dequantize_fp8_group(*quantize_fp8_group(x, 128, ue8m0))
    expected = torch.zeros(2, 384, dtype=torch.bool)
    expected[1, 128:256] = True
    assert torch.equal(values.isnan(), expected)
