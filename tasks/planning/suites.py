"""What a run measures when the command line says nothing else: the suites, each a tuple of models and grids."""

from collections.abc import Mapping

from tasks.errors import UnknownNameError
from tasks.planning.entries import (
    BATCHED,
    BOTH_ACTIVATIONS,
    HADAMARD_SCHEMES,
    ROUTER_WEIGHT_ON_INPUT,
    SCHEMES_OF_MOE_KERNELS,
    SILU_SCHEMES,
    SILU_SIZES,
    STANDARD,
    GridEntry,
    KernelEntry,
    ModelEntry,
    Options,
    Suite,
    silu_grid,
)
from tasks.planning.hopper_suite import AGAINST_VLLM
from tasks.planning.upstream_suites import UPSTREAM_SUITES

_SMALL_EXPERTS = {"num_experts": 8, "top_k": 2, "hidden_size": 512, "intermediate_size": 256}
_SMALL_LINEAR = {"n": 512, "k": 512}

_SMOKE = Suite(
    name="smoke",
    description="every kernel and scheme on small batches, on a CPU in about two minutes",
    entries=(
        ModelEntry("Qwen3-30B-A3B", 8, (KernelEntry("fused_moe", ("fp8_w8a8",), (1, 4, 16)),)),
        ModelEntry(
            "Mixtral-8x7B",
            8,
            (
                KernelEntry("fused_moe", ("fp8_w8a8", "fp8_w8a8_block128"), (1, 4, 16)),
                KernelEntry("silu_mul_fp8", (), (16, 64), {"token_strategy": ("uniform", "first_t")}),
            ),
        ),
        ModelEntry("Mixtral-8x7B", 8, (KernelEntry("fused_moe", ("fp8_w8a8",), (16,)),), enable_expert_parallel=True),
        ModelEntry("Llama-3.1-8B", 8, (KernelEntry("mxfp4_gemm", ("mxfp4_w4a16",), (1, 16)),)),
        GridEntry("mxfp4_gemm", _SMALL_LINEAR, (1, 16), BOTH_ACTIVATIONS, HADAMARD_SCHEMES),
        silu_grid(8, 512, (16,), "uniform", "max_t", "first_t", "random_imbalanced", schemes=SILU_SCHEMES),
        *(
            GridEntry(kernel, _SMALL_EXPERTS, (1, 16), options, schemes)
            for kernel, schemes in SCHEMES_OF_MOE_KERNELS.items()
            for options in (STANDARD, BATCHED, ROUTER_WEIGHT_ON_INPUT)
        ),
    ),
    min_device="cpu",
)

_NIGHTLY_BATCH_SIZES = (1, 16, 64, 256, 1024, 4096)
_DECODE_AND_PREFILL = (1, 64, 2048)
_SILU_STRATEGIES = ("uniform", "max_t", "first_t")


def _nightly_fused_moe() -> tuple[ModelEntry, ...]:
    """The three models of the first nights at six batch sizes, then the other schemes, formats and parallelism."""
    others = ("unquantized", "fp8_w8a8_channel", "int8_w8a16", "int8_w8a16_group128", "int8_w8a8")
    batched = ("unquantized", "fp8_w8a8", "fp8_w8a8_block128", "fp8_w8a8_channel")
    block = KernelEntry("fused_moe", ("fp8_w8a8_block128",), _NIGHTLY_BATCH_SIZES)
    return (
        ModelEntry(
            "Mixtral-8x7B",
            2,
            (
                KernelEntry("fused_moe", ("fp8_w8a8",), _NIGHTLY_BATCH_SIZES),
                KernelEntry("fused_moe", others, _DECODE_AND_PREFILL),
            ),
        ),
        ModelEntry("DeepSeek-V3", 8, (block,)),
        ModelEntry(
            "Qwen3-30B-A3B",
            1,
            (
                block,
                KernelEntry("fused_moe", others, _DECODE_AND_PREFILL),
                KernelEntry("fused_moe", batched, (16, 64), BATCHED),
            ),
        ),
        ModelEntry(
            "DeepSeek-V3",
            8,
            (KernelEntry("fused_moe", ("fp8_w8a8_block128",), (16, 64, 2048)),),
            enable_expert_parallel=True,
        ),
        ModelEntry(
            "Llama-4-Scout",
            8,
            (KernelEntry("fused_moe", ("fp8_w8a8_channel",), _DECODE_AND_PREFILL, ROUTER_WEIGHT_ON_INPUT),),
        ),
    )


def _nightly_four_bit() -> tuple[ModelEntry, ...]:
    """INT4, NVFP4 and MXFP4 experts, and MXFP4 linear layers."""

    def model(name: str, tp_size: int, *kernels: str) -> ModelEntry:
        standard = tuple(KernelEntry(kernel, SCHEMES_OF_MOE_KERNELS[kernel], _DECODE_AND_PREFILL) for kernel in kernels)
        return ModelEntry(name, tp_size, standard)

    formats = ("w4a8_moe", "nvfp4_moe", "mxfp4_moe")
    return (
        model("Mixtral-8x7B", 2, "w4a8_moe"),
        model("DeepSeek-R1-FP4", 8, "nvfp4_moe"),
        model("gpt-oss-120b", 1, "mxfp4_moe"),
        model("Qwen3-30B-A3B", 1, *formats),
        ModelEntry(
            "Qwen3-30B-A3B",
            1,
            tuple(KernelEntry(kernel, SCHEMES_OF_MOE_KERNELS[kernel], (64,), BATCHED) for kernel in formats),
        ),
        ModelEntry(
            "Llama-3.1-8B",
            1,
            (
                KernelEntry("mxfp4_gemm", ("mxfp4_w4a16",), _DECODE_AND_PREFILL),
                KernelEntry("mxfp4_gemm", HADAMARD_SCHEMES[:1], _DECODE_AND_PREFILL, BOTH_ACTIVATIONS),
                KernelEntry("mxfp4_gemm", HADAMARD_SCHEMES[1:], (64,)),
            ),
        ),
        ModelEntry("Llama-3.3-70B", 1, (KernelEntry("mxfp4_gemm", ("mxfp4_w4a16",), _DECODE_AND_PREFILL),)),
    )


