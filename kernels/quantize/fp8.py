"""FP8 quantization in plain torch: what weights are made with and what every reference quantizes activations with.

All share one formula (e4m3fn, largest finite value 448; the floor keeps an all-zero group from dividing by zero):

    scale = max(max|x|, 1e-10) / 448;  codes = round_to_e4m3(clamp(x / scale, -448, 448))

Groups may have UE8M0 scales, which are rounded up to powers of two: their exponent is all there is to store.
Source: vLLM, per_token_group_quant_fp8 and scaled_fp8_quant; arXiv:2209.05433 (FP8 Formats for Deep Learning).
"""

import torch

from kernels.errors import ShapeError

FP8_DTYPE = torch.float8_e4m3fn
FP8_MAX = 448.0
AMAX_FLOOR = 1e-10


def scale_of(amax: torch.Tensor) -> torch.Tensor:
    """The scale that maps the largest magnitude of a group onto the largest e4m3 value."""
    return amax.clamp(min=AMAX_FLOOR) / FP8_MAX


def ceil_to_ue8m0(scale: torch.Tensor) -> torch.Tensor:
    """Round scales up to powers of two, exactly: what an unsigned eight-bit exponent can hold.

    ceil_to_ue8m0(s) = 2 ** ceil(log2(s));  NaN for infinity and NaN, as UE8M0 has one code for both

    Args:
        scale: any shape, float32, from 2**-126 to 2**127.
    Returns:
        float32 like scale; a cast to float8_e8m0fnu loses nothing.
    Source: OCP Microscaling Formats (MX) v1.0, E8M0; DeepGEMM, ceil_to_ue8m0.
    """
    power = (scale.view(torch.int32) & 0x7F800000).view(torch.float32)  # 2 ** floor(log2(scale))
    rounded: torch.Tensor = power * (scale / power).ceil()
    return rounded


def round_to_fp8(x: torch.Tensor) -> torch.Tensor:
    """Saturate to the e4m3 range and round to nearest even; x is float32, already divided by its scale."""
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE)


def quantize_fp8_tensor(x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to FP8 e4m3 with one scale for the whole tensor.

    scale = max|x| / 448 unless given (static quantization);  codes = round_to_e4m3(x / scale)

    Args:
        x: any shape, any float dtype.
        scale: [1] float32, a calibrated scale; larger values saturate.
    Returns:
        codes like x, float8_e4m3fn; scale [1] float32.
    """
    x = x.float()
    if scale is None:
        scale = scale_of(x.abs().amax()).reshape(1)
    return round_to_fp8(x / scale), scale


def dequantize_fp8_tensor(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The float32 values that codes with one scale stand for."""
    return codes.float() * scale


def quantize_fp8_block(w: torch.Tensor, block_n: int = 128, block_k: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize weights to FP8 e4m3 with one scale per block of rows and columns.

    scale[i, j] = max|w[block i, j]| / 448;  codes = round_to_e4m3(w / scale of its block)

    Args:
        w: [..., n, k] any float dtype, n divisible by block_n and k by block_k.
    Returns:
        codes like w, float8_e4m3fn; scales [..., n / block_n, k / block_k] float32.
    Raises:
        ShapeError: n or k is not divisible by its block; the message names both.
    Source: DeepSeek-V3 technical report (arXiv:2412.19437), section 3.3.2.
    """
    n, k = w.shape[-2:]
    if n % block_n or k % block_k:
        raise ShapeError(f"{n} x {k} weights do not divide into {block_n} x {block_k} blocks: use a per-tensor scale")
    blocks = w.float().unflatten(-1, (k // block_k, block_k)).unflatten(-3, (n // block_n, block_n))
    scales = scale_of(blocks.abs().amax(dim=(-3, -1)))
    return round_to_fp8(blocks / scales[..., :, None, :, None]).reshape(w.shape), scales


def dequantize_fp8_block(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 values that codes [..., n, k] with scales [..., n / block_n, k / block_k] stand for."""
    (n, k), (rows, columns) = codes.shape[-2:], scales.shape[-2:]
    blocks = codes.float().unflatten(-1, (columns, k // columns)).unflatten(-3, (rows, n // rows))
    values: torch.Tensor = blocks * scales[..., :, None, :, None]
    return values.reshape(codes.shape)


def quantize_fp8_group(
    x: torch.Tensor, group_size: int = 128, ue8m0: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize activations to FP8 e4m3 with one scale per group along the last dimension of each token.

    scale[i] = max|x[group i]| / 448;  codes = round_to_e4m3(x / scale of its group)
    with ue8m0: scale[i] = 2 ** ceil(log2(max|x[group i]| / 448))

    Args:
        x: [..., k] any float dtype, k divisible by group_size.
        ue8m0: round the scales up to powers of two; dividing by them is exact.
    Returns:
        codes like x, float8_e4m3fn; scales [..., k / group_size] float32. A group with an infinity or a NaN in it
        dequantizes to NaN throughout.
    Raises:
        ShapeError: k is not divisible by group_size; the message names both.
    Source: DeepSeek-V3 technical report (arXiv:2412.19437), section 3.3.2; for UE8M0 scales vLLM's
        DeepGemmQuantScaleFMT.FLOAT32_CEIL_UE8M0.
    """
    k = x.shape[-1]
    if k % group_size:
        raise ShapeError(f"a last dimension of {k} does not divide into groups of {group_size}: use one scale")
    groups = x.float().unflatten(-1, (k // group_size, group_size))
    scales = scale_of(groups.abs().amax(dim=-1))
    if ue8m0:
        scales = ceil_to_ue8m0(scales)
    return round_to_fp8(groups / scales[..., None]).reshape(x.shape), scales


def quantize_fp8_row(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to FP8 e4m3 with one scale per row: per token of activations, per output channel of weights [n, k].

    scale[i] = max|x[i]| / 448;  codes = round_to_e4m3(x / scale of its row)

    Args:
        x: [..., k] any float dtype.
    Returns:
        codes like x, float8_e4m3fn; scales [..., 1] float32.
    Source: vLLM, scaled_fp8_quant with use_per_token_if_dynamic.
    """
    return quantize_fp8_group(x, x.shape[-1])


def dequantize_fp8_group(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 values that codes [..., k] with scales [..., k / group_size] stand for."""
    groups = codes.float().unflatten(-1, (scales.shape[-1], codes.shape[-1] // scales.shape[-1]))
    values: torch.Tensor = groups * scales[..., None]
    return values.reshape(codes.shape)
