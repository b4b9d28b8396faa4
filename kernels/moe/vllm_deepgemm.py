"""DeepGEMM's grouped GEMMs for the block-quantized fused MoE, through vLLM's experts class of each activation format.

vLLM's own layers fall back to Triton for fewer tokens than a tile has rows and for N <= 512; here the class runs.
vllm is imported inside the functions that run it.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from kernels.moe.inputs import is_batched
from kernels.moe.vllm_layer import (
    ask_for_float32_scales,
    launch_batched_experts,
    launch_experts,
    unsupported_experts,
    unsupported_weighting,
)
from kernels.moe.vllm_schemes import make_quant_config, quant_keys
from kernels.requirements import missing_family, missing_vllm
from kernels.spec import Case, Device, Launch, Tensors

SCHEME = "fp8_w8a8_block128"


def experts_class(case: Case) -> Any:
    """The class of the case's activation format."""
    from vllm.model_executor.layers.fused_moe.experts.batched_deep_gemm_moe import BatchedDeepGemmExperts
    from vllm.model_executor.layers.fused_moe.experts.deep_gemm_moe import DeepGemmExperts

    return BatchedDeepGemmExperts if is_batched(case) else DeepGemmExperts


def prepare_deepgemm(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    """The first run compiles. Weights and their float32 scales are what it takes on sm_90, as they are."""
    ask_for_float32_scales()
    launch = launch_batched_experts if is_batched(case) else launch_experts
    quant_config = make_quant_config(case.layer.scheme, weights)
    made = launch(case, inputs, experts_class(case), quant_config, weights["w1"], weights["w2"])
    return Launch(made.run, {**made.config, "VLLM_USE_DEEP_GEMM_E8M0": 0})


def missing_nvcc() -> str | None:
    """Why DeepGEMM could not compile its kernels: it looks for CUDA in these places (its _find_cuda_home)."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    if shutil.which("nvcc") or any(home and (Path(home) / "bin/nvcc").is_file() for home in homes):
        return None
    return "needs nvcc, with which DeepGEMM compiles its kernels: install CUDA's and set CUDA_HOME"


def unsupported_deepgemm(case: Case, device: Device) -> str | None:
    """Hopper, nvcc, and vLLM's own words from is_supported_config.

    DeepGEMM's README: on sm_90 scales are float32, on sm_100 powers of two, which is another function.
    """
    if case.layer.scheme != SCHEME:
        return f"takes {SCHEME} (this is {case.layer.scheme})"
    reason = missing_family(device, 9, because="where DeepGEMM's scales are float32")
    reason = reason or unsupported_weighting(case) or missing_vllm()
    if reason is not None:
        return reason
    from vllm.utils.import_utils import has_deep_gemm

    if not has_deep_gemm():
        return "needs the deep_gemm package, which vLLM does not find"
    return unsupported_experts(case, device, experts_class(case), *quant_keys(case.layer.scheme)) or missing_nvcc()
