"""vLLM's modular MoE kernel around one of its experts classes: a layer's configuration, a launch, a refusal.

What is timed is what one rank of vLLM runs: the activations are quantized as its prepare step does, then the experts.
vllm is imported inside the functions that run it.
"""

import os
from dataclasses import replace
from typing import Any

import torch

from kernels.moe.inputs import is_batched, moe_sizes, weights_input
from kernels.spec import Case, Device, Launch, Outputs, Tensors


def ask_for_float32_scales() -> None:
    """Keep vLLM from rounding the scales of activations up to powers of two, in this process.

    It does so for DeepGEMM's sake wherever DeepGEMM is there, also in its Triton kernel: then it computes another
    function than the reference's, 6 % away on an H200. No provider wants that, so it is never switched back.
    """
    from vllm.utils import deep_gemm

    os.environ["VLLM_USE_DEEP_GEMM_E8M0"] = "0"
    deep_gemm.is_deep_gemm_e8m0_used.cache_clear()  # vLLM asks once a process, and keeps a format chosen by then
    deep_gemm.DeepGemmQuantScaleFMT._oracle_cache = None
    deep_gemm.DeepGemmQuantScaleFMT.init_oracle_cache()


def moe_layer_config(case: Case, device: torch.device | str) -> Any:
    """vLLM's FusedMoEConfig of the layer as one rank has it, with room for the case's tokens."""
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig, FusedMoEParallelConfig, RoutingMethodType

    num_experts, top_k, k, n = moe_sizes(case.layer)
    ep_size = case.layer.ep_size
    return FusedMoEConfig(
        num_experts=num_experts * ep_size,
        experts_per_token=top_k,
        hidden_dim=k,
        intermediate_size=n,
        num_local_experts=num_experts,
        num_logical_experts=num_experts * ep_size,
        activation=MoEActivation.SILU,
        device=device,
        routing_method=RoutingMethodType.Renormalize,
        moe_parallel_config=replace(FusedMoEParallelConfig.make_no_parallel(), ep_size=ep_size, use_ep=ep_size > 1),
        in_dtype=getattr(torch, case.layer.dtype),
        max_num_tokens=max(case.num_tokens, 1),
    )


def start_workspaces(device: torch.device) -> None:
    """Let vLLM keep scratch memory in this process, as its model runner does; an earlier launch's is freed."""
    from vllm.v1.worker.workspace import init_workspace_manager, reset_workspace_manager

    reset_workspace_manager()
    init_workspace_manager(device)


def launch_experts(
    case: Case, inputs: Tensors, experts: Any, quant_config: Any, w1: torch.Tensor, w2: torch.Tensor
) -> Launch:
    """An experts class of the standard activation format between vLLM's single-rank prepare and finalize.

    Args:
        experts: the class, e.g. vLLM's CutlassExpertsFp8.
        quant_config: vLLM's FusedMoEQuantConfig of the weights' scales.
        w1, w2: weights as the class wants them.
    """
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEKernel
    from vllm.model_executor.layers.fused_moe.prepare_finalize.no_dp_ep import MoEPrepareAndFinalizeNoDPEPModular

    device = inputs["hidden_states"].device
    start_workspaces(device)
    vllm_config = VllmConfig()
    with set_current_vllm_config(vllm_config):
        kernel = FusedMoEKernel(
            MoEPrepareAndFinalizeNoDPEPModular(), experts(moe_layer_config(case, device), quant_config)
        )
    arguments = {
        "hidden_states": inputs["hidden_states"],
        "w1": w1,
        "w2": w2,
        "topk_weights": inputs["topk_weights"],
        "topk_ids": inputs["topk_ids"],
        "activation": MoEActivation.SILU,
        "global_num_experts": case.layer.sizes["num_experts"] * case.layer.ep_size,
        "expert_map": inputs.get("expert_map"),
        "apply_router_weight_on_input": weights_input(case),
    }

    def run() -> Outputs:
        with set_current_vllm_config(vllm_config):
            return (kernel.apply(**arguments),)

    return Launch(run, {"source": f"vLLM {experts.__name__}"})


