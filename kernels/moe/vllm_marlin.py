"""Marlin through vLLM: 4-bit weights, taken apart in registers, times 16-bit activations; no FP4 tensor cores needed.

vllm is imported inside the functions that run it. Marlin's order of rows is ours, gate then up. Its tiles divide the
intermediate size into 64s, or into 128s where the hidden size is an odd multiple of 64: it is padded with zeros, as
vLLM pads it when it loads a model, which leaves the result alone.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import pad

from kernels.moe.inputs import is_batched, moe_sizes, weights_input
from kernels.moe.vllm_layer import unsupported_experts, unsupported_weighting
from kernels.requirements import missing_capability, missing_vllm
from kernels.spec import Case, Device, Launch, Layer, Outputs, Tensors

MARLIN_CAPABILITY = (8, 0)
HIDDEN_MULTIPLE = 64


def padded_intermediate_size(layer: Layer) -> int:
    """The least intermediate size from N on that Marlin's tiles divide, next to the layer's hidden size."""
    _, _, k, n = moe_sizes(layer)
    multiple = 64 if k % 128 == 0 else 128
    return -(-n // multiple) * multiple


def pad_w1(w1: torch.Tensor, padded_n: int) -> torch.Tensor:
    """Zero rows after the gate's and after the up projection's: [E, 2 N, c] to [E, 2 padded_n, c]."""
    n = w1.shape[1] // 2
    return pad(w1.unflatten(1, (2, n)), (0, 0, 0, padded_n - n)).flatten(1, 2)


def pad_w2(w2: torch.Tensor, padded_columns: int) -> torch.Tensor:
    """Zero columns at the end: [E, K, c] to [E, K, padded_columns]."""
    return pad(w2, (0, padded_columns - w2.shape[2]))


def params_of(case: Case) -> Any:
    """What vLLM's repacking reads of its layer."""
    num_experts, _, k, n = moe_sizes(case.layer)
    return SimpleNamespace(
        num_experts=num_experts,
        hidden_size=k,
        intermediate_size_per_partition=n,
        params_dtype=getattr(torch, case.layer.dtype),
    )


def repack_nvfp4(case: Case, weights: Tensors) -> dict[str, Any]:
    """The arguments of vLLM's Marlin MoE that hold NVFP4 weights; vLLM's global scale divides where ours multiplies."""
    from vllm.model_executor.layers.quantization.utils.marlin_utils_fp4 import prepare_nvfp4_moe_layer_for_marlin

    w1, w1_scale, global_scale1, w2, w2_scale, global_scale2 = prepare_nvfp4_moe_layer_for_marlin(
        params_of(case),
        w13=weights["w1"],
        w13_scale=weights["w1_scale"],
        w13_scale_2=1 / weights["w1_global_scale"],
        w2=weights["w2"],
        w2_scale=weights["w2_scale"],
        w2_scale_2=1 / weights["w2_global_scale"],
        is_act_and_mul=True,
    )
    scales = {"w1_scale": w1_scale, "w2_scale": w2_scale}
    return {"w1": w1, "w2": w2, **scales, "global_scale1": global_scale1, "global_scale2": global_scale2}


