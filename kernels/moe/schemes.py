"""What each scheme of fused_moe means: how weights and activations are rounded, and where their scales go in.

scaling, of a product a @ w.T with a sum over k:
    none     both operands are 16-bit values
    tensor   one scale per expert's weights, one static scale for all activations: once, after the sum
    channel  one scale per output channel of the weights, one per token if activations are codes: once, after the sum
    block    one scale per 128 x 128 weights, one per token and 128 of k: every 128 of the sum
    group    one scale per output channel and 128 of k, activations are values: every 128 of the sum
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from kernels.errors import ShapeError
from kernels.quantize.fp8 import (
    FP8_DTYPE,
    dequantize_fp8_block,
    dequantize_fp8_tensor,
    quantize_fp8_block,
    quantize_fp8_group,
    quantize_fp8_row,
    quantize_fp8_tensor,
)
from kernels.quantize.integer import dequantize_symmetric, quantize_int8
from kernels.spec import Layer

GROUP_SIZE = 128
SUMS_AT_ONCE = 1 << 25
"""Sums over single groups that a reference holds at once, each in float32: a launch for each group would be slow."""

Scaling = Literal["none", "tensor", "channel", "block", "group"]
Quantizer = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""(values, static scale if there is one) -> codes, scales."""


@dataclass(frozen=True, slots=True)
class MoeScheme:
    """One scheme of fused_moe."""

    scaling: Scaling
    """Where scales go in: see this file's docstring."""
    weight_dtype: torch.dtype | None = None
    """Of the weights' codes; None for values of the layer's dtype."""
    activation_dtype: torch.dtype | None = None
    """Of the activations' codes; None for values of the layer's dtype."""
    quantize_weights: Quantizer | None = None
    """Of one expert's matrix [n, k]."""
    quantize_activations: Quantizer | None = None
    """Of rows [..., k]."""

    @property
    def is_grouped(self) -> bool:
        """Whether k divides into groups of 128 with scales of their own."""
        return self.scaling in ("block", "group")

    @property
    def has_words(self) -> bool:
        """Whether our Triton provider repacks weights (kernels/gemm/w8_words.py): converting them is what they cost."""
        return self.weight_dtype == torch.int8 and self.activation_dtype is None

    @property
    def rounds_whole_rows(self) -> bool:
        """Whether activations can only be rounded when the largest of a whole row is known."""
        return self.scaling == "channel" and self.activation_dtype is not None


INT8 = torch.int8
MOE_SCHEMES = {
    "fp8_w8a8": MoeScheme("tensor", FP8_DTYPE, FP8_DTYPE, quantize_fp8_tensor, quantize_fp8_tensor),
    "fp8_w8a8_block128": MoeScheme("block", FP8_DTYPE, FP8_DTYPE, quantize_fp8_block, quantize_fp8_group),
    "fp8_w8a8_channel": MoeScheme("channel", FP8_DTYPE, FP8_DTYPE, quantize_fp8_row, quantize_fp8_row),
    "unquantized": MoeScheme("none"),
    "int8_w8a16": MoeScheme("channel", INT8, None, quantize_int8),
    "int8_w8a16_group128": MoeScheme("group", INT8, None, partial(quantize_int8, group_size=GROUP_SIZE)),
    "int8_w8a8": MoeScheme("channel", INT8, INT8, quantize_int8, quantize_int8),
}
"""By name; the first is the kernel's default."""


def scheme_of(layer: Layer) -> MoeScheme:
    """The layer's scheme."""
    return MOE_SCHEMES[layer.scheme]


def check_layer(layer: Layer) -> None:
    """Refuse a layer whose matrices do not divide into its scheme's groups of 128."""
    if not scheme_of(layer).is_grouped:
        return
    for name in ("hidden_size", "intermediate_size"):
        if layer.sizes[name] % GROUP_SIZE:
            raise ShapeError(
                f"{name} {layer.sizes[name]} per rank is not a multiple of {GROUP_SIZE}, which {layer.scheme} needs: "
                f"use a smaller tp_size or a scheme without groups"
            )


