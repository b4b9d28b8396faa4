"""vLLM's providers of fused_moe."""

from kernels.moe.vllm_cutlass import (
    prepare_cutlass,
    prepare_cutlass_batched,
    unsupported_cutlass,
    unsupported_cutlass_batched,
)
from kernels.moe.vllm_deepgemm import prepare_deepgemm, unsupported_deepgemm
from kernels.moe.vllm_triton import (
    prepare_default,
    prepare_shipped,
    prepare_tuned,
    unsupported_default,
    unsupported_shipped,
    unsupported_tuned,
)
from kernels.spec import Provider

VLLM_PROVIDERS = {
    "vllm-triton-shipped": Provider(prepare_shipped, unsupported_shipped, "sm_80+, FP8 sm_89+"),
    "vllm-triton-default": Provider(prepare_default, unsupported_default, "sm_80+, FP8 sm_89+"),
    "vllm-triton-tuned": Provider(prepare_tuned, unsupported_tuned, "sm_80+, FP8 sm_89+"),
    "vllm-cutlass": Provider(prepare_cutlass, unsupported_cutlass, "sm_90+"),
    "vllm-cutlass-batched": Provider(prepare_cutlass_batched, unsupported_cutlass_batched, "sm_90+"),
    "vllm-deepgemm": Provider(prepare_deepgemm, unsupported_deepgemm, "sm_90"),
}
