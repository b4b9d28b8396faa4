"""vLLM's implementations of the FP8 fused MoE: its Triton kernel with two kinds of configuration, and CUTLASS GEMMs.

vllm is imported inside the functions that run it; whether it is there, and which tuned configurations it ships, is read
from its files without importing it.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch

from kernels.spec import Case, Device, Launch, Outputs, Provider, Tensors

NO_VLLM = "needs the vllm package, which is not installed"
BLOCK_SHAPE = [128, 128]


def block_shape(case: Case) -> list[int] | None:
    """vLLM's name for the scheme: [128, 128], or None for one scale per tensor."""
    return BLOCK_SHAPE if case.layer.scheme.endswith("_block128") else None


def sizes_of(case: Case) -> tuple[int, int, int, int]:
    """E, top_k, K, N."""
    sizes = case.layer.sizes
    return sizes["num_experts"], sizes["top_k"], sizes["hidden_size"], sizes["intermediate_size"]


def config_folder() -> Path | None:
    """Where the installed vLLM keeps its tuned configurations; None without vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "model_executor/layers/fused_moe/configs"


def config_file_name(case: Case, device_name: str) -> str:
    """The name vLLM gives a tuned configuration; the whole H200 family shares one, as in its get_config_file_name."""
    num_experts, _, _, n = sizes_of(case)
    device = "_".join(device_name.replace("/", " ").split())
    device = "NVIDIA_H200" if "H200" in device.split("_") else device
    shape = ",block_shape=[128,128]" if block_shape(case) else ""
    return f"E={num_experts},N={n},device_name={device},dtype=fp8_w8a8{shape}.json"


def shipped_config(case: Case, device_name: str) -> tuple[str, dict[str, Any]] | None:
    """What vLLM would pick from its tuned configurations: "file, batch size" and the entry nearest to the case's."""
    folder, name = config_folder(), config_file_name(case, device_name)
    if folder is None or not (folder / name).exists():
        return None
    tuned = json.loads((folder / name).read_text())
    batch_sizes = [int(key) for key in tuned if key != "triton_version"]
    nearest = min(batch_sizes, key=lambda size: abs(size - case.num_tokens))
    return f"{name}, batch size {nearest}", tuned[str(nearest)]


def ask_for_float32_scales() -> None:
    """Keep vLLM from rounding the scales of activations up to powers of two.

    It does so for DeepGEMM's sake wherever DeepGEMM is there, also in its Triton kernel: then it computes another
    function than the reference's, 6 % away on an H200.
    """
    from vllm.utils import deep_gemm

    os.environ["VLLM_USE_DEEP_GEMM_E8M0"] = "0"
    deep_gemm.is_deep_gemm_e8m0_used.cache_clear()  # vLLM asks once a process


def launch_vllm_triton(case: Case, weights: Tensors, inputs: Tensors, config: dict[str, Any], source: str) -> Launch:
    """vLLM's fused_experts pinned to one configuration.

    The override is entered in every call, since it must hold while a CUDA graph is captured; without it vLLM would look
    a configuration up in its own folders: what is recorded is what ran.
    """
    from vllm.model_executor.layers.fused_moe import fused_experts, override_config
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config

    ask_for_float32_scales()
    quant_config = fp8_w8a8_moe_quant_config(
        w1_scale=weights["w1_scale"],
        w2_scale=weights["w2_scale"],
        a1_scale=weights.get("a1_scale"),
        a2_scale=weights.get("a2_scale"),
        block_shape=block_shape(case),
    )
    hidden_states, topk_weights, topk_ids = (inputs[name] for name in ("hidden_states", "topk_weights", "topk_ids"))

    def run() -> Outputs:
        with override_config(config):
            return (
                fused_experts(
                    hidden_states, weights["w1"], weights["w2"], topk_weights, topk_ids, quant_config=quant_config
                ),
            )

    return Launch(run, {**config, "source": source, "VLLM_USE_DEEP_GEMM_E8M0": 0})


