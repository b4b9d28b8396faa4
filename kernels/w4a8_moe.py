"""Fused mixture of experts with INT4 weights and FP8 activations: an e4m3 scale per 128 columns, one per channel.

    h[t, e] = silu(q(x[t]) @ w1[e, :N].T) * (q(x[t]) @ w1[e, N:].T)
    out[t]  = sum over the top_k experts e of t: topk_weight[t, e] * (q(h[t, e]) @ w2[e].T)

q() rounds to FP8 e4m3 with one dynamic scale per token. A weight is code * group_scale * channel_scale. E experts, M
tokens, hidden size K, intermediate size N per rank.
Source: vLLM, CutlassExpertsW4A8Fp8 and compressed_tensors_moe_w4a8_fp8.py.
"""

from collections.abc import Mapping

import torch

from kernels.gemm.words import interleave_gate_up
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
from kernels.moe.int4_gluon import prepare_int4_gluon, prepare_int4_gluon_with
from kernels.moe.reference import unsupported_torch_moe
from kernels.moe.vllm_w4 import W4A8_VLLM_PROVIDERS
from kernels.moe.w4_weights import (
    ExpertValues,
    Factor,
    check_groups,
    draw_weights,
    launch_torch_w4,
    w4_reference,
)
from kernels.moe.words_triton import WordsLayer, pack_experts, prepare_words, prepare_words_with
from kernels.quantize.fp8 import quantize_fp8_row
from kernels.quantize.integer import int4_fp8_values, quantize_int4_fp8
from kernels.requirements import missing_capability, missing_family
from kernels.spec import Case, Device, Kernel, Launch, Layer, Provider, Tensors, Tolerance

W4A8 = "int4_w4a8_fp8"
GROUP_SIZE = 128


def check_layer(layer: Layer) -> None:
    """Refuse a layer whose matrices do not divide into groups of 128."""
    check_groups(layer, GROUP_SIZE)


def quantize_expert(values: torch.Tensor) -> Tensors:
    """Codes [n, k / 2] uint8, group scales [n, k / 128] float8_e4m3fn and channel scales [n] float32."""
    codes, group_scale, channel_scale = quantize_int4_fp8(values, GROUP_SIZE)
    return {"": codes, "_group_scale": group_scale, "_channel_scale": channel_scale}


def make_weights(layer: Layer, seed: int, device: torch.device) -> Tensors:
    """w1 [E, 2 N, K / 2], w1_group_scale [E, 2 N, K / 128], w1_channel_scale [E, 2 N], w2 and its scales likewise."""
    check_layer(layer)
    return draw_weights(layer, seed, device, quantize_expert)


def make_inputs(case: Case, weights: Tensors, seed: int, device: torch.device) -> Tensors:
    """As every MoE kernel's."""
    return make_moe_inputs(case, seed, device)


def values_of(weights: Tensors) -> ExpertValues:
    """What an expert's codes stand for."""

    def expert_values(name: str, expert: int) -> tuple[torch.Tensor, Factor]:
        values = int4_fp8_values(weights[name][expert], weights[f"{name}_group_scale"][expert])
        return values, weights[f"{name}_channel_scale"][expert]

    return expert_values


def round_activations(name: str, x: torch.Tensor) -> tuple[torch.Tensor, Factor]:
    """q()."""
    codes, scale = quantize_fp8_row(x)
    return codes.float(), scale


def w4a8_moe_reference(case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """The formula of this file in float32; the intermediate stays float32 until q().

    Returns:
        As moe_reference.
    """
    return w4_reference(case, inputs, values_of(weights), round_activations)


def bytes_moved(case: Case, inputs: Tensors) -> int:
    """Codes and scales of the experts that are routed to, hidden states in and out, the routing."""
    _, _, k, n = moe_sizes(case.layer)
    return moe_bytes(case, inputs, 3 * n * k // 2 + 3 * n * k // GROUP_SIZE + 4 * (2 * n + k))


def prepare_torch(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The weights in bfloat16, which rounds what the channel scales make of them."""
    return launch_torch_w4(case, weights, inputs, values_of(weights), round_activations)


def triton_layer(case: Case, weights: Tensors) -> WordsLayer:
    """The weights repacked."""
    w1, w2 = pack_experts("int4", weights, "_group_scale")
    return WordsLayer(
        format="int4",
        rounds_to_fp4=False,
        w1=w1,
        w2=w2,
        w1_factor=w1.factor * interleave_gate_up(weights["w1_channel_scale"]),
        w2_factor=w2.factor * weights["w2_channel_scale"],
    )


def prepare_triton(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    return prepare_words(case, triton_layer(case, weights), inputs)


def prepare_triton_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    return prepare_words_with(case, triton_layer(case, weights), inputs, config)


def unsupported_triton(case: Case, device: Device) -> str | None:
    """FP8 tensor cores came with sm_89."""
    return missing_capability(device, (8, 9))


def prepare_gluon(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """With the default configuration."""
    return prepare_int4_gluon(case, triton_layer(case, weights), inputs)


def prepare_gluon_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """With a given configuration."""
    return prepare_int4_gluon_with(case, triton_layer(case, weights), inputs, config)


def unsupported_gluon(case: Case, device: Device) -> str | None:
    """wgmma, and the copy engine as it is used here, are Hopper's alone."""
    return missing_family(device, 9)


KERNEL = Kernel(
    name="w4a8_moe",
    title="Fused MoE, INT4 weights and FP8 activations",
    schemes=(W4A8,),
    size_names=MOE_SIZES,
    make_weights=make_weights,
    make_inputs=make_inputs,
    reference=w4a8_moe_reference,
    providers={
        "torch": Provider(prepare_torch, unsupported_torch_moe),
        "triton": Provider(prepare_triton, unsupported_triton, prepare_with=prepare_triton_with),
        "triton-gluon": Provider(prepare_gluon, unsupported_gluon, prepare_with=prepare_gluon_with),
        **W4A8_VLLM_PROVIDERS,
    },
    baseline="torch",
    tolerance={
        W4A8: Tolerance(
            relative_error=0.08,
            element_error=0.2,
            share_close=0.99,
            reason="CUTLASS rounds the product of code and group scale to e4m3: 0.047 to 0.053 in norm on an H200, "
            "0.049 to 0.055 when simulated; rounding gate, up or the intermediate to bfloat16 moves values to the "
            "neighbouring FP8 code: 0.013 to 0.022 was measured of torch, 0.008 to 0.017 of triton",
        ),
    },
    flops=moe_flops,
    bytes_moved=bytes_moved,
    gemm_dtype={W4A8: "float8_e4m3fn"},
    decode=decode_moe,
    num_weights=count_moe_weights,
    check_layer=check_layer,
    options=MOE_OPTIONS,
)
