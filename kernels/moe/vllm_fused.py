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
    prepare_with,
    unsupported_default,
    unsupported_shipped,
    unsupported_tuned,
)
from kernels.spec import Provider

VLLM_PROVIDERS = {
    "vllm-triton-shipped": Provider(prepare_shipped, unsupported_shipped, prepare_with=prepare_with),
    "vllm-triton-default": Provider(prepare_default, unsupported_default, prepare_with=prepare_with),
    "vllm-triton-tuned": Provider(prepare_tuned, unsupported_tuned, prepare_with=prepare_with),
    "vllm-cutlass": Provider(prepare_cutlass, unsupported_cutlass),
    "vllm-cutlass-batched": Provider(prepare_cutlass_batched, unsupported_cutlass_batched),
    "vllm-deepgemm": Provider(prepare_deepgemm, unsupported_deepgemm),
}
