"""Fused mixture of experts in 16 or 8 bits: each token through top_k experts of two GEMMs and a SiLU-and-mul, summed.

    h[t, e] = silu(q(x[t]) @ w1[e, :N].T) * (q(x[t]) @ w1[e, N:].T)
    out[t]  = sum over the top_k experts e of t that this rank has: topk_weight[t, e] * (q(h[t, e]) @ w2[e].T)

With apply_router_weight_on_input q(topk_weight[t, e] * x[t]) takes the place of q(x[t]), and the sum has no weights.
kernels/moe/schemes.py says what q() and the weights are in each scheme, kernels/moe/inputs.py what the activation
formats are. E experts, M tokens, hidden size K, intermediate size N per rank.
Source: vLLM, fused_moe.py; DeepSeek-V3 technical report (arXiv:2412.19437), section 3.3; LLM.int8() (arXiv:2208.07339).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from kernels.moe.fused_gluon import prepare_gluon, prepare_gluon_with, unsupported_gluon
from kernels.moe.fused_triton import prepare_fused, prepare_fused_with, unsupported_triton
from kernels.moe.inputs import (
    MOE_OPTIONS,
    MOE_SIZES,
    count_moe_weights,
    decode_moe,
    make_moe_inputs,
    moe_bytes,
    moe_flops,
    moe_sizes,
)
from kernels.moe.reference import launch_torch_moe, moe_reference, unsupported_torch_moe
from kernels.moe.schemes import (
    MOE_SCHEMES,
    MoeScheme,
    check_layer,
    count_scales,
    dequantize_activations,
    dequantize_weights,
    round_activations,
    scaled_matmul,
    scheme_of,
)
from kernels.moe.vllm_fused import VLLM_PROVIDERS
from kernels.moe.words_triton import WordsLayer, pack_experts, prepare_words, prepare_words_with
from kernels.quantize.fp8 import FP8_MAX
from kernels.spec import Case, Kernel, Launch, Layer, Provider, Tensors, Tolerance

A1_AMAX, A2_AMAX = 8.0, 32.0
"""Static calibration: hidden states, gate and up are N(0, 1), so the largest of 2**30 draws is about 6.2 for x and
20 for silu(gate) * up: nothing saturates. Headroom is nearly free: a float's relative step does not depend on it."""


def dtype_of(layer: Layer) -> torch.dtype:
    """The 16-bit dtype of hidden states, and of what is not quantized."""
    dtype: torch.dtype = getattr(torch, layer.dtype)
    return dtype


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """Draw w1 [E, 2 N, K] (gate rows, then up) and w2 [E, K, N] ~ N(0, 1 / fan_in) expert by expert; quantize them."""
    check_layer(layer)
    scheme, (num_experts, _, k, n) = scheme_of(layer), moe_sizes(layer)
    generator = torch.Generator(device).manual_seed(seed)
    weights: Tensors = {}
    for expert in range(num_experts):
        for name, rows, columns in (("w1", 2 * n, k), ("w2", k, n)):
            values = torch.randn(rows, columns, generator=generator, device=device) * columns**-0.5
            for stored, tensor in store_weights(scheme, name, values, dtype_of(layer)).items():
                if expert == 0:
                    weights[stored] = torch.empty(num_experts, *tensor.shape, dtype=tensor.dtype, device=device)
                weights[stored][expert] = tensor
    if scheme.scaling == "tensor":
        weights["a1_scale"] = torch.full((1,), A1_AMAX / FP8_MAX, device=device)
        weights["a2_scale"] = torch.full((1,), A2_AMAX / FP8_MAX, device=device)
    return weights


def store_weights(scheme: MoeScheme, name: str, values: torch.Tensor, dtype: torch.dtype) -> Tensors:
    """What is kept of one expert's matrix: codes and scales by name, or its values in 16 bits."""
    if scheme.quantize_weights is None:
        return {name: values.to(dtype)}
    codes, scale = scheme.quantize_weights(values)
    return {name: codes, f"{name}_scale": scale if scale.dim() == 2 else scale[0]}


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """As every MoE kernel's."""
    return make_moe_inputs(case, seed, device)


