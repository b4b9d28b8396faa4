"""Fused mixture of experts with MXFP4 weights: e2m1 values with one power of two per 32 columns.

    h[t, e] = silu(q(x[t]) @ w1[e, :N].T) * (q(x[t]) @ w1[e, N:].T)
    out[t]  = sum over the top_k experts e of t: topk_weight[t, e] * (q(h[t, e]) @ w2[e].T)

q() is the layer's 16-bit dtype (mxfp4_w4a16), or rounds to MXFP4 with dynamic scales that avoid
saturation, as vLLM does (mxfp4_w4a4). E experts, M tokens, hidden size K, intermediate size N per rank.
Source: OCP Microscaling Formats (MX) v1.0; gpt-oss model card (arXiv:2508.10925), section 2; vLLM, CutlassExpertsMxfp4.
"""

from collections.abc import Mapping

import torch

from kernels.moe import words_gluon
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
from kernels.moe.reference import unsupported_torch_moe
from kernels.moe.vllm_w4 import MXFP4_VLLM_PROVIDERS
from kernels.moe.w4_weights import (
    ExpertValues,
    Factor,
    RoundActivations,
    check_groups,
    draw_weights,
    launch_torch_w4,
    w4_reference,
)
from kernels.moe.words_triton import WordsLayer, pack_experts, prepare_words, prepare_words_with
from kernels.quantize.fp4 import MXFP4_GROUP_SIZE, dequantize_mxfp4, quantize_mxfp4
from kernels.requirements import missing_capability
from kernels.spec import Case, Device, Kernel, Launch, Layer, Provider, Tensors, Tolerance

W4A16, W4A4 = "mxfp4_w4a16", "mxfp4_w4a4"
SCHEMES = (W4A16, W4A4)


def check_layer(layer: Layer) -> None:
    """Refuse a layer whose matrices do not divide into groups of 32."""
    check_groups(layer, MXFP4_GROUP_SIZE)


def quantize_expert(values: torch.Tensor) -> Tensors:
    """Codes [n, k / 2] and scales [n, k / 32], both uint8."""
    codes, scales = quantize_mxfp4(values)
    return {"": codes, "_scale": scales}


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """w1 [E, 2 N, K / 2], w1_scale [E, 2 N, K / 32], w2 [E, K, N / 2], w2_scale [E, K, N / 32], all uint8."""
    check_layer(layer)
    return draw_weights(layer, seed, device, quantize_expert)


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """As every MoE kernel's."""
    return make_moe_inputs(case, seed, device)


def values_of(weights: Tensors) -> ExpertValues:
    """What an expert's codes stand for."""
    return lambda name, expert: (dequantize_mxfp4(weights[name][expert], weights[f"{name}_scale"][expert]), 1.0)


def rounding_of(layer: Layer) -> RoundActivations:
    """The scheme's q()."""

    def round_activations(name: str, x: torch.Tensor) -> tuple[torch.Tensor, Factor]:
        if layer.scheme == W4A4:
            return dequantize_mxfp4(*quantize_mxfp4(x, avoid_saturation=True)), 1.0
        return x.to(getattr(torch, layer.dtype)).float(), 1.0

    return round_activations


def mxfp4_moe_reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """The formula of this file in float32; the intermediate stays float32 until q().

    Returns:
        As moe_reference.
    """
    return w4_reference(case, inputs, values_of(weights), rounding_of(case.layer))


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Codes and scales of the experts that are routed to, hidden states in and out, the routing."""
    _, _, k, n = moe_sizes(case.layer)
    return moe_bytes(case, inputs, 3 * n * k // 2 + 3 * n * k // MXFP4_GROUP_SIZE)


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The weights in bfloat16, which holds MXFP4 values exactly."""
    return launch_torch_w4(case, weights, inputs, values_of(weights), rounding_of(case.layer))


def triton_layer(case: Case, weights: Tensors, by_lanes: bool = False) -> WordsLayer:
    """The weights repacked."""
    w1, w2 = pack_experts("mxfp4", weights, "_scale", by_lanes)
    return WordsLayer("mxfp4", case.layer.scheme == W4A4, w1, w2, w1.factor, w2.factor, by_lanes=by_lanes)


def prepare_gluon(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    return words_gluon.prepare_gluon(case, triton_layer(case, weights, by_lanes=True), inputs)


def prepare_gluon_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    return words_gluon.prepare_gluon_with(case, triton_layer(case, weights, by_lanes=True), inputs, config)


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    return prepare_words(case, triton_layer(case, weights), inputs)


def prepare_triton_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    return prepare_words_with(case, triton_layer(case, weights), inputs, config)


def unsupported_triton(case: Case, device: Device) -> str | None:
    """Weights are multiplied as bfloat16, which tensor cores know since sm_80."""
    return missing_capability(device, (8, 0))


KERNEL = Kernel(
    name="mxfp4_moe",
    title="Fused MoE, MXFP4 weights",
    schemes=SCHEMES,
    size_names=MOE_SIZES,
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=mxfp4_moe_reference,
    providers={
        "torch": Provider(prepare_torch, unsupported_torch_moe),
        "triton": Provider(prepare_triton, unsupported_triton, prepare_with=prepare_triton_with),
        "triton-gluon": Provider(prepare_gluon, words_gluon.unsupported_gluon, prepare_with=prepare_gluon_with),
        **MXFP4_VLLM_PROVIDERS,
    },
    baseline="torch",
    tolerance={
        W4A16: Tolerance(
            relative_error=0.01,
            element_error=0.03,
            share_close=0.99,
            reason="gate, up and the output of each pair are rounded to bfloat16, 2**-9 away at most: 0.001 to 0.006 "
            "in norm was measured",
        ),
        W4A4: Tolerance(
            relative_error=0.09,
            element_error=0.2,
            share_close=0.97,
            reason="rounding gate and up to bfloat16, as torch and vLLM do, moves values of the intermediate to "
            "another code and scales to twice or half: 0.018 to 0.075 in norm was measured (0.001 to 0.003 if "
            "float32 is kept)",
        ),
    },
    flops=moe_flops,
    bytes_moved=bytes_moved,
    gemm_dtype={W4A16: "bfloat16", W4A4: "bfloat16"},
    decode=decode_moe,
    num_weights=count_moe_weights,
    check_layer=check_layer,
    options=MOE_OPTIONS,
)
