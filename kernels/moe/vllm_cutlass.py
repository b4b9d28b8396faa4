"""vLLM's CUTLASS grouped GEMMs for the FP8 fused MoE, one experts class per activation format.

vllm is imported inside the functions that run it.
"""

import inspect

from kernels.moe.inputs import weights_input
from kernels.moe.vllm_layer import (
    launch_batched_experts,
    launch_experts,
    unsupported_experts,
    unsupported_weighting,
    wrong_format,
)
from kernels.moe.vllm_schemes import make_quant_config, quant_keys
from kernels.requirements import missing_capability, missing_vllm
from kernels.spec import Case, Device, Launch, Tensors

SCHEMES = ("fp8_w8a8", "fp8_w8a8_channel")


def prepare_cutlass(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """CutlassExpertsFp8: permutes by expert, multiplies, weights and sums."""
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsFp8

    quant_config = make_quant_config(case.layer.scheme, weights)
    return launch_experts(case, inputs, CutlassExpertsFp8, quant_config, weights["w1"], weights["w2"])


def prepare_cutlass_batched(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """CutlassBatchedExpertsFp8: multiplies the valid rows of each expert, activates and quantizes all."""
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassBatchedExpertsFp8

    quant_config = make_quant_config(case.layer.scheme, weights)
    return launch_batched_experts(case, inputs, CutlassBatchedExpertsFp8, quant_config, weights["w1"], weights["w2"])


def unsupported_before_vllm(case: Case, device: Device, *, batched: bool) -> str | None:
    """What needs no vLLM to be said: Hopper or newer, rows of 16 bytes for its copies, the format, the weighting."""
    if case.layer.scheme not in SCHEMES:
        return f"takes {' or '.join(SCHEMES)} (this is {case.layer.scheme})"
    reason = missing_capability(device, (9, 0)) or wrong_format(case, batched=batched) or unsupported_weighting(case)
    for name in ("hidden_size", "intermediate_size"):
        if reason is None and case.layer.sizes[name] % 16:
            reason = f"needs {name} divisible by 16 (this is {case.layer.sizes[name]})"
    return reason or missing_vllm()


def unsupported_cutlass(case: Case, device: Device) -> str | None:
    """In vLLM's own words, from CutlassExpertsFp8.is_supported_config; and it must not weight twice."""
    reason = unsupported_before_vllm(case, device, batched=False)
    if reason is not None:
        return reason
    from vllm.model_executor.layers.fused_moe.experts import cutlass_moe

    flag = "apply_router_weight_on_input"
    if weights_input(case) and flag not in inspect.signature(cutlass_moe.run_cutlass_moe_fp8).parameters:
        return f"vLLM's CutlassExpertsFp8 ignores {flag}: it would weight the output too"
    return unsupported_experts(case, device, cutlass_moe.CutlassExpertsFp8, *quant_keys(case.layer.scheme))


def unsupported_cutlass_batched(case: Case, device: Device) -> str | None:
    """In vLLM's own words, from CutlassBatchedExpertsFp8.is_supported_config."""
    reason = unsupported_before_vllm(case, device, batched=True)
    if reason is not None:
        return reason
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassBatchedExpertsFp8

    return unsupported_experts(case, device, CutlassBatchedExpertsFp8, *quant_keys(case.layer.scheme))