def launch_batched_experts(
    case: Case, inputs: Tensors, experts: Any, quant_config: Any, w1: torch.Tensor, w2: torch.Tensor
) -> Launch:
    """An experts class of the batched activation format, fed as vLLM's low-latency dispatch feeds it.

    That dispatch (DeepEPLLPrepareAndFinalize) hands over [E, T, K], quantizes every row, padding too, and leaves
    weighting and summing to the combine step; the experts read the shape of topk_ids, not its values.

    Args: as launch_experts.
    """
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.modular_kernel import ExpertTokensMetadata

    hidden_states, top_k = inputs["hidden_states"], case.layer.sizes["top_k"]
    num_experts, num_tokens, k = hidden_states.shape
    device, global_num_experts = hidden_states.device, num_experts * case.layer.ep_size
    start_workspaces(device)
    vllm_config = VllmConfig()
    with set_current_vllm_config(vllm_config):
        layer = experts(moe_layer_config(case, device), quant_config, max_num_tokens=num_tokens, num_dispatchers=1)
    meta = ExpertTokensMetadata(expert_num_tokens=inputs["expert_num_tokens"], expert_num_tokens_cpu=None)
    dtype = layer.workspace_dtype(hidden_states.dtype)
    *workspaces, output_shape = layer.workspace_shapes(
        num_tokens, w1.shape[1], k, top_k, global_num_experts, num_experts, meta, MoEActivation.SILU
    )
    workspace13, workspace2 = (torch.empty(shape, dtype=dtype, device=device) for shape in workspaces)
    arguments = {
        "w1": w1,
        "w2": w2,
        "topk_weights": torch.zeros(num_tokens, top_k, device=device),
        "topk_ids": torch.zeros(num_tokens, top_k, dtype=torch.int32, device=device),
        "activation": MoEActivation.SILU,
        "global_num_experts": global_num_experts,
        "expert_map": None,
        "a2_scale": layer.a2_scale,
        "workspace13": workspace13,
        "workspace2": workspace2,
        "expert_tokens_meta": meta,
        "apply_router_weight_on_input": weights_input(case),
    }

    def run() -> Outputs:
        output = torch.empty(output_shape, dtype=dtype, device=device)
        with set_current_vllm_config(vllm_config):
            rows, scales = quantize_batched(hidden_states, quant_config)
            layer.apply(output=output, hidden_states=rows, a1q_scale=scales, **arguments)
        return (output,)

    return Launch(run, {"source": f"vLLM {experts.__name__}"})


def quantize_batched(hidden_states: torch.Tensor, quant_config: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """hidden_states [E, T, K] and its scales [E, T, groups], as DeepEPLLPrepareAndFinalize quantizes.

    A static scale stays one, [1, 1, 1]. vLLM repeats it for each expert, but its CUTLASS kernel takes several scales as
    one per row and reads past their end: only the first expert came out right on an H200.
    """
    from vllm.model_executor.layers.fused_moe.utils import moe_kernel_quantize_input, normalize_batched_scales_shape

    rows, scales = moe_kernel_quantize_input(
        hidden_states.view(-1, hidden_states.shape[-1]),
        quant_config.a1_scale,
        quant_config.quant_dtype,
        quant_config.per_act_token_quant,
        quant_config.block_shape,
    )
    if scales is not None and scales.numel() == 1:
        return rows.view(hidden_states.shape), scales.view(1, 1, 1)
    return rows.view(hidden_states.shape), normalize_batched_scales_shape(scales, hidden_states.shape[0])


def wrong_format(case: Case, *, batched: bool) -> str | None:
    """Why the activations come in another format than the provider takes."""
    if is_batched(case) == batched:
        return None
    formats = ("batched", "standard") if batched else ("standard", "batched")
    return f"takes {formats[0]} activations (this is {formats[1]})"


def unsupported_weighting(case: Case) -> str | None:
    """Why vLLM's modular kernel would not weight the input: it asserts that a token has one expert."""
    top_k = case.layer.sizes["top_k"]
    if weights_input(case) and not is_batched(case) and top_k > 1:
        return f"vLLM: apply_router_weight_on_input is only implemented for topk=1 (this is {top_k})"
    return None


def unsupported_experts(case: Case, device: Device, experts: Any, weight_key: Any, activation_key: Any) -> str | None:
    """Why an experts class would not take the layer, in its own words: it asks the current GPU, too.

    The scheme is asked first: vLLM's message about one it does not take spells out keys, and fails for some of INT8.

    Args:
        experts: the class, e.g. vLLM's CutlassExpertsFp8.
        weight_key, activation_key: vLLM's QuantKey of each, or None.
    """
    if not experts._supports_quant_scheme(weight_key, activation_key):
        return f"vLLM's {experts.__name__} does not take {case.layer.scheme}"
    supported, why = experts.is_supported_config(
        experts, moe_layer_config(case, device.type), weight_key, activation_key, experts.activation_format()
    )
    return None if supported else f"vLLM's {experts.__name__}: {why}"
