"""Fused mixture of experts with NVFP4 weights: e2m1 values, an e4m3 scale per 16 columns, a global scale per expert.

    h[t, e] = silu(q(x[t]) @ w1[e, :N].T) * (q(x[t]) @ w1[e, N:].T)
    out[t]  = sum over the top_k experts e of t: topk_weight[t, e] * (q(h[t, e]) @ w2[e].T)

q() is the layer's 16-bit dtype (nvfp4_w4a16), or rounds to NVFP4 with a static global scale (nvfp4_w4a4). E experts,
M tokens, hidden size K, intermediate size N per rank.
Source: NVIDIA, "Introducing NVFP4"; vLLM, CutlassExpertsFp4 and benchmark_cutlass_fp4_moe.py.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from kernels import fused_moe
from kernels.moe import fused_triton, words_gluon
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
from kernels.moe.vllm_w4 import NVFP4_VLLM_PROVIDERS
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
from kernels.quantize.fp4 import NVFP4_GROUP_SIZE, nvfp4_global_scale, nvfp4_values, quantize_nvfp4
from kernels.quantize.fp8 import FP8_DTYPE, FP8_MAX, quantize_fp8_tensor
from kernels.requirements import missing_capability
from kernels.spec import Case, Device, Kernel, Launch, Layer, Provider, Tensors, Tolerance

W4A16, W4A4 = "nvfp4_w4a16", "nvfp4_w4a4"
SCHEMES = (W4A16, W4A4)


def check_layer(layer: Layer) -> None:
    """Refuse a layer whose matrices do not divide into groups of 16."""
    check_groups(layer, NVFP4_GROUP_SIZE)


def quantize_expert(values: torch.Tensor) -> Tensors:
    """Codes [n, k / 2] uint8, scales [n, k / 16] float8_e4m3fn and the global scale [] float32, a multiplier."""
    codes, scales, global_scale = quantize_nvfp4(values)
    return {"": codes, "_scale": scales, "_global_scale": global_scale[0]}


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """w1 [E, 2 N, K / 2], w1_scale [E, 2 N, K / 16], w1_global_scale [E], w2 and its scales likewise.

    With nvfp4_w4a4 also a1_global_scale and a2_global_scale [1], of the hidden states and of the intermediate.
    """
    check_layer(layer)
    weights = draw_weights(layer, seed, device, quantize_expert)
    if layer.scheme == W4A4:
        for name, amax in (("a1", fused_moe.A1_AMAX), ("a2", fused_moe.A2_AMAX)):
            weights[f"{name}_global_scale"] = nvfp4_global_scale(torch.full((1,), amax, device=device))
    return weights


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """As every MoE kernel's."""
    return make_moe_inputs(case, seed, device)


def values_of(weights: Tensors) -> ExpertValues:
    """What an expert's codes stand for."""

    def expert_values(name: str, expert: int) -> tuple[torch.Tensor, Factor]:
        values = nvfp4_values(weights[name][expert], weights[f"{name}_scale"][expert])
        return values, 1 / weights[f"{name}_global_scale"][expert]

    return expert_values


def rounding_of(layer: Layer, weights: Tensors) -> RoundActivations:
    """The scheme's q()."""

    def round_activations(name: str, x: torch.Tensor) -> tuple[torch.Tensor, Factor]:
        if layer.scheme == W4A4:
            codes, scales, global_scale = quantize_nvfp4(x, weights[f"a{name[1]}_global_scale"])
            return nvfp4_values(codes, scales), 1 / global_scale
        return x.to(getattr(torch, layer.dtype)).float(), 1.0

    return round_activations


def nvfp4_moe_reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """The formula of this file in float32; the intermediate stays float32 until q().

    Returns:
        As moe_reference.
    """
    return w4_reference(case, inputs, values_of(weights), rounding_of(case.layer, weights))


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Codes and scales of the experts that are routed to, hidden states in and out, the routing."""
    _, _, k, n = moe_sizes(case.layer)
    return moe_bytes(case, inputs, 3 * n * k // 2 + 3 * n * k // NVFP4_GROUP_SIZE + 2 * 4)


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The weights in bfloat16, which rounds what the global scale makes of them."""
    return launch_torch_w4(case, weights, inputs, values_of(weights), rounding_of(case.layer, weights))


def triton_layer(case: Case, weights: Tensors, by_lanes: bool = False) -> WordsLayer:
    """The weights repacked; one over the product of the global scales multiplies whole sums."""
    w1, w2 = pack_experts("nvfp4", weights, "_scale", by_lanes)
    return WordsLayer(
        format="nvfp4",
        rounds_to_fp4=case.layer.scheme == W4A4,
        w1=w1,
        w2=w2,
        w1_factor=w1.factor / (weights["w1_global_scale"] * weights.get("a1_global_scale", 1.0))[:, None],
        w2_factor=w2.factor / (weights["w2_global_scale"] * weights.get("a2_global_scale", 1.0))[:, None],
        a1_global_scale=weights.get("a1_global_scale"),
        a2_global_scale=weights.get("a2_global_scale"),
        by_lanes=by_lanes,
    )


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    return prepare_words(case, triton_layer(case, weights), inputs)


