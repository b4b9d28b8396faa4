"""The space of every kernel that can be tuned, and what a case asks of it.

vLLM's is that of its tuner (benchmarks/kernels/benchmark_moe.py) with two differences. BLOCK_SIZE_N may also divide
block_n, since the kernel looks a scale up for each column and vLLM's own default has 64 of 128. SPLIT_K is 1: no kernel
of vLLM's reads it, but the one for groups must be given it.
"""

from collections.abc import Callable

import torch

from kernels.errors import KernelError
from kernels.gemm.words import STEP
from kernels.moe.inputs import is_batched, moe_sizes
from kernels.moe.schemes import GROUP_SIZE, MOE_SCHEMES
from kernels.moe.vllm_config_files import Config
from kernels.moe.vllm_schemes import VLLM_SCHEMES
from kernels.spec import Case
from tasks.tuning.space import (
    Check,
    Problem,
    Space,
    fits_registers,
    fits_shared_memory,
    has_few_empty_columns,
    has_few_empty_rows,
    has_few_empty_steps,
    merge_groups,
)

VLLM_VALUES = {
    "BLOCK_SIZE_M": (16, 32, 64, 128, 256),
    "BLOCK_SIZE_N": (32, 64, 128, 256),
    "BLOCK_SIZE_K": (64, 128, 256),
    "GROUP_SIZE_M": (1, 16, 32, 64),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
"""1,920 configurations on an NVIDIA GPU."""
ROCM_VALUES = {
    "BLOCK_SIZE_M": (16, 32, 64, 128, 256),
    "BLOCK_SIZE_N": (16, 32, 64, 128, 256),
    "BLOCK_SIZE_K": (16, 32, 64, 128, 256),
    "GROUP_SIZE_M": (1, 4, 8, 16, 32),
    "num_warps": (1, 2, 4, 8),
    "num_stages": (2,),
    "waves_per_eu": (0, 1, 2, 4),
    "matrix_instr_nonkdim": (16, 32),
    "kpack": (1, 2),
}
OURS = {
    "BLOCK_SIZE_M": (16, 32, 64, 128),
    "GATE_UP_BLOCK_SIZE_N": (32, 64, 128),
    "DOWN_BLOCK_SIZE_N": (32, 64, 128, 256),
    "BLOCK_SIZE_K": (64, 128, 256),
    "GROUP_SIZE_M": (1, 8, 32),
    "SWAP_AB": (False, True),
    "QUANTIZE_ON_LOAD": (False, True),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5, 6),
}
WORDS = {
    **{name: OURS[name] for name in ("BLOCK_SIZE_M", "GATE_UP_BLOCK_SIZE_N", "DOWN_BLOCK_SIZE_N")},
    **{name: OURS[name] for name in ("GROUP_SIZE_M", "num_warps", "num_stages")},
    "DOWN_SPLIT": (1, 2, 4),
}
MXFP4_GEMM = {
    "BLOCK_SIZE_M": (16, 32, 64, 128),
    "BLOCK_SIZE_N": (32, 64, 128, 256),
    "GROUP_SIZE_M": (1, 8, 32),
    "SPLIT_K": (1, 2, 4, 8),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5, 6),
}

W4_FORMATS = {"mxfp4_moe": "mxfp4", "nvfp4_moe": "nvfp4", "w4a8_moe": "int4"}
"""By kernel, the format of its weights."""
VLLM_PROVIDERS = ("vllm-triton-shipped", "vllm-triton-tuned", "vllm-triton-default")
"""They launch the same kernel."""
IN_SHARED_MEMORY = "a pipeline fits into shared memory"
IN_REGISTERS = "sums fit into registers"
NO_EMPTY_ROWS = "tiles have rows for some expert"
NO_EMPTY_COLUMNS = "tiles are no wider than results"
NO_EMPTY_STEPS = "steps are no longer than sums"