def count_scales(scheme: MoeScheme, n: int, k: int) -> int:
    """Scales of one expert's weights; the static ones of activations are not counted."""
    return {
        "none": 0,
        "tensor": 2,
        "channel": 2 * n + k,
        "block": 3 * n * k // GROUP_SIZE**2,
        "group": 3 * n * k // GROUP_SIZE,
    }[scheme.scaling]


def dequantize_weights(scheme: MoeScheme, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The float32 values that one expert's codes [n, k] stand for."""
    if scheme.scaling == "tensor":
        return dequantize_fp8_tensor(codes, scale)
    return dequantize_fp8_block(codes, scale) if scheme.scaling == "block" else dequantize_symmetric(codes, scale)


def round_activations(
    scheme: MoeScheme, x: torch.Tensor, static_scale: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The scheme's q().

    Args:
        x: [..., k] any float dtype.
        static_scale: [1] float32 for scaling "tensor", else None.
        dtype: of values that stay values.
    Returns:
        codes like x and their scales, [..., k / group] or [1]; or values like x, and None.
    """
    if scheme.quantize_activations is None:
        return x.to(dtype), None
    return scheme.quantize_activations(x) if static_scale is None else scheme.quantize_activations(x, static_scale)


def dequantize_activations(scheme: MoeScheme, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """The float32 values of what round_activations returned."""
    if scale is None:
        return codes.float()
    return dequantize_fp8_tensor(codes, scale) if scheme.scaling == "tensor" else dequantize_symmetric(codes, scale)


def scaled_matmul(
    scheme: MoeScheme, a: torch.Tensor, a_scale: torch.Tensor | None, w: torch.Tensor, w_scale: torch.Tensor | None
) -> torch.Tensor:
    """(a * a_scale) @ (w * w_scale).T in float32; codes are multiplied before they are scaled.

    Codes and 16-bit values fit into TF32's 10 bits of mantissa, so the products are exact whether or not TF32 is
    switched on.

    Args:
        a, w: [m, k] and [n, k], codes or 16-bit values.
        a_scale, w_scale: of the activations and of one expert's weights, as the scheme's quantizers return them.
    """
    if scheme.is_grouped and w_scale is not None:
        return scaled_group_matmul(a, a_scale, w, w_scale)
    result = a.float() @ w.float().T
    if w_scale is not None:
        w_scale = w_scale.T if w_scale.dim() == 2 else w_scale  # [1, n] or a scalar
        result *= w_scale if a_scale is None else a_scale * w_scale
    return result


def scaled_group_matmul(
    a: torch.Tensor, a_scale: torch.Tensor | None, w: torch.Tensor, w_scale: torch.Tensor
) -> torch.Tensor:
    """As scaled_matmul where every 128 of k have scales: their sums are scaled one by one, then added up."""
    (m, k), n = a.shape, w.shape[0]
    num_groups = k // GROUP_SIZE
    left = a.float().unflatten(-1, (num_groups, GROUP_SIZE)).transpose(0, 1)  # [k / 128, m, 128]
    right = w.float().unflatten(-1, (num_groups, GROUP_SIZE)).permute(1, 2, 0)  # [k / 128, 128, n]
    scale = w_scale.repeat_interleave(n // w_scale.shape[0], dim=0).T[:, None]  # [k / 128, 1, n]
    result = torch.zeros(m, n, device=a.device)
    num_at_once = max(1, SUMS_AT_ONCE // max(1, m * n))
    for first in range(0, num_groups, num_at_once):
        some = slice(first, first + num_at_once)
        some_scale = scale[some] if a_scale is None else a_scale.T[some, :, None] * scale[some]
        result += (left[some] @ right[some] * some_scale).sum(dim=0)
    return result