_NIGHTLY = Suite(
    name="nightly",
    description="every kernel and scheme at decode sizes and a prefill size, every option at least once, on one H200",
    entries=(
        *_nightly_fused_moe(),
        *(
            silu_grid(num_experts, size, (num_tokens,), *_SILU_STRATEGIES, schemes=SILU_SCHEMES[:1])
            for num_experts, num_tokens, size in SILU_SIZES
        ),
        silu_grid(32, 7168, (64, 1024), "random_imbalanced", schemes=SILU_SCHEMES[:1]),
        silu_grid(32, 7168, (64, 1024), "uniform", schemes=SILU_SCHEMES[1:]),
        *_nightly_four_bit(),
    ),
    timers=("graph", "cold"),
    min_device="cuda",
    tuning_seconds=600.0,
)


def _list_moe_kernels(batch_sizes: tuple[int, ...], options: Options) -> tuple[KernelEntry, ...]:
    """Every MoE kernel in every scheme."""
    return tuple(
        KernelEntry(kernel, schemes, batch_sizes, options) for kernel, schemes in SCHEMES_OF_MOE_KERNELS.items()
    )


_FULL_MODELS = {
    "DBRX": 4,
    "DeepSeek-R1": 8,
    "DeepSeek-R1-FP4": 8,
    "DeepSeek-V2": 4,
    "DeepSeek-V2-Lite": 1,
    "DeepSeek-V3": 8,
    "GLM-4.5": 4,
    "GLM-4.5-Air": 1,
    "HunYuan-A13B": 2,
    "Jamba-v0.1": 2,
    "Kimi-K2": 8,
    "Llama-4-Maverick": 8,
    "Llama-4-Scout": 4,
    "Mixtral-8x22B": 8,
    "Mixtral-8x7B": 2,
    "Nemotron-3-Nano-30B-A3B": 1,
    "Qwen1.5-MoE-A2.7B": 1,
    "Qwen2-57B-A14B": 4,
    "Qwen3-235B-A22B": 4,
    "Qwen3-30B-A3B": 1,
    "Qwen3-Next-80B-A3B": 2,
    "gpt-oss-120b": 1,
    "gpt-oss-20b": 1,
}
"""Ranks that leave a layer that fits on one GPU, dequantized as well, where whole groups of 128 columns can remain."""
_FULL_DENSE_MODELS = {"Llama-3.1-8B": 1, "Llama-3.3-70B": 4, "Qwen3-32B": 2}
_FULL_EXPERT_PARALLEL = ("DeepSeek-V3", "Kimi-K2", "Qwen3-235B-A22B", "Qwen3-Next-80B-A3B", "Mixtral-8x7B")

_FULL = Suite(
    name="full",
    description="every model, kernel, scheme, option and timer; hours on one GPU",
    entries=(
        *(
            ModelEntry(
                model,
                tp_size,
                (
                    *_list_moe_kernels(_NIGHTLY_BATCH_SIZES, STANDARD),
                    *_list_moe_kernels((1, 16, 64), BATCHED),
                    *_list_moe_kernels((1, 64, 1024), ROUTER_WEIGHT_ON_INPUT),
                    KernelEntry("silu_mul_fp8", SILU_SCHEMES[:1], (1, 16, 64)),
                ),
            )
            for model, tp_size in _FULL_MODELS.items()
        ),
        *(
            ModelEntry(model, 8, _list_moe_kernels(_NIGHTLY_BATCH_SIZES, STANDARD), enable_expert_parallel=True)
            for model in _FULL_EXPERT_PARALLEL
        ),
        *(
            ModelEntry(
                model,
                tp_size,
                (
                    KernelEntry("mxfp4_gemm", ("mxfp4_w4a16",), _NIGHTLY_BATCH_SIZES),
                    KernelEntry("mxfp4_gemm", HADAMARD_SCHEMES, _NIGHTLY_BATCH_SIZES, BOTH_ACTIVATIONS),
                ),
            )
            for model, tp_size in _FULL_DENSE_MODELS.items()
        ),
        *(
            silu_grid(num_experts, 7168, (8, 64, 1024), *_SILU_STRATEGIES, "random_imbalanced", schemes=SILU_SCHEMES)
            for num_experts in (8, 32, 256)
        ),
    ),
    min_device="cuda",
    timers=("graph", "cold", "eager"),
)

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (_SMOKE, _NIGHTLY, _FULL, AGAINST_VLLM, *UPSTREAM_SUITES)}


def find_suite(name: str) -> Suite:
    """The suite of that name."""
    if name not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    return SUITES[name]