def space_of(case: Case, provider: str) -> Space:
    """What may be tried for a provider of the case's kernel on the platform that torch was built for.

    Raises:
        KernelError: there is nothing to tune.
    """
    kernel = case.layer.kernel
    if kernel == "fused_moe" and provider in VLLM_PROVIDERS:
        return vllm_space(case.layer.scheme, is_rocm=torch.version.hip is not None)
    if provider == "triton" and kernel in W4_FORMATS:
        return words_space(kernel)
    if provider == "triton" and kernel == "fused_moe":
        scheme = case.layer.scheme
        return words_space(scheme) if MOE_SCHEMES[scheme].has_words else our_space(scheme)
    if provider == "triton" and kernel == "mxfp4_gemm":
        return linear_space()
    raise KernelError(f"{provider} of {kernel} cannot be tuned: take a Triton provider of a MoE kernel or mxfp4_gemm")


def problem_of(case: Case, provider: str, arch: str) -> Problem:
    """What the case asks of a configuration."""
    kernel, sizes = case.layer.kernel, case.layer.sizes
    if kernel == "mxfp4_gemm":
        return Problem(case.num_tokens, ((sizes["n"], sizes["k"]),), arch, a_bytes=2.0, w_bytes=0.5)
    num_experts, top_k, k, n = moe_sizes(case.layer)
    if kernel in W4_FORMATS:
        a_bytes, w_bytes = 1.0 if W4_FORMATS[kernel] == "int4" else 2.0, 0.5
    else:
        scheme = MOE_SCHEMES[case.layer.scheme]
        a_bytes = float(scheme.activation_dtype.itemsize if scheme.activation_dtype else 2)
        w_bytes = float(scheme.weight_dtype.itemsize if scheme.weight_dtype else 2)
    columns = n if provider == "triton" else 2 * n  # ours makes gate and up in one tile
    return Problem(
        num_tokens=case.num_tokens,
        gemms=((columns, k), (k, n)),
        arch=arch,
        num_experts=num_experts * case.layer.ep_size,
        top_k=top_k,
        a_bytes=a_bytes,
        w_bytes=w_bytes,
        is_batched=is_batched(case),
    )


def vllm_space(scheme: str, *, is_rocm: bool = False) -> Space:
    """vLLM's Triton kernels: the one for groups wants SPLIT_K."""
    blocks = VLLM_SCHEMES[scheme].block_shape
    grouped = blocks is not None and blocks[0] == 0
    checks: dict[str, Check] = {}
    if blocks and not grouped:
        block_n, block_k = blocks
        checks["BLOCK_SIZE_K is a multiple of block_k"] = lambda config, _: config["BLOCK_SIZE_K"] % block_k == 0
        checks["BLOCK_SIZE_N is a multiple of block_n or divides it"] = lambda config, _: (
            config["BLOCK_SIZE_N"] % block_n == 0 or block_n % config["BLOCK_SIZE_N"] == 0
        )

    def fits(config: Config, problem: Problem) -> bool:
        m, n = config["BLOCK_SIZE_M"], config["BLOCK_SIZE_N"]
        swaps = scheme.startswith("fp8") and m < 64 <= n
        is_async = problem.arch == "sm_90" and (m >= 64 or swaps) and not grouped
        return fits_shared_memory({**config, "BLOCK_SIZE_K": step_of(config)}, problem, m, n, is_async)

    def step_of(config: Config) -> int:
        """The kernel takes no step that is longer than a block of weights."""
        return min(config["BLOCK_SIZE_K"], *blocks) if blocks and not grouped else config["BLOCK_SIZE_K"]

    def canonical(config: dict[str, int], problem: Problem) -> None:
        config["BLOCK_SIZE_K"] = step_of(config)
        merge_groups(config, problem, values["GROUP_SIZE_M"])
        if grouped:
            config["SPLIT_K"] = 1
        else:
            config.pop("SPLIT_K", None)

    values = (ROCM_VALUES if is_rocm else VLLM_VALUES) | ({"SPLIT_K": (1,)} if grouped else {})
    if not is_rocm:
        checks[IN_SHARED_MEMORY] = fits
        checks[IN_REGISTERS] = lambda config, problem: fits_registers(
            config, problem, config["BLOCK_SIZE_M"] * config["BLOCK_SIZE_N"]
        )
    checks |= {**tile_checks("BLOCK_SIZE_N"), NO_EMPTY_STEPS: has_few_empty_steps}
    return Space(f"vllm-triton {scheme}{' on ROCm' if is_rocm else ''}", values, checks, canonical)


