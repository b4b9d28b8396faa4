"""vLLM's Triton fused MoE, fused_experts, pinned to a configuration it ships, one of the user's, or its heuristic's.

vllm is imported inside the functions that run it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kernels.configs import require_keys
from kernels.errors import ConfigError, KernelError
from kernels.moe.inputs import moe_sizes, weights_input
from kernels.moe.vllm_configs import (
    TUNED_FOLDER_VARIABLE,
    config_file_name,
    read_config,
    shipped_folder,
    tuned_folder,
)
from kernels.moe.vllm_layer import ask_for_float32_scales, wrong_format
from kernels.moe.vllm_schemes import VLLM_SCHEMES, block_shape_of, make_quant_config
from kernels.requirements import missing_capability, missing_vllm
from kernels.spec import Case, Device, Launch, Outputs, Tensors

NOTES: dict[str, object] = {"source": "given", "VLLM_USE_DEEP_GEMM_E8M0": 0}
"""What is recorded beside a configuration, and is not part of it; here of one that says nothing of it."""

BLOCKS = dict.fromkeys(("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M"))
GROUPED_BLOCKS = dict.fromkeys(("BLOCK_SIZE_M", "GROUP_SIZE_M", "SPLIT_K"))
"""What vLLM's kernel for groups needs: it chooses the other blocks itself where they are not given."""
TAKEN = {**BLOCKS, **dict.fromkeys(("SPLIT_K", "num_warps", "num_stages"))}
"""Keys of a configuration of either kernel on an NVIDIA GPU."""


def has_grouped_columns(case: Case) -> bool:
    """Whether weights have one scale per group of a row: vLLM has a kernel of its own for that (the "wna16" one)."""
    return (VLLM_SCHEMES[case.layer.scheme].block_shape or (1, 1))[0] == 0


def weights_for_triton(case: Case, codes: torch.Tensor) -> torch.Tensor:
    """The codes as the kernel wants them: the one for groups takes INT8 as unsigned codes around 128."""
    return codes.view(torch.uint8) ^ 128 if has_grouped_columns(case) else codes


def launch_vllm_triton(case: Case, weights: Tensors, inputs: Tensors, config: dict[str, Any], source: str) -> Launch:
    """vLLM's fused_experts pinned to one configuration.

    The override is entered in every call, since it must hold while a CUDA graph is captured; without it vLLM would look
    a configuration up in its own folders: what is recorded is what ran.
    """
    from vllm.model_executor.layers.fused_moe import fused_experts, override_config

    ask_for_float32_scales()
    arguments = {
        "hidden_states": inputs["hidden_states"],
        "w1": weights_for_triton(case, weights["w1"]),
        "w2": weights_for_triton(case, weights["w2"]),
        "topk_weights": inputs["topk_weights"],
        "topk_ids": inputs["topk_ids"],
        "apply_router_weight_on_input": weights_input(case),
        "global_num_experts": case.layer.sizes["num_experts"] * case.layer.ep_size,
        "expert_map": inputs.get("expert_map"),
        "quant_config": make_quant_config(case.layer.scheme, weights),
    }

    def run() -> Outputs:
        with override_config(config):
            return (fused_experts(**arguments),)

    return Launch(run, {**config, **NOTES, "source": source})


def read_given(case: Case, given: Mapping[str, object]) -> tuple[dict[str, Any], str]:
    """What vLLM is to be pinned to, and where from, out of the `config` of an earlier Launch.

    Raises:
        ConfigError: vLLM's kernel would not take it, or it was measured with vLLM set up otherwise.
    """
    noted = {**NOTES, **{name: given[name] for name in NOTES if name in given}}
    config = {name: value for name, value in given.items() if name not in NOTES}
    require_keys(config, GROUPED_BLOCKS if has_grouped_columns(case) else BLOCKS, TAKEN, case)
    for name, value in config.items():
        if type(value) is not int:
            raise ConfigError(f"{case.layer.kernel} takes {name} as int (this is {value!r})")
    if noted["VLLM_USE_DEEP_GEMM_E8M0"] != 0:
        raise ConfigError(f"VLLM_USE_DEEP_GEMM_E8M0={noted['VLLM_USE_DEEP_GEMM_E8M0']!r}: only 0 is what we compare")
    return config, str(noted["source"])