def fused_moe_reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """The formula of this file in float32.

    The intermediate stays float32 until q(); vLLM rounds it to 16 bits before and after SiLU-and-mul, which moves some
    values to the neighbouring code and is part of the tolerance.

    Returns:
        As moe_reference.
    """
    scheme, dtype = scheme_of(case.layer), dtype_of(case.layer)

    def linear(name: str, expert: int, x: torch.Tensor) -> torch.Tensor:
        codes, scale = round_activations(scheme, x, weights.get(f"a{name[1]}_scale"), dtype)
        w_scale = weights[f"{name}_scale"][expert] if f"{name}_scale" in weights else None
        return scaled_matmul(scheme, codes, scale, weights[name][expert], w_scale)

    return moe_reference(case, inputs, linear)


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Weights and scales of the experts that are routed to, hidden states in and out, the routing."""
    scheme, (_, _, k, n) = scheme_of(case.layer), moe_sizes(case.layer)
    weight_bytes = (scheme.weight_dtype or dtype_of(case.layer)).itemsize
    return moe_bytes(case, inputs, 3 * n * k * weight_bytes + 4 * count_scales(scheme, n, k))


# torch: dequantize once, then two grouped bfloat16 GEMMs


def weight_values(scheme: MoeScheme, weights: Tensors, name: str) -> torch.Tensor:
    """[E, n, k] bfloat16, converted one expert at a time.

    Also of float16 weights: only for bfloat16 does grouped_mm leave the number of rows of each expert on the device.
    """
    codes, scales = weights[name], weights.get(f"{name}_scale")
    if scales is None:
        return codes.to(torch.bfloat16)
    values = torch.empty(codes.shape, dtype=torch.bfloat16, device=codes.device)
    for expert in range(codes.shape[0]):
        values[expert] = dequantize_weights(scheme, codes[expert], scales[expert])
    return values


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Dequantize the weights once: it costs twice the bytes of 8-bit codes, and the GEMMs read bfloat16."""
    scheme, dtype = scheme_of(case.layer), dtype_of(case.layer)

    def round_rows(name: str, x: torch.Tensor) -> torch.Tensor:
        return dequantize_activations(scheme, *round_activations(scheme, x, weights.get(f"a{name[1]}_scale"), dtype))

    w1, w2 = (weight_values(scheme, weights, name) for name in ("w1", "w2"))
    return launch_torch_moe(case, inputs, w1, w2, round_rows)


# triton: INT8 weights that meet 16-bit values are repacked, others are read as they are


def int8_layer(weights: Tensors) -> WordsLayer:
    """The weights repacked."""
    w1, w2 = pack_experts("int8", weights, "_scale")
    return WordsLayer("int8", False, w1, w2, w1.factor, w2.factor)


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    if scheme_of(case.layer).has_words:
        return prepare_words(case, int8_layer(weights), inputs)
    return prepare_fused(case, weights, inputs)


def prepare_triton_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    if scheme_of(case.layer).has_words:
        return prepare_words_with(case, int8_layer(weights), inputs, config)
    return prepare_fused_with(case, weights, inputs, config)


def gemm_dtype_of(scheme: MoeScheme) -> str:
    """What tensor cores multiply: codes, or 16-bit values."""
    return str(scheme.activation_dtype or torch.bfloat16).removeprefix("torch.")


FP8_BLOCK_TOLERANCE = Tolerance(
    relative_error=0.04,
    element_error=0.1,
    share_close=0.99,
    reason="rounding gate, up and the intermediate to bfloat16, as torch and vLLM do, moves about 3 % of it to a "
    "neighbouring FP8 code, up to 1/8 away: 0.01 to 0.03 in norm was measured (0.002 to 0.019 of triton, "
    "which keeps gate and up in float32)",
)
FP8_TOLERANCE = replace(
    FP8_BLOCK_TOLERANCE,
    relative_error=0.05,
    reason=f"{FP8_BLOCK_TOLERANCE.reason}; one token through one expert had up to 0.048",
)
INT8_TOLERANCE = Tolerance(
    relative_error=0.03,
    element_error=0.06,
    share_close=0.99,
    reason="rounding gate, up and the intermediate to bfloat16 moves some of it to a neighbouring INT8 code, a step of "
    "1/127 of the row's largest: 0.006 to 0.017 in norm was measured, up to 0.02 for one token",
)
BFLOAT16_TOLERANCE = Tolerance(
    relative_error=0.01,
    element_error=0.02,
    share_close=0.99,
    reason="nothing is rounded but to 16 bits, weights included if torch dequantizes them: 0.001 to 0.006 in norm was "
    "measured, one bfloat16 rounding is up to 0.004 of a value",
)


def tolerance_of(scheme: MoeScheme) -> Tolerance:
    """By what activations are rounded to."""
    if scheme.activation_dtype is None:
        return BFLOAT16_TOLERANCE
    if scheme.activation_dtype == torch.int8:
        return INT8_TOLERANCE
    return FP8_BLOCK_TOLERANCE if scheme.scaling == "block" else FP8_TOLERANCE


KERNEL = Kernel(
    name="fused_moe",
    title="Fused MoE, 16-bit or 8-bit weights and activations",
    schemes=tuple(MOE_SCHEMES),
    size_names=MOE_SIZES,
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=fused_moe_reference,
    providers={
        "torch": Provider(prepare_torch, unsupported_torch_moe),
        "triton": Provider(prepare_triton, unsupported_triton, prepare_with=prepare_triton_with),
        "triton-gluon": Provider(prepare_gluon, unsupported_gluon, prepare_with=prepare_gluon_with),
        **VLLM_PROVIDERS,
    },
    baseline="torch",
    tolerance={name: tolerance_of(scheme) for name, scheme in MOE_SCHEMES.items()},
    flops=moe_flops,
    bytes_moved=bytes_moved,
    gemm_dtype={name: gemm_dtype_of(scheme) for name, scheme in MOE_SCHEMES.items()},
    decode=decode_moe,
    num_weights=count_moe_weights,
    check_layer=check_layer,
    options=MOE_OPTIONS,
)
