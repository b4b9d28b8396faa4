"""vLLM's tuned configurations of its Triton fused MoE, found and read as vLLM does, without importing it.

A file is named after the shape, the GPU and the dtype, and maps batch sizes to configurations. vLLM looks in the folder
that the environment variable VLLM_TUNED_CONFIG_FOLDER names, then in the one it ships; the entry of the nearest batch
size counts. Source: vLLM, fused_moe.py (get_config_file_name, get_moe_configs, try_get_optimal_moe_config).
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from kernels.errors import ConfigError
from kernels.moe.vllm_config_files import ConfigKey, Reading, read_config_file
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


def config_key(num_experts: int, intermediate_size: int, scheme: str, device_name: str) -> ConfigKey:
    """What a file is named after: E and N of one rank, vLLM's words for the scheme; the H200 family shares one name."""
    vllm = VLLM_SCHEMES[scheme]
    device = re.sub(r"[\s/]+", "_", device_name)
    device = "NVIDIA_H200" if "H200" in device.split("_") else device
    blocks = vllm.block_shape if all(vllm.block_shape or (0, 0)) else None
    return ConfigKey(num_experts, intermediate_size, device, vllm.config_dtype, blocks)


def config_file_name(case: Case, device_name: str) -> str:
    """The name vLLM gives the layer's configurations."""
    sizes = case.layer.sizes
    return config_key(sizes["num_experts"], sizes["intermediate_size"], case.layer.scheme, device_name).file_name


def read_tuned_files(case: Case, device_name: str) -> list[Reading]:
    """The files of the shape that there are, in the order in which vLLM looks for them: the user's, the shipped one."""
    name = config_file_name(case, device_name)
    folders = [folder for folder in (tuned_folder(), shipped_folder()) if folder is not None]
    return [read_config_file(folder / name) for folder in folders if (folder / name).is_file()]


def read_config(folder: Path | None, case: Case, device_name: str) -> tuple[str, dict[str, Any]] | None:
    """The entry of the batch size nearest to the case's: "file, batch size" and the configuration; None if no file.

    Raises:
        ConfigError: that entry, or the whole file, is broken.
    """
    name = config_file_name(case, device_name)
    if folder is None or not (folder / name).is_file():
        return None
    reading = read_config_file(folder / name)
    broken = {fault.batch_size: fault for fault in reading.faults}
    configs = reading.file.configs if reading.file else {}
    # Of two that are as near vLLM takes the first.
    batch_sizes = [*configs, *(int(size) for size in broken if size.isdecimal())]
    nearest = min(batch_sizes, key=lambda size: abs(size - case.num_tokens), default=None)
    if nearest is None or nearest not in configs:
        fault = broken.get(str(nearest), reading.faults[0])
        raise ConfigError(f"{fault.line}: correct it or remove the file")
    return f"{name}, batch size {nearest}", dict(configs[nearest])