def prepare_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
    """A given configuration."""
    return launch_vllm_triton(case, weights, inputs, *read_given(case, config))


def launch_from_folder(folder: Path | None, owner: str, case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """fused_experts with the configuration of a folder; `owner` names the folder in what is recorded."""
    name = torch.cuda.get_device_name(inputs["hidden_states"].device)
    found = read_config(folder, case, name)
    if found is None:
        raise KernelError(f"{owner} has no {config_file_name(case, name)}: ask `unsupported` before preparing")
    source, config = found
    return launch_vllm_triton(case, weights, inputs, config, f"{owner}/{source}")


def prepare_shipped(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The configuration that vLLM ships for this GPU and shape."""
    return launch_from_folder(shipped_folder(), "vLLM configs", case, weights, inputs)


def prepare_tuned(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The configuration that the user tuned for this GPU and shape."""
    folder = tuned_folder()
    return launch_from_folder(folder, f"{TUNED_FOLDER_VARIABLE} {folder}", case, weights, inputs)


def prepare_default(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """vLLM's heuristic, which it falls back to for shapes without a tuned configuration."""
    from vllm.model_executor.layers.fused_moe.fused_moe import get_default_config

    num_experts, top_k, k, n = moe_sizes(case.layer)
    scheme = case.layer.scheme
    dtype, blocks = VLLM_SCHEMES[scheme].config_dtype, block_shape_of(scheme)
    config = get_default_config(case.num_tokens, num_experts, n, k, top_k, dtype, blocks)
    return launch_vllm_triton(case, weights, inputs, config, "vLLM get_default_config")


def unsupported_default(case: Case, device: Device) -> str | None:
    """The scheme's tensor cores, standard activations, and input weighting only where it commutes with rounding."""
    scheme = case.layer.scheme
    reason = missing_capability(device, VLLM_SCHEMES[scheme].least_capability) or wrong_format(case, batched=False)
    if reason is None and weights_input(case) and scheme == "fp8_w8a8":
        # 6 % away from the formula (computed on a CPU); dynamic scales follow the weight, so that codes stay the same.
        return f"vLLM's fused_experts weights the first GEMM's result, not what the static scale of {scheme} rounds"
    return reason or missing_vllm()


def unsupported_config(case: Case, device: Device, folder: Path | None, lacking: str) -> str | None:
    """Why no configuration of the folder can run: no file, a broken one, or the grouped kernel lacks a value in it.

    Args:
        lacking: how the sentence begins that the file name ends, e.g. "vLLM ships no".
    """
    try:
        found = read_config(folder, case, device.name)
    except ConfigError as error:
        return str(error)
    if found is None:
        return f"{lacking} {config_file_name(case, device.name)}"
    source, config = found
    if has_grouped_columns(case) and "SPLIT_K" not in config:
        return f"vLLM's kernel for groups needs SPLIT_K, which is not in {source}"
    return None


def unsupported_shipped(case: Case, device: Device) -> str | None:
    """As above, and vLLM must ship a configuration for the shape and the GPU."""
    return unsupported_default(case, device) or unsupported_config(case, device, shipped_folder(), "vLLM ships no")


def unsupported_tuned(case: Case, device: Device) -> str | None:
    """As above, and the user must have tuned the shape on the GPU."""
    folder = tuned_folder()
    lacking = f"{TUNED_FOLDER_VARIABLE} {folder} has no" if folder else f"{TUNED_FOLDER_VARIABLE} is not set: no"
    return unsupported_default(case, device) or unsupported_config(case, device, folder, lacking)
