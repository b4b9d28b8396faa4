"""The default tables of vLLM's scripts in benchmarks/kernels/, each as a suite of the script's name."""

from tasks.planning.entries import (
    BOTH_ACTIVATIONS,
    HADAMARD_SCHEMES,
    SILU_SCHEMES,
    KernelEntry,
    ModelEntry,
    Suite,
    silu_grid,
)

_CUTLASS_BATCH_SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_MEAN_TOKENS = (8, 16, 32, 64, 128, 256, 512)
"""Tokens per expert on average in benchmark_silu_mul_fp8_quant.py."""

BENCHMARK_MOE = Suite(
    name="benchmark_moe",
    description="the default table of vLLM's benchmark_moe.py: Mixtral-8x7B TP2 without quantization",
    entries=(
        ModelEntry(
            "Mixtral-8x7B",
            2,
            (
                KernelEntry(
                    "fused_moe",
                    ("unquantized",),
                    (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096),
                ),
            ),
        ),
    ),
    min_device="cuda",
)
BENCHMARK_CUTLASS_FP4_MOE = Suite(
    name="benchmark_cutlass_fp4_moe",
    description="the default table of vLLM's benchmark_cutlass_fp4_moe.py: DeepSeek-R1-FP4 TP1, its sizes unswapped",
    entries=(ModelEntry("DeepSeek-R1-FP4", 1, (KernelEntry("nvfp4_moe", ("nvfp4_w4a4",), _CUTLASS_BATCH_SIZES),)),),
    min_device="cuda",
    timers=("graph", "eager"),
)
BENCHMARK_CUTLASS_MOE_FP8 = Suite(
    name="benchmark_cutlass_moe_fp8",
    description="the default table of vLLM's benchmark_cutlass_moe_fp8.py: Mixtral-8x7B TP1 per tensor and per channel",
    entries=(
        ModelEntry(
            "Mixtral-8x7B", 1, (KernelEntry("fused_moe", ("fp8_w8a8", "fp8_w8a8_channel"), _CUTLASS_BATCH_SIZES),)
        ),
    ),
    min_device="cuda",
)
BENCH_MXFP4_QUTLASS = Suite(
    name="bench_mxfp4_qutlass",
    description="the default table of vLLM's bench_mxfp4_qutlass.py: Llama-3.1-8B TP1, Hadamard 32, 64 and 128",
    entries=(
        ModelEntry(
            "Llama-3.1-8B",
            1,
            (
                KernelEntry(
                    "mxfp4_gemm",
                    HADAMARD_SCHEMES,
                    (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 24576, 32768),
                    BOTH_ACTIVATIONS,
                ),
            ),
        ),
    ),
    min_device="cuda",
)
BENCHMARK_SILU_MUL_FP8_QUANT = Suite(
    name="benchmark_silu_mul_fp8_quant",
    description="the default table of vLLM's benchmark_silu_mul_fp8_quant.py: 8, 32 and 256 experts of 7168 columns",
    entries=tuple(
        entry
        for num_experts in (8, 32, 256)
        for entry in (
            silu_grid(num_experts, 7168, _MEAN_TOKENS, "uniform", "max_t", schemes=SILU_SCHEMES[:1]),
            silu_grid(
                num_experts,
                7168,
                tuple(2 * mean for mean in _MEAN_TOKENS),  # its mean is half of T
                "random_imbalanced",
                schemes=SILU_SCHEMES[:1],
            ),
        )
    ),
    min_device="cuda",
)

UPSTREAM_SUITES = (
    BENCHMARK_MOE,
    BENCHMARK_CUTLASS_FP4_MOE,
    BENCHMARK_CUTLASS_MOE_FP8,
    BENCH_MXFP4_QUTLASS,
    BENCHMARK_SILU_MUL_FP8_QUANT,
)
