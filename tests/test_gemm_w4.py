"""Unpacking 4-bit weights in a Triton kernel: every byte under every scale, against the plain-torch values."""

import pytest
import torch
import triton
import triton.language as tl

from kernels.moe.gemm_w4 import INT4_UNIT, unpack_weights
from kernels.quantize.fp4 import dequantize_mxfp4, nvfp4_values
from kernels.quantize.integer import int4_values

ALL_BYTES = torch.arange(256, dtype=torch.uint8)


@triton.jit
def unpack_kernel(
    codes_ptr, scales_ptr, out_ptr, FORMAT: tl.constexpr, ROWS: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr
):
    row = tl.arange(0, ROWS)[:, None]
    codes = tl.load(codes_ptr + row * (K // 2) + tl.arange(0, K // 2)[None, :])
    scales = tl.load(scales_ptr + row * GROUPS + tl.arange(0, GROUPS)[None, :])
    values = unpack_weights(codes, scales, FORMAT, tl.bfloat16)
    tl.store(out_ptr + row * K + tl.arange(0, K)[None, :], values)


def unpack(codes: torch.Tensor, scales: torch.Tensor, weight_format: str) -> torch.Tensor:
    rows, k = codes.shape[0], 2 * codes.shape[1]
    dtype = torch.float8_e4m3fn if weight_format == "int4" else torch.bfloat16
    out = torch.empty(rows, k, dtype=dtype)
    unpack_kernel[(1,)](codes, scales, out, FORMAT=weight_format, ROWS=rows, K=k, GROUPS=scales.shape[1])
    return out.float()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy's, in the interpreter
def test_every_mxfp4_byte_under_every_scale_is_exact():
    codes, scales = ALL_BYTES.repeat(256, 1), ALL_BYTES[:, None].repeat(1, 16)
    expected = dequantize_mxfp4(codes, scales)
    output = unpack(codes, scales, "mxfp4")
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output.nan_to_num(posinf=1, neginf=-1), expected.nan_to_num(posinf=1, neginf=-1))


def test_every_nvfp4_byte_under_every_scale_is_exact():
    finite = ALL_BYTES.view(torch.float8_e4m3fn).float().isfinite()
    scales = torch.where(finite, ALL_BYTES, 0).view(torch.float8_e4m3fn)[:, None].repeat(1, 32)
    codes = ALL_BYTES.repeat(256, 1)
    assert torch.equal(unpack(codes, scales, "nvfp4"), nvfp4_values(codes, scales))


def test_every_int4_byte_is_an_e4m3_code_of_the_same_value():
    codes, scales = ALL_BYTES.repeat(16, 1), torch.ones(16, 4)
    assert torch.equal(unpack(codes, scales, "int4") * INT4_UNIT.value, int4_values(codes).float())


@pytest.mark.parametrize("weight_format", ["mxfp4", "nvfp4"])
def test_low_nibbles_come_first(weight_format: str):
    codes = torch.full((16, 16), 0x42, dtype=torch.uint8)
    scales = torch.full((16, 1 if weight_format == "mxfp4" else 2), 127, dtype=torch.uint8)
    if weight_format == "nvfp4":
        scales = torch.ones(scales.shape).to(torch.float8_e4m3fn)
    assert torch.equal(unpack(codes, scales, weight_format), torch.tensor([1.0, 2.0]).repeat(16, 16))
