"""FP4 (e2m1) quantization in plain torch: MXFP4 and NVFP4, which share the values and differ in their scales.

An e2m1 code is sign, two bits of exponent, one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. Two codes
are packed into a byte, low nibble first.
Source: OCP Microscaling Formats (MX) v1.0, section 5; NVIDIA, "Introducing NVFP4"; vLLM, scaled_fp4_quant.
"""

from functools import cache

import torch

from kernels.errors import ShapeError
from kernels.quantize.fp8 import FP8_DTYPE, FP8_MAX, round_to_fp8

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_MAX = 6.0
E2M1_EMAX = 2
"""Exponent of the largest e2m1 value: 6 = 1.5 * 2**2."""

MXFP4_GROUP_SIZE = 32
NVFP4_GROUP_SIZE = 16
E8M0_NAN = 255


def round_to_e2m1(x: torch.Tensor) -> torch.Tensor:
    """The nearest e2m1 code of each value, ties to the even code, saturating at 6.

    Args:
        x: any shape, float32; NaN gives 0.
    Returns:
        codes like x, uint8 in 0..15: bit 3 is the sign.
    """
    magnitude = x.abs()
    code = (magnitude > 0.25).to(torch.uint8)
    # A tie goes up where the code above is even: 0.75 -> 1, 1.75 -> 2, 3.5 -> 4.
    for step, tie_goes_up in ((0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False)):
        code += (magnitude >= step) if tie_goes_up else (magnitude > step)
    return code | (torch.signbit(x) & ~x.isnan()).to(torch.uint8) << 3


@cache
def e2m1_table(device: torch.device) -> torch.Tensor:
    """The float32 values of codes 0..15, on the device once: a CUDA graph cannot capture a copy from the host."""
    return torch.tensor(E2M1_VALUES + tuple(-value for value in E2M1_VALUES), device=device)


def e2m1_values(codes: torch.Tensor) -> torch.Tensor:
    """The float32 values of e2m1 codes 0..15, any shape."""
    return e2m1_table(codes.device)[codes.int()]


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes [..., k] into each byte [..., k / 2], the first in the low nibble."""
    packed: torch.Tensor = codes[..., 0::2] | codes[..., 1::2] << 4
    return packed


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The codes [..., k] uint8 of bytes [..., k / 2]."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def split_groups(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """[..., k] to float32 [..., k / group_size, group_size]."""
    k = x.shape[-1]
    if k % group_size:
        raise ShapeError(f"a last dimension of {k} does not divide into groups of {group_size}: pad it")
    groups: torch.Tensor = x.float().unflatten(-1, (k // group_size, group_size))
    return groups


def e8m0_values(scales: torch.Tensor) -> torch.Tensor:
    """The float32 powers of two of e8m0 codes: 2 ** (code - 127), NaN for 255; exact also for 2**-127."""
    bits = torch.where(scales == 0, 1 << 22, scales.to(torch.int32) << 23)  # the same exponent, but for one subnormal
    return torch.where(scales == E8M0_NAN, torch.nan, bits.view(torch.float32))


def quantize_mxfp4(x: torch.Tensor, *, avoid_saturation: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to MXFP4: e2m1 values, one e8m0 scale per 32 along the last dimension.

    scale = 2 ** (floor(log2(max|x|)) - 2);  code = round_to_e2m1(x / scale)

    A largest magnitude of 7 to 8 scales saturates at 6; with avoid_saturation the scale of such a group is doubled.
    A group of zeros gets the least scale; one with NaN or infinity gets the NaN scale, so that it stays visible.

    Args:
        x: [..., k] bfloat16, float16 or float32, k divisible by 32.
        avoid_saturation: as vLLM and compressed-tensors do.
    Returns:
        codes [..., k / 2] uint8, low nibble first; scales [..., k / 32] uint8 (biased exponent).
    Raises:
        ShapeError: k is not divisible by 32; the message names both.
    Source: OCP Microscaling Formats (MX) v1.0, sections 5.3 and 6.3; compressed-tensors, generate_mx_scales.
    """
    groups = split_groups(x, MXFP4_GROUP_SIZE)
    amax = groups.abs().amax(dim=-1)
    quarter = 1 << 21 if avoid_saturation else 0  # of the mantissa: from 1.75 on it carries into the exponent
    exponent = (amax.view(torch.int32) + quarter) >> 23  # as float32 has it, biased like e8m0
    code = (exponent - E2M1_EMAX).clamp(0, E8M0_NAN - 1)
    scales = torch.where(amax.isfinite(), code, E8M0_NAN).to(torch.uint8)
    codes = round_to_e2m1(groups / e8m0_values(scales)[..., None])
    return pack_nibbles(codes.flatten(-2)), scales


def dequantize_mxfp4(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 values [..., k] that codes [..., k / 2] with e8m0 scales [..., k / 32] stand for."""
    values = e2m1_values(unpack_nibbles(codes)).unflatten(-1, (-1, MXFP4_GROUP_SIZE))
    scaled: torch.Tensor = values * e8m0_values(scales)[..., None]
    return scaled.flatten(-2)


def nvfp4_global_scale(amax: torch.Tensor) -> torch.Tensor:
    """The global scale that maps a tensor's largest magnitude onto 448 * 6, the largest product of scale and value."""
    return FP8_MAX * E2M1_MAX / amax.float().clamp(min=1e-10)


def quantize_nvfp4(
    x: torch.Tensor, global_scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize to NVFP4: e2m1 values, one e4m3 scale per 16 along the last dimension, one float32 scale per tensor.

    scale = round_to_e4m3(global_scale * max|x| / 6);  code = round_to_e2m1(x * global_scale / scale)

    Args:
        x: [..., k] bfloat16, float16 or float32, k divisible by 16.
        global_scale: [1] float32 as vLLM has it, a multiplier; by default 448 * 6 / max|x|.
    Returns:
        codes [..., k / 2] uint8, low nibble first; scales [..., k / 16] float8_e4m3fn; global_scale [1] float32.
    Raises:
        ShapeError: k is not divisible by 16; the message names both.
    Source: vLLM, scaled_fp4_quant; NVIDIA, "Introducing NVFP4".
    """
    groups = split_groups(x, NVFP4_GROUP_SIZE)
    if global_scale is None:
        global_scale = nvfp4_global_scale(groups.abs().amax().reshape(1))
    scales = round_to_fp8(groups.abs().amax(dim=-1) * global_scale / E2M1_MAX)
    divisor = scales.float()[..., None]
    scaled = torch.where(divisor == 0, 0.0, groups * global_scale / divisor)
    return pack_nibbles(round_to_e2m1(scaled).flatten(-2)), scales, global_scale


def nvfp4_values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 values [..., k] of codes [..., k / 2] times scales [..., k / 16], without a global scale: exact."""
    if scales.dtype != FP8_DTYPE:
        raise ShapeError(f"NVFP4 scales are {scales.dtype}: give {FP8_DTYPE}")
    values = e2m1_values(unpack_nibbles(codes)).unflatten(-1, (-1, NVFP4_GROUP_SIZE))
    scaled: torch.Tensor = values * scales.float()[..., None]
    return scaled.flatten(-2)
