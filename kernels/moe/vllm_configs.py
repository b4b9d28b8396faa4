"""vLLM's tuned configurations of its Triton fused MoE, found and read as vLLM does, without importing it.

A file is named after the shape, the GPU and the dtype, and maps batch sizes to configurations. vLLM looks in the folder
that the environment variable VLLM_TUNED_CONFIG_FOLDER names, then in the one it ships; the entry of the nearest batch
size counts. Source: vLLM, fused_moe.py (get_config_file_name, get_moe_configs, try_get_optimal_moe_config).
"""

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

from kernels.moe.vllm_schemes import VLLM_SCHEMES
from kernels.spec import Case

TUNED_FOLDER_VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"


def shipped_folder() -> Path | None:
    """Where the installed vLLM keeps the configurations it ships; None without vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "model_executor/layers/fused_moe/configs"


def tuned_folder() -> Path | None:
    """The user's own folder; None if the variable is not set."""
    folder = os.environ.get(TUNED_FOLDER_VARIABLE)
    return Path(folder) if folder else None


def config_file_name(case: Case, device_name: str) -> str:
    """The name vLLM gives the layer's configurations: E and N of one rank; the H200 family shares one device name."""
    sizes, scheme = case.layer.sizes, VLLM_SCHEMES[case.layer.scheme]
    device = re.sub(r"[\s/]+", "_", device_name)
    device = "NVIDIA_H200" if "H200" in device.split("_") else device
    dtype = f",dtype={scheme.config_dtype}" if scheme.config_dtype else ""
    blocks = scheme.block_shape or (0, 0)
    shape = f",block_shape=[{blocks[0]},{blocks[1]}]" if all(blocks) else ""
    return f"E={sizes['num_experts']},N={sizes['intermediate_size']},device_name={device}{dtype}{shape}.json"


def read_config(folder: Path | None, case: Case, device_name: str) -> tuple[str, dict[str, Any]] | None:
    """The entry of the batch size nearest to the case's: "file, batch size" and the configuration; None if no file."""
    name = config_file_name(case, device_name)
    if folder is None or not (folder / name).is_file():
        return None
    tuned = json.loads((folder / name).read_text())
    batch_sizes = [int(key) for key in tuned if key != "triton_version"]
    nearest = min(batch_sizes, key=lambda size: abs(size - case.num_tokens))
    return f"{name}, batch size {nearest}", tuned[str(nearest)]
