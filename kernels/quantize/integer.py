"""INT8 and INT4 quantization in plain torch: symmetric, one float32 scale per group along the last dimension.

    scale = max(max|x|, 1e-10) / largest;  codes = round_half_to_even(x / scale)

A group is the whole last dimension (per token for activations, per channel for weights [n, k]) or part of it.
Source: vLLM, scaled_int8_quant and quantize_weights; arXiv:1712.05877, section 2.
"""

import torch

from kernels.errors import ShapeError
from kernels.quantize.fp4 import pack_nibbles, unpack_nibbles
from kernels.quantize.fp8 import AMAX_FLOOR, FP8_DTYPE, FP8_MAX, round_to_fp8

INT8_MAX = 127
INT4_MAX = 7
INT4_MIN = -8
INT4_GROUP_SCALE_MAX = FP8_MAX / -INT4_MIN
"""56: so that code times group scale stays in e4m3's range, where CUTLASS multiplies them."""


def quantize_symmetric(x: torch.Tensor, group_size: int | None, largest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes like x, int8 in -largest..largest, and scales [..., k / group_size] float32."""
    k = x.shape[-1]
    group_size = group_size or k
    if k % group_size:
        raise ShapeError(f"a last dimension of {k} does not divide into groups of {group_size}: use one per channel")
    groups = x.float().unflatten(-1, (k // group_size, group_size))
    scales = groups.abs().amax(dim=-1).clamp(min=AMAX_FLOOR) / largest
    codes = (groups / scales[..., None]).round().clamp(-largest, largest).to(torch.int8)
    return codes.reshape(x.shape), scales


def dequantize_symmetric(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 values that codes [..., k] with scales [..., k / group_size] stand for."""
    groups = codes.float().unflatten(-1, (scales.shape[-1], codes.shape[-1] // scales.shape[-1]))
    values: torch.Tensor = groups * scales[..., None]
    return values.reshape(codes.shape)


def quantize_int8(x: torch.Tensor, group_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to INT8, symmetric, one scale per group along the last dimension.

    Args:
        x: [..., k] any float dtype, k divisible by group_size.
        group_size: columns of a group; by default all k: per token of activations, per channel of weights.
    Returns:
        codes like x, int8 in -127..127; scales [..., k / group_size] float32.
    Raises:
        ShapeError: k is not divisible by group_size; the message names both.
    Source: vLLM, scaled_int8_quant (symmetric, dynamic).
    """
    return quantize_symmetric(x, group_size, INT8_MAX)


def int4_values(packed: torch.Tensor) -> torch.Tensor:
    """The int8 values -8..7 [..., k] of packed two's complement nibbles [..., k / 2]."""
    return ((unpack_nibbles(packed) ^ 8).to(torch.int8) - 8).to(torch.int8)


def quantize_int4_fp8(x: torch.Tensor, group_size: int = 128) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize to INT4 with an e4m3 scale per group along the last dimension and a float32 scale per row.

    scale[g] = max(max|x[g]|, 1e-10) / 7;  row_scale = max(scale) / 56;  group_scale = round_to_e4m3(scale / row_scale)
    codes = round_half_to_even(x / (group_scale * row_scale)), 0 where the group scale rounds to 0

    Args:
        x: [..., k] any float dtype, k divisible by group_size and even.
    Returns:
        codes [..., k / 2] uint8, two's complement nibbles in -7..7, low nibble first; group scales
        [..., k / group_size] float8_e4m3fn, at most 56; row scales [...] float32.
    Raises:
        ShapeError: k is not divisible by group_size; the message names both.
    Source: vLLM, convert_bf16_scales_to_fp8 and CutlassExpertsW4A8Fp8.
    """
    _, scales = quantize_symmetric(x, group_size, INT4_MAX)
    row_scales = scales.amax(dim=-1) / INT4_GROUP_SCALE_MAX
    group_scales = round_to_fp8(scales / row_scales[..., None])
    steps = (group_scales.float() * row_scales[..., None])[..., None]
    codes = torch.where(steps == 0, 0.0, x.float().unflatten(-1, (-1, group_size)) / steps)
    codes = codes.round().clamp(-INT4_MAX, INT4_MAX).to(torch.int8).flatten(-2)
    return pack_nibbles(codes.view(torch.uint8) & 15), group_scales, row_scales


def int4_fp8_values(codes: torch.Tensor, group_scales: torch.Tensor) -> torch.Tensor:
    """The float32 values [..., k] of codes [..., k / 2] times group scales, without row scales: exact."""
    if group_scales.dtype != FP8_DTYPE:
        raise ShapeError(f"group scales are {group_scales.dtype}: give {FP8_DTYPE}")
    return dequantize_symmetric(int4_values(codes), group_scales.float())
