"""Launch configurations of our Triton fused MoE: one record, and the rules that pick one for a case.

The rules for one scale per tensor and for 128 x 128 blocks are the best of about 40 configurations a case on an H200
(18 cases, 3 models), by rows per expert. Decode reads weights and little else: 16 rows, deep pipelines. Prefill
multiplies: as many rows as an expert has, up to 128, or 64 where per-group sums need the registers.
The other schemes take what these rules give for the same bytes a step: a first guess, not tuned yet.
"""

from dataclasses import dataclass, replace

import torch

from kernels.moe.inputs import is_batched, moe_sizes
from kernels.moe.schemes import GROUP_SIZE, MoeScheme, scheme_of
from kernels.spec import Case

LEAST_PROGRAMS = 32
"""A quarter of a Hopper's SMs: with fewer programs the gate-up GEMM is split into narrower tiles."""

ROW_PROGRAMS = 264
"""Twice a Hopper's SMs: with fewer programs row by row their tiles are narrower."""

ROOM_TO_QUANTIZE = 32 * 1024
"""Bytes of shared memory that the block scheme takes for more than its stages, compiled for sm_89."""


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Launch configuration of fused_moe_triton."""

    BLOCK_SIZE_M: int
    """Rows of a block: pairs of one expert. 1 is row by row, without tensor cores (gemv.py): GROUP_SIZE_M, SWAP_AB and
    num_stages are not read then."""
    GATE_UP_BLOCK_SIZE_N: int
    """Columns of the intermediate per program; below 128 the block scheme quantizes it in the down GEMM instead."""
    DOWN_BLOCK_SIZE_N: int
    """Columns of the output per program."""
    BLOCK_SIZE_K: int
    """Step of both sums; 128 in the block scheme. Row by row the longest step of the gate-up sum."""
    GROUP_SIZE_M: int
    """Blocks that share a tile of weights in L2."""
    SWAP_AB: bool
    """Weights as the left operand."""
    QUANTIZE_ON_LOAD: bool
    """Quantize hidden states in the gate-up GEMM instead of in a launch of its own; not by whole rows."""
    num_warps: int
    num_stages: int


def default_config(case: Case) -> MoeConfig:
    """By rows per expert, as if every expert that can have pairs had as many."""
    scheme, (num_experts, top_k, k, n) = scheme_of(case.layer), moe_sizes(case.layer)
    num_pairs, ep_size = case.num_tokens * top_k, case.layer.ep_size
    num_blocks = max(min(num_experts * ep_size, num_pairs), 1)
    rows = num_pairs / num_blocks
    if num_pairs * 4 <= num_experts * ep_size and not is_batched(case) and scheme.weight_dtype != torch.int8:
        return default_row_config(scheme, num_pairs * n, case.num_tokens * k)
    if scheme.scaling == "block":
        return default_block_config(rows, -(-num_blocks // ep_size), n)
    config = default_tensor_config(rows, k, n)
    return config if scheme.scaling == "tensor" else adapt_config(config, scheme)


def fit_stages(config: MoeConfig, scheme: MoeScheme, shared_bytes: int) -> MoeConfig:
    """As many stages as shared memory holds: the rules are Hopper's, of whose 227 KiB sm_86, sm_89 and sm_120 have 99.

    All stages but one are in memory at a time; on Hopper all of them, which fit there by the rules.
    """
    columns = max(2 * config.GATE_UP_BLOCK_SIZE_N, config.DOWN_BLOCK_SIZE_N)
    itemsize = 1 if scheme.weight_dtype else 2
    stage_bytes = (config.BLOCK_SIZE_M + columns) * config.BLOCK_SIZE_K * itemsize
    room = ROOM_TO_QUANTIZE if scheme.scaling == "block" else 0
    most = (shared_bytes - room) // stage_bytes + 1
    return replace(config, num_stages=max(min(config.num_stages, most), 1))


def default_row_config(scheme: MoeScheme, intermediates: int, outputs: int) -> MoeConfig:
    """For few pairs: two programs for every SM, of as many rows of weights as these leave. Not for INT8 weights.

    The best of about 50 configurations, or 2 % behind, at M=1 of DeepSeek-V3 TP8, Qwen3-30B-A3B and, in three schemes,
    Mixtral-8x7B TP2 on an H200, and at M=4 of the first. Rounding groups on load takes 16 rows as long as 8.
    """
    groups, is_wide = scheme.scaling == "block", scheme.weight_dtype is None
    widths = (16, 8) if groups else (8,)
    width = next((width for width in widths if intermediates >= ROW_PROGRAMS * width), 4)
    return MoeConfig(
        BLOCK_SIZE_M=1,
        GATE_UP_BLOCK_SIZE_N=width,
        DOWN_BLOCK_SIZE_N=16 if outputs >= ROW_PROGRAMS * 16 else 8,
        BLOCK_SIZE_K=1024 if is_wide or (groups and width < 16) else 512,
        GROUP_SIZE_M=1,
        SWAP_AB=False,
        QUANTIZE_ON_LOAD=scheme.scaling in ("tensor", "block"),
        num_warps=8 if is_wide else 4,
        num_stages=1,
    )


def default_block_config(rows: float, num_blocks: int, intermediate_size: int) -> MoeConfig:
    """For 128 x 128 blocks; narrow gate-up tiles only where wide ones would leave most of the SMs without a program."""
    wide = num_blocks * intermediate_size >= LEAST_PROGRAMS * GROUP_SIZE
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    latency_bound = num_blocks * intermediate_size < 132 * GROUP_SIZE
    return MoeConfig(
        BLOCK_SIZE_M=block_m,
        GATE_UP_BLOCK_SIZE_N=128 if wide else 32,
        DOWN_BLOCK_SIZE_N=128,
        BLOCK_SIZE_K=GROUP_SIZE,
        GROUP_SIZE_M=8,
        SWAP_AB=block_m <= 32,
        QUANTIZE_ON_LOAD=False,
        num_warps=4 if 12 < rows <= 32 else 8,
        num_stages=5 if latency_bound else 4 if block_m == 64 else 3,
    )


def default_tensor_config(rows: float, hidden_size: int, intermediate_size: int) -> MoeConfig:
    """For one scale per tensor."""
    block_m = 16 if rows <= 8 else 32 if rows <= 32 else 64 if rows <= 128 else 128
    long_steps = block_m == 16 and rows > 1 and hidden_size % 256 == 0 == intermediate_size % 256
    stages_by_rows = {16: 4 if long_steps else 6, 32: 5, 64: 5, 128: 4 if rows <= 512 else 3}
    return MoeConfig(
        BLOCK_SIZE_M=block_m,
        GATE_UP_BLOCK_SIZE_N=64 if block_m == 16 else 128,
        DOWN_BLOCK_SIZE_N=128 if block_m == 16 else 256,
        BLOCK_SIZE_K=256 if long_steps else 128,
        GROUP_SIZE_M=32,
        SWAP_AB=block_m <= 32,
        QUANTIZE_ON_LOAD=False,
        num_warps=4 if block_m == 64 else 8,
        num_stages=stages_by_rows[block_m],
    )


def adapt_config(config: MoeConfig, scheme: MoeScheme) -> MoeConfig:
    """A per-tensor FP8 configuration for operands of other widths and for sums that need other registers."""
    if scheme.weight_dtype is None:  # steps of as many bytes
        return replace(config, BLOCK_SIZE_K=config.BLOCK_SIZE_K // 2)
    if scheme.weight_dtype == torch.int8:  # compiled for sm_100, the int32 sums of wider tiles spill
        wide = config.BLOCK_SIZE_M >= 64
        return replace(config, num_warps=8, GATE_UP_BLOCK_SIZE_N=64, DOWN_BLOCK_SIZE_N=128) if wide else config
    return config
