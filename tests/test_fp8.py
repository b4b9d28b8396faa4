"""The quantizers against torch's own casts, bit for bit, and the properties every group must have."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.errors import ShapeError
from kernels.quantize.fp8 import (
    AMAX_FLOOR,
    FP8_MAX,
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
