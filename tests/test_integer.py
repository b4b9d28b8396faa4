"""The integer quantizers against numpy, bit for bit, and the properties every group must have."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.errors import ShapeError
from kernels.quantize.integer import (
    dequantize_symmetric,
    int4_fp8_values,
    int4_values,
    quantize_int4_fp8,
    quantize_int8,
    quantize_symmetric,
)


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def quantized_by_numpy(x: np.ndarray, group_size: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    groups = x.reshape(x.shape[0], -1, group_size)
    scales = np.maximum(np.abs(groups).max(axis=-1), np.float32(1e-10)) / np.float32(largest)
    return np.clip(np.rint(groups / scales[..., None]), -largest, largest).astype(np.int8).reshape(x.shape), scales


@settings(max_examples=30, deadline=None)
@given(exponent=st.integers(-20, 20), group_size=st.sampled_from([64, 128, 256]), seed=st.integers(0, 999))
def test_int8_codes_and_scales_are_numpys(exponent: int, group_size: int, seed: int):
    x = random_matrix(3, 256, seed) * 2.0**exponent
    codes, scales = quantize_int8(x, group_size)
    expected, expected_scales = quantized_by_numpy(x.numpy(), group_size, 127)
    assert (codes.numpy() == expected).all()
    assert (scales.numpy() == expected_scales).all()


@settings(max_examples=30, deadline=None)
@given(exponent=st.integers(-20, 20), group_size=st.sampled_from([32, 128]), seed=st.integers(0, 999))
def test_int4_codes_and_scales_are_numpys(exponent: int, group_size: int, seed: int):
    x = random_matrix(3, 256, seed) * 2.0**exponent
    codes, group_scales, row_scales = quantize_int4_fp8(x, group_size)
    _, scales = quantized_by_numpy(x.numpy(), group_size, 7)
    expected_rows = scales.max(axis=-1) / np.float32(56)
    expected_groups = (scales / expected_rows[:, None]).astype(ml_dtypes.float8_e4m3fn)
    steps = (expected_groups.astype(np.float32) * expected_rows[:, None])[..., None]
    expected = np.clip(np.rint(x.numpy().reshape(3, -1, group_size) / steps), -7, 7).reshape(3, 256)
    assert (row_scales.numpy() == expected_rows).all()
    assert (group_scales.view(torch.uint8).numpy() == expected_groups.view(np.uint8)).all()
    assert (int4_values(codes).numpy() == expected).all()


def test_a_scale_is_per_row_unless_a_group_is_given():
    assert quantize_int8(random_matrix(3, 100))[1].shape == (3, 1)


def test_halves_round_to_even():
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0]])
    assert quantize_int8(x)[0].tolist() == [[127, 0, 2, 2, 0, -2, -2, -127]]
    x = 56 * torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -7.0]])  # a step of 56 * 1, exactly
    assert int4_values(quantize_int4_fp8(x, 8)[0]).tolist() == [[7, 0, 2, 2, 0, -2, -2, -7]]


def test_every_byte_holds_two_signed_nibbles():
    values = int4_values(torch.arange(256, dtype=torch.uint8)[:, None])
    signed = [nibble - 16 if nibble > 7 else nibble for nibble in range(16)]
    assert values.tolist() == [[signed[byte & 15], signed[byte >> 4]] for byte in range(256)]
    assert values.dtype == torch.int8


@pytest.mark.parametrize("group_size", [None, 128])
def test_every_value_is_within_half_a_step_of_itself(group_size: int | None):
    x = random_matrix(5, 256)
    codes, scales = quantize_int8(x, group_size)
    steps = scales.repeat_interleave(256 // scales.shape[1], dim=-1)
    assert ((dequantize_symmetric(codes, scales) - x).abs() <= 0.5001 * steps).all()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4_fp8])
def test_zeros_quantize_to_zeros_with_finite_scales(quantize):
    codes, *scales = quantize(torch.zeros(2, 256))
    assert not codes.any()
    assert all(scale.float().isfinite().all() and (scale.float() > 0).all() for scale in scales)


@settings(max_examples=20, deadline=None)
@given(exponent=st.integers(-20, 20), seed=st.integers(0, 999))
def test_int4_with_fp8_scales_is_within_half_a_step_of_the_rounded_scale(exponent: int, seed: int):
    x = random_matrix(4, 512, seed) * 2.0**exponent
    codes, group_scales, row_scales = quantize_int4_fp8(x)
    assert (codes.shape, group_scales.shape, row_scales.shape) == ((4, 256), (4, 4), (4,))
    steps = (group_scales.float() * row_scales[:, None]).repeat_interleave(128, dim=-1)
    error = (int4_fp8_values(codes, group_scales) * row_scales[:, None] - x).abs()
    # A scale that was rounded down leaves the largest value up to a sixteenth short of 7 steps.
    assert (error <= torch.where(x.abs() > 7.5 * steps, 0.55, 0.5001) * steps).all()


def test_the_largest_group_scale_of_a_row_is_56_so_that_no_product_leaves_e4m3():
    codes, group_scales, _ = quantize_int4_fp8(random_matrix(64, 512) * torch.logspace(-3, 3, 64)[:, None])
    assert group_scales.float().amax(dim=-1).tolist() == [56.0] * 64
    assert int4_fp8_values(codes, group_scales).abs().max() <= 448


def test_group_scales_are_those_vllm_makes_of_a_checkpoints_scales():
    scales = quantize_symmetric(random_matrix(32, 1024), 128, 7)[1]
    channel_scales = scales.amax(dim=-1, keepdim=True) / 448
    fp8_scales = ((scales / channel_scales).to(torch.float8_e4m3fn).float() / 8).to(torch.float8_e4m3fn)
    _, group_scales, row_scales = quantize_int4_fp8(random_matrix(32, 1024))
    assert torch.equal(group_scales.view(torch.uint8), fp8_scales.view(torch.uint8))
    assert torch.equal(row_scales, (channel_scales * 8)[:, 0])


def test_a_group_too_small_for_its_rows_scale_is_zero():
    x = torch.cat((torch.full((1, 128), 1.0), torch.full((1, 128), 1e-9)), dim=1)
    codes, group_scales, _ = quantize_int4_fp8(x)
    assert group_scales.float().tolist() == [[56.0, 0.0]]
    assert torch.equal(int4_fp8_values(codes, group_scales)[:, 128:], torch.zeros(1, 128))


@pytest.mark.parametrize("quantize", [partial(quantize_int8, group_size=128), quantize_int4_fp8])
def test_a_row_that_does_not_divide_into_groups_is_refused(quantize):
    with pytest.raises(ShapeError, match="96 does not divide into groups of 128"):
        quantize(torch.zeros(2, 96))


def test_group_scales_of_another_dtype_are_refused():
    with pytest.raises(ShapeError, match=r"group scales are torch.float32: give torch.float8_e4m3fn"):
        int4_fp8_values(torch.zeros(1, 64, dtype=torch.uint8), torch.ones(1, 1))