def prepare_shipped(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The configuration that vLLM ships for this GPU and shape."""
    name = torch.cuda.get_device_name(inputs["hidden_states"].device)
    found = shipped_config(case, name)
    if found is None:
        raise LookupError(f"vLLM ships no {config_file_name(case, name)}: ask unsupported_shipped before preparing")
    source, config = found
    return launch_vllm_triton(case, weights, inputs, config, f"vLLM configs/{source}")


def prepare_default(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """vLLM's heuristic, which it falls back to for shapes without a tuned configuration."""
    from vllm.model_executor.layers.fused_moe.fused_moe import get_default_config

    num_experts, top_k, k, n = sizes_of(case)
    config = get_default_config(case.num_tokens, num_experts, n, k, top_k, "fp8_w8a8", block_shape(case))
    return launch_vllm_triton(case, weights, inputs, config, "vLLM get_default_config")


def cutlass_moe_config(case: Case, device: torch.device | str) -> Any:
    """vLLM's FusedMoEConfig of the layer on one rank, with room for the case's tokens."""
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig, FusedMoEParallelConfig, RoutingMethodType

    num_experts, top_k, k, n = sizes_of(case)
    return FusedMoEConfig(
        num_experts=num_experts,
        experts_per_token=top_k,
        hidden_dim=k,
        intermediate_size=n,
        num_local_experts=num_experts,
        num_logical_experts=num_experts,
        activation=MoEActivation.SILU,
        device=device,
        routing_method=RoutingMethodType.Renormalize,
        moe_parallel_config=FusedMoEParallelConfig.make_no_parallel(),
        in_dtype=getattr(torch, case.layer.dtype),
        max_num_tokens=max(case.num_tokens, 1),
    )


def prepare_cutlass(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """CutlassExpertsFp8 between vLLM's single-rank prepare and finalize."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsFp8
    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEKernel
    from vllm.model_executor.layers.fused_moe.prepare_finalize.no_dp_ep import MoEPrepareAndFinalizeNoDPEPModular
    from vllm.v1.worker.workspace import init_workspace_manager, is_workspace_manager_initialized

    device = inputs["hidden_states"].device
    if not is_workspace_manager_initialized():
        init_workspace_manager(device)
    quant_config = fp8_w8a8_moe_quant_config(
        w1_scale=weights["w1_scale"],
        w2_scale=weights["w2_scale"],
        a1_scale=weights["a1_scale"],
        a2_scale=weights["a2_scale"],
    )
    vllm_config = VllmConfig()
    with set_current_vllm_config(vllm_config):
        experts = CutlassExpertsFp8(cutlass_moe_config(case, device), quant_config)
        kernel = FusedMoEKernel(MoEPrepareAndFinalizeNoDPEPModular(), experts)
    arguments = {
        "hidden_states": inputs["hidden_states"],
        "w1": weights["w1"],
        "w2": weights["w2"],
        "topk_weights": inputs["topk_weights"],
        "topk_ids": inputs["topk_ids"],
        "activation": MoEActivation.SILU,
        "global_num_experts": case.layer.sizes["num_experts"],
        "expert_map": None,
        "apply_router_weight_on_input": False,
    }

    def run() -> Outputs:
        with set_current_vllm_config(vllm_config):
            return (kernel.apply(**arguments),)

    return Launch(run, {"source": "vLLM CutlassExpertsFp8"})


def unsupported_default(case: Case, device: Device) -> str | None:
    """vLLM's Triton kernel needs FP8 tensor cores, which came with sm_89."""
    if device.type != "cuda":
        return f"needs a CUDA GPU (this is {device.type})"
    if device.capability < (8, 9):
        return f"needs sm_89 (this is {device.arch})"
    return NO_VLLM if importlib.util.find_spec("vllm") is None else None


def unsupported_shipped(case: Case, device: Device) -> str | None:
    """As above, and vLLM must ship a tuned configuration for the shape and the GPU."""
    reason = unsupported_default(case, device)
    if reason is None and shipped_config(case, device.name) is None:
        return f"vLLM ships no {config_file_name(case, device.name)}"
    return reason


def unsupported_cutlass(case: Case, device: Device) -> str | None:
    """In vLLM's own words, from CutlassExpertsFp8.is_supported_config."""
    reason = unsupported_default(case, device)
    if reason is not None:
        return reason
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import CutlassExpertsFp8
    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEActivationFormat
    from vllm.model_executor.layers.quantization.utils import quant_utils

    keys = (quant_utils.kFp8StaticTensorSym, quant_utils.kFp8StaticTensorSym)
    if block_shape(case):
        keys = (quant_utils.kFp8Static128BlockSym, quant_utils.kFp8Dynamic128Sym)
    supported, why = CutlassExpertsFp8.is_supported_config(
        CutlassExpertsFp8, cutlass_moe_config(case, device.type), *keys, FusedMoEActivationFormat.Standard
    )
    return None if supported else f"vLLM's CutlassExpertsFp8: {why}"


VLLM_PROVIDERS = {
    "vllm-triton-shipped": Provider(prepare_shipped, unsupported_shipped, "sm_89+"),
    "vllm-triton-default": Provider(prepare_default, unsupported_default, "sm_89+"),
    "vllm-cutlass": Provider(prepare_cutlass, unsupported_cutlass, "sm_89+"),
}