def repack_mxfp4(case: Case, weights: Tensors) -> dict[str, Any]:
    """The arguments of vLLM's Marlin MoE that hold MXFP4 weights."""
    from vllm.model_executor.layers.quantization.utils.marlin_utils_fp4 import prepare_moe_mxfp4_layer_for_marlin

    n = padded_intermediate_size(case.layer)
    w1, w2, w1_scale, w2_scale, _, _ = prepare_moe_mxfp4_layer_for_marlin(
        params_of(case),
        w13=pad_w1(weights["w1"], n),
        w2=pad_w2(weights["w2"], n // 2),
        w13_scale=pad_w1(weights["w1_scale"], n),
        w2_scale=pad_w2(weights["w2_scale"], n // 32),
        w13_bias=None,
        w2_bias=None,
    )
    return {"w1": w1, "w2": w2, "w1_scale": w1_scale, "w2_scale": w2_scale}


def launch_marlin(case: Case, inputs: Tensors, repacked: dict[str, Any]) -> Launch:
    """vLLM's Marlin MoE function of the case's activation format on repacked weights."""
    from vllm.model_executor.layers.quantization.utils.marlin_utils import marlin_make_workspace_new
    from vllm.scalar_type import scalar_types

    arguments = {
        **repacked,
        "bias1": None,
        "bias2": None,
        "quant_type_id": scalar_types.float4_e2m1f.id,
        # Locks of up to four blocks a multiprocessor; every call leaves them at zero.
        "workspace": marlin_make_workspace_new(inputs["hidden_states"].device, 4),
    }
    config = {"intermediate_size": padded_intermediate_size(case.layer)}
    if is_batched(case):
        return Launch(run_batched(inputs, arguments), {"source": "vLLM batched_fused_marlin_moe", **config})
    return Launch(run_standard(case, inputs, arguments), {"source": "vLLM fused_marlin_moe", **config})


def run_standard(case: Case, inputs: Tensors, arguments: dict[str, Any]) -> Callable[[], Outputs]:
    """What vLLM's MarlinExperts runs; called directly, since its prepare step would weight the input once more."""
    from vllm import _custom_ops as ops
    from vllm.model_executor.layers.fused_moe.experts.marlin_moe import fused_marlin_moe

    def sum_choices(
        pairs: torch.Tensor, output: torch.Tensor, topk_ids: torch.Tensor, expert_map: torch.Tensor | None
    ) -> None:
        if expert_map is None:
            ops.moe_sum(pairs, output)
        else:
            ops.moe_sum(pairs, output, topk_ids, expert_map)

    arguments = {
        **arguments,
        **{name: inputs[name] for name in ("hidden_states", "topk_weights", "topk_ids")},
        "apply_router_weight_on_input": weights_input(case),
        "global_num_experts": case.layer.sizes["num_experts"] * case.layer.ep_size,
        "expert_map": inputs.get("expert_map"),
        "moe_sum": sum_choices,
    }

    def run() -> Outputs:
        output = torch.empty_like(inputs["hidden_states"])
        fused_marlin_moe(**arguments, output=output)
        return (output,)

    return run


def run_batched(inputs: Tensors, arguments: dict[str, Any]) -> Callable[[], Outputs]:
    """The function below vLLM's BatchedMarlinExperts, which itself passes no global scales on."""
    from vllm.model_executor.layers.fused_moe.experts.marlin_moe import batched_fused_marlin_moe

    hidden_states, expert_num_tokens = inputs["hidden_states"], inputs["expert_num_tokens"]
    return lambda: (batched_fused_marlin_moe(hidden_states, expert_num_tokens, **arguments),)


def prepare_nvfp4_marlin(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """NVFP4: scales become FP8 without a sign (S0E5M3), the global scale takes Marlin's exponent bias in."""
    return launch_marlin(case, inputs, repack_nvfp4(case, weights))


def prepare_mxfp4_marlin(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """MXFP4: scales stay e8m0, in the order that Marlin's threads read them."""
    return launch_marlin(case, inputs, repack_mxfp4(case, weights))


def unsupported_marlin(case: Case, device: Device) -> str | None:
    """What of the device and the case Marlin does not run, of both formats."""
    if not case.layer.scheme.endswith("_w4a16"):
        return f"computes 16-bit activations, {case.layer.scheme} quantizes them"
    reason = missing_capability(device, MARLIN_CAPABILITY) or unsupported_weighting(case)
    k = case.layer.sizes["hidden_size"]
    if reason is None and k % HIDDEN_MULTIPLE:
        reason = f"needs hidden_size divisible by {HIDDEN_MULTIPLE} (this is {k})"
    return reason


def experts_class(case: Case) -> Any:
    """vLLM's class for the case's activation format: who is asked what Marlin takes."""
    from vllm.model_executor.layers.fused_moe.experts.marlin_moe import BatchedMarlinExperts, MarlinExperts

    return BatchedMarlinExperts if is_batched(case) else MarlinExperts


def unsupported_nvfp4_marlin(case: Case, device: Device) -> str | None:
    """As above, then in vLLM's own words."""
    reason = unsupported_marlin(case, device) or missing_vllm()
    if reason is not None:
        return reason
    from vllm.model_executor.layers.quantization.utils.quant_utils import kNvfp4Static

    return unsupported_experts(case, device, experts_class(case), kNvfp4Static, None)


def unsupported_mxfp4_marlin(case: Case, device: Device) -> str | None:
    """As above; Marlin is built for e8m0 scales with bfloat16 activations only."""
    reason = unsupported_marlin(case, device)
    if reason is None and case.layer.dtype != "bfloat16":
        reason = f"needs bfloat16 activations (this is {case.layer.dtype})"
    reason = reason or missing_vllm()
    if reason is not None:
        return reason
    from vllm.model_executor.layers.quantization.utils.quant_utils import kMxfp4Static

    return unsupported_experts(case, device, experts_class(case), kMxfp4Static, None)
