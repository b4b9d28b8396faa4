"""The MXFP4 linear layer's schemes, weights, inputs and costs.

mxfp4_w4a16              weights in MXFP4, activations stay in 16 bits
mxfp4_w4a4_hadamard<h>   both rotated by the Hadamard matrix in groups of h along k, both in MXFP4

The option `activations` says what of the w4a4 schemes is timed: "dynamic" rotates and quantizes x every time, for
"prequantized" (vLLM's row "noquant") that has happened before and the matrix product is timed alone.
"""

import torch

from kernels.errors import ShapeError
from kernels.quantize.fp4 import MXFP4_GROUP_SIZE, dequantize_mxfp4, quantize_mxfp4
from kernels.quantize.hadamard import rotate_hadamard
from kernels.spec import Case, Layer, Tensors

W4A16 = "mxfp4_w4a16"
HADAMARD_SIZES = {"mxfp4_w4a4_hadamard32": 32, "mxfp4_w4a4_hadamard64": 64, "mxfp4_w4a4_hadamard128": 128}
SCHEMES = (*HADAMARD_SIZES, W4A16)
LINEAR_SIZES = ("n", "k")
"""n output features and k input features, as one rank has them."""

ACTIVATION_OPTIONS = {"activations": ("dynamic", "prequantized")}
ROWS_AT_ONCE = 4096
"""Rows of the weights that are drawn or dequantized at a time: float32 copies of all of them would fill a GPU."""


def is_prequantized(case: Case) -> bool:
    """Whether codes and scales of the activations are inputs."""
    return case.options.get("activations") == "prequantized"


def unsupported_activations(case: Case) -> str | None:
    """Why no provider takes the case's options under its scheme; None if they go together."""
    if case.layer.scheme == W4A16 and is_prequantized(case):
        return f"{W4A16} does not quantize activations: activations=prequantized is for the w4a4 schemes"
    return None


def check_layer(layer: Layer) -> None:
    """Refuse a k that does not divide into MXFP4 groups, or into Hadamard groups."""
    multiple = max(HADAMARD_SIZES.get(layer.scheme, 0), MXFP4_GROUP_SIZE)
    if layer.sizes["k"] % multiple:
        smaller = f" or {SCHEMES[0]}" if multiple > MXFP4_GROUP_SIZE else ""
        raise ShapeError(
            f"k {layer.sizes['k']} per rank is not a multiple of {multiple}, which {layer.scheme} needs: "
            f"use a smaller tp_size{smaller}"
        )


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """Draw w [n, k] ~ N(0, 1 / k), rotate it if the scheme does, and quantize it.

    Returns:
        w [n, k / 2] uint8, low nibble first; w_scale [n, k / 32] uint8, e8m0.
    """
    check_layer(layer)
    n, k = layer.sizes["n"], layer.sizes["k"]
    generator = torch.Generator(device).manual_seed(seed)
    w = torch.empty(n, k // 2, dtype=torch.uint8, device=device)
    w_scale = torch.empty(n, k // MXFP4_GROUP_SIZE, dtype=torch.uint8, device=device)
    for first in range(0, n, ROWS_AT_ONCE):
        rows = slice(first, min(first + ROWS_AT_ONCE, n))
        values = torch.randn(rows.stop - first, k, generator=generator, device=device) * k**-0.5
        if layer.scheme in HADAMARD_SIZES:
            values = rotate_hadamard(values, HADAMARD_SIZES[layer.scheme])
        w[rows], w_scale[rows] = quantize_mxfp4(values)
    return {"w": w, "w_scale": w_scale}


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """Draw x [M, k] ~ N(0, 1); for prequantized activations also x_codes [M, k / 2] and x_scale [M, k / 32]."""
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(case.num_tokens, case.layer.sizes["k"], generator=generator, device=device)
    inputs = {"x": x.to(getattr(torch, case.layer.dtype))}
    if is_prequantized(case) and case.layer.scheme in HADAMARD_SIZES:
        inputs["x_codes"], inputs["x_scale"] = quantize_activations(case, inputs)
    return inputs


def quantize_activations(case: Case, inputs: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [M, k / 2] and scales [M, k / 32] of the rotated x: the inputs' own if they have them."""
    if "x_codes" in inputs:
        return inputs["x_codes"], inputs["x_scale"]
    return quantize_mxfp4(rotate_hadamard(inputs["x"], HADAMARD_SIZES[case.layer.scheme]))


def round_activations(case: Case, inputs: Tensors) -> torch.Tensor:
    """What the scheme multiplies, [M, k]: x as it is, or float32 values of the rotated and quantized x."""
    if case.layer.scheme == W4A16:
        return inputs["x"]
    return dequantize_mxfp4(*quantize_activations(case, inputs))


def dequantize_weights(weights: Tensors, dtype: torch.dtype) -> torch.Tensor:
    """The values of w [n, k]: exact in bfloat16, and in float16 unless a scale leaves its range."""
    w, w_scale = weights["w"], weights["w_scale"]
    values = torch.empty(w.shape[0], 2 * w.shape[1], dtype=dtype, device=w.device)
    for rows, codes, scales in zip(
        values.split(ROWS_AT_ONCE), w.split(ROWS_AT_ONCE), w_scale.split(ROWS_AT_ONCE), strict=True
    ):
        rows.copy_(dequantize_mxfp4(codes, scales))
    return values


def count_weights(layer: Layer) -> int:
    """n * k."""
    return layer.sizes["n"] * layer.sizes["k"]


def flops(case: Case, inputs: Tensors) -> int:
    """Of the matrix product; the rotation and the quantization are not what the layer is for."""
    return 2 * case.num_tokens * count_weights(case.layer)


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Codes and scales of the weights, activations as they are given (codes and scales if prequantized), the output."""
    n, k = case.layer.sizes["n"], case.layer.sizes["k"]
    weights = n * k // 2 + n * k // MXFP4_GROUP_SIZE
    names = ("x_codes", "x_scale") if "x_codes" in inputs else ("x",)
    return weights + sum(inputs[name].nbytes for name in names) + case.num_tokens * n * inputs["x"].element_size()