def prepare_triton_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    return prepare_words_with(case, triton_layer(case, weights), inputs, config)


def prepare_gluon(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    return words_gluon.prepare_gluon(case, triton_layer(case, weights, by_lanes=True), inputs)


def prepare_gluon_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    return words_gluon.prepare_gluon_with(case, triton_layer(case, weights, by_lanes=True), inputs, config)


def unsupported_triton(case: Case, device: Device) -> str | None:
    """Weights are multiplied as bfloat16, but Triton knows the e4m3 scales only since sm_89."""
    return missing_capability(device, (8, 9))


# the comparison row: the same layer in FP8, which is another function

FP8_TOLERANCE = {
    W4A16: Tolerance(
        relative_error=0.08,
        element_error=0.2,
        share_close=0.99,
        reason="rounding weights and activations to FP8 after the weights are NVFP4 is another function: 0.042 to "
        "0.054 in norm was measured",
    ),
    W4A4: Tolerance(
        relative_error=0.25,
        element_error=0.3,
        share_close=0.95,
        reason="activations in FP8 are not activations in NVFP4: 0.13 to 0.171 in norm, which is the rounding error of "
        "NVFP4, was measured",
    ),
}


def fp8_case(case: Case) -> Case:
    """The same layer under fused_moe's fp8_w8a8."""
    return replace(case, layer=replace(case.layer, kernel=fused_moe.KERNEL.name, scheme="fp8_w8a8"))


def requantize(weights: Tensors) -> Tensors:
    """The dequantized weights in FP8 with one scale per expert and matrix, and scales of activations."""
    expert_values = values_of(weights)
    requantized: Tensors = {}
    for name in ("w1", "w2"):
        num_experts, n, packed = weights[name].shape
        codes = torch.empty(num_experts, n, 2 * packed, dtype=FP8_DTYPE, device=weights[name].device)
        scales = torch.empty(num_experts, device=codes.device)
        for expert in range(num_experts):
            values, factor = expert_values(name, expert)
            codes[expert], scales[expert : expert + 1] = quantize_fp8_tensor(values * factor)
        requantized |= {name: codes, f"{name}_scale": scales}
    for name, amax in (("a1", fused_moe.A1_AMAX), ("a2", fused_moe.A2_AMAX)):
        requantized[f"{name}_scale"] = torch.full((1,), amax / FP8_MAX, device=codes.device)
    return requantized


def prepare_fp8(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """Our FP8 kernel on the weights quantized again."""
    return fused_triton.prepare_fused(fp8_case(case), requantize(weights), inputs)


def prepare_fp8_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """The same with a given configuration."""
    return fused_triton.prepare_fused_with(fp8_case(case), requantize(weights), inputs, config)


def unsupported_fp8(case: Case, device: Device) -> str | None:
    """What our FP8 kernel does not run."""
    return fused_moe.KERNEL.providers["triton"].unsupported(fp8_case(case), device)


KERNEL = Kernel(
    name="nvfp4_moe",
    title="Fused MoE, NVFP4 weights",
    schemes=SCHEMES,
    size_names=MOE_SIZES,
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=nvfp4_moe_reference,
    providers={
        "torch": Provider(prepare_torch, unsupported_torch_moe),
        "triton": Provider(prepare_triton, unsupported_triton, prepare_with=prepare_triton_with),
        "triton-gluon": Provider(prepare_gluon, words_gluon.unsupported_gluon, prepare_with=prepare_gluon_with),
        "triton-fp8": Provider(prepare_fp8, unsupported_fp8, FP8_TOLERANCE, prepare_fp8_with),
        **NVFP4_VLLM_PROVIDERS,
    },
    baseline="torch",
    tolerance={
        W4A16: Tolerance(
            relative_error=0.01,
            element_error=0.03,
            share_close=0.99,
            reason="gate, up, the output of each pair and torch's weights are rounded to bfloat16, 2**-9 away at most: "
            "0.001 to 0.006 in norm was measured",
        ),
        W4A4: Tolerance(
            relative_error=0.08,
            element_error=0.2,
            share_close=0.97,
            reason="rounding gate and up to bfloat16, as torch and vLLM do, moves values and scales of the "
            "intermediate to the neighbouring code: 0.02 to 0.042 in norm was measured (0.001 to 0.003 if float32 "
            "is kept)",
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
