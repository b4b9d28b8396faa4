"""The layers on which our kernels are compared with vLLM's on a Hopper GPU, in one run."""

from tasks.planning.entries import (
    BOTH_ACTIVATIONS,
    HADAMARD_SCHEMES,
    SILU_SCHEMES,
    SILU_SIZES,
    KernelEntry,
    ModelEntry,
    Suite,
    silu_grid,
)

_BATCH_SIZES = (1, 16, 64, 256, 1024, 2048)
_BLOCK_FP8_BATCH_SIZES = (1, 16, 64, 256, 1024, 4096)

AGAINST_VLLM = Suite(
    name="against_vllm",
    description="our kernels beside every provider of vLLM on one H200: 4-bit, block FP8 and INT8 weights, SiLU-mul",
    entries=(
        ModelEntry(
            "Llama-3.3-70B",
            1,
            (
                KernelEntry("mxfp4_gemm", ("mxfp4_w4a16",), (1, 16, 64, 128, 256)),
                KernelEntry("mxfp4_gemm", HADAMARD_SCHEMES[:1], (1, 16, 64, 128, 256, 1024, 4096), BOTH_ACTIVATIONS),
            ),
        ),
        ModelEntry("DeepSeek-R1-FP4", 8, (KernelEntry("nvfp4_moe", ("nvfp4_w4a16",), _BATCH_SIZES),)),
        ModelEntry("DeepSeek-R1-FP4", 1, (KernelEntry("nvfp4_moe", ("nvfp4_w4a16",), _BATCH_SIZES),)),
        ModelEntry(
            "Qwen3-30B-A3B",
            1,
            (
                KernelEntry("nvfp4_moe", ("nvfp4_w4a16",), _BATCH_SIZES),
                KernelEntry("fused_moe", ("fp8_w8a8_block128",), _BLOCK_FP8_BATCH_SIZES),
            ),
        ),
        ModelEntry("DeepSeek-V3", 8, (KernelEntry("fused_moe", ("fp8_w8a8_block128",), _BLOCK_FP8_BATCH_SIZES),)),
        ModelEntry(
            "Mixtral-8x7B",
            2,
            (
                KernelEntry("fused_moe", ("int8_w8a16",), _BATCH_SIZES),
                KernelEntry("w4a8_moe", ("int4_w4a8_fp8",), (1, 64, 2048)),
            ),
        ),
        ModelEntry("gpt-oss-120b", 1, (KernelEntry("mxfp4_moe", ("mxfp4_w4a16",), (1, 64, 1024)),)),
        *(
            silu_grid(num_experts, size, (num_tokens,), "uniform", "max_t", "first_t", schemes=SILU_SCHEMES[:1])
            for num_experts, num_tokens, size in SILU_SIZES
        ),
    ),
    timers=("graph", "cold"),
    min_device="cuda",
)
