"""vLLM's providers of the 4-bit MoE kernels: Marlin computes in 16 bits, CUTLASS on FP8 or FP4 tensor cores."""

from kernels.moe.vllm_cutlass_fp4 import (
    prepare_mxfp4_cutlass,
    prepare_nvfp4_cutlass,
    unsupported_mxfp4_cutlass,
    unsupported_nvfp4_cutlass,
)
from kernels.moe.vllm_cutlass_w4a8 import prepare_w4a8_cutlass, unsupported_w4a8_cutlass
from kernels.moe.vllm_marlin import (
    prepare_mxfp4_marlin,
    prepare_nvfp4_marlin,
    unsupported_mxfp4_marlin,
    unsupported_nvfp4_marlin,
)
from kernels.spec import Provider

W4A8_VLLM_PROVIDERS = {"vllm-cutlass": Provider(prepare_w4a8_cutlass, unsupported_w4a8_cutlass)}

NVFP4_VLLM_PROVIDERS = {
    "vllm-marlin": Provider(prepare_nvfp4_marlin, unsupported_nvfp4_marlin),
    "vllm-cutlass": Provider(prepare_nvfp4_cutlass, unsupported_nvfp4_cutlass),
}

MXFP4_VLLM_PROVIDERS = {
    "vllm-marlin": Provider(prepare_mxfp4_marlin, unsupported_mxfp4_marlin),
    "vllm-cutlass": Provider(prepare_mxfp4_cutlass, unsupported_mxfp4_cutlass),
}