def our_space(scheme_name: str) -> Space:
    """Our Triton fused MoE on tensor cores (kernels/moe/gemm.py); row by row (gemv.py) a step may have many scales."""
    scheme = MOE_SCHEMES[scheme_name]
    checks: dict[str, Check] = {}
    if scheme.scaling not in ("tensor", "block"):
        checks["only a scale per tensor or per 128 columns is known on load"] = lambda config, _: (
            not config["QUANTIZE_ON_LOAD"]
        )
    if scheme.scaling == "block":
        checks["a step has one scale"] = lambda config, _: config["BLOCK_SIZE_K"] == GROUP_SIZE or is_by_row(config)
        checks["a tile has one scale"] = lambda config, _: config["DOWN_BLOCK_SIZE_N"] <= GROUP_SIZE
    checks |= {**pair_checks(lambda config: config["QUANTIZE_ON_LOAD"] == 0), NO_EMPTY_STEPS: has_few_empty_steps}
    return Space(f"triton {scheme_name}", OURS, checks, merge_our_groups)


def is_by_row(config: Config) -> bool:
    """Whether the configuration is of kernels/moe/gemv.py."""
    return bool(config["BLOCK_SIZE_M"] == 1)


def words_space(name: str) -> Space:
    """Our Triton MoE with repacked weights (kernels/moe/gemm_words.py), by the kernel or the scheme."""
    return Space(f"triton {name}", WORDS, pair_checks(lambda _: True), merge_our_groups)


def linear_space() -> Space:
    """Our Triton MXFP4 linear layer (kernels/gemm/mxfp4_kernels.py)."""

    def splits(config: Config, problem: Problem) -> bool:
        return config["SPLIT_K"] == 1 or problem.gemms[0][1] >= config["SPLIT_K"] * STEP

    def fits(config: Config, problem: Problem) -> bool:
        steps = {"BLOCK_SIZE_K": STEP, **config}
        return fits_shared_memory(steps, problem, config["BLOCK_SIZE_M"], config["BLOCK_SIZE_N"], is_async=False)

    checks: dict[str, Check] = {
        "every split has a step": splits,
        IN_SHARED_MEMORY: fits,
        IN_REGISTERS: lambda config, problem: fits_registers(
            config, problem, config["BLOCK_SIZE_M"] * config["BLOCK_SIZE_N"]
        ),
        **tile_checks("BLOCK_SIZE_N"),
    }
    return Space("triton mxfp4_gemm", MXFP4_GEMM, checks)


def tile_checks(*widths: str) -> dict[str, Check]:
    """The rules of tile arithmetic."""
    return {
        NO_EMPTY_ROWS: has_few_empty_rows,
        NO_EMPTY_COLUMNS: lambda config, problem: has_few_empty_columns(config, problem, *widths),
    }


def pair_checks(loads_codes: Callable[[Config], bool]) -> dict[str, Check]:
    """The rules of our two GEMMs: gate-up has tiles of two sums.

    Args:
        loads_codes: whether the tokens' operand goes through shared memory as it is; else its bytes are not counted.
    """

    def widths(config: Config) -> tuple[int, int]:
        return 2 * config["GATE_UP_BLOCK_SIZE_N"], config["DOWN_BLOCK_SIZE_N"]

    def fits(config: Config, problem: Problem) -> bool:
        rows, steps = config["BLOCK_SIZE_M"] if loads_codes(config) else 0, {"BLOCK_SIZE_K": STEP, **config}
        return all(fits_shared_memory(steps, problem, rows, width, is_async=False) for width in widths(config))

    def holds(config: Config, problem: Problem) -> bool:
        return all(fits_registers(config, problem, config["BLOCK_SIZE_M"] * width) for width in widths(config))

    return {
        IN_SHARED_MEMORY: fits,
        IN_REGISTERS: holds,
        **tile_checks("GATE_UP_BLOCK_SIZE_N", "DOWN_BLOCK_SIZE_N"),
    }


def merge_our_groups(config: dict[str, int], problem: Problem) -> None:
    """As merge_groups, over our sizes."""
    merge_groups(config, problem, OURS["GROUP_SIZE_M"])
