"""Alignment and the rounding of hidden states in one launch: neither needs the other, and each leaves the GPU idle.

Few programs place pairs, and wait for one another's counts and for atomics; the others round meanwhile.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl

from kernels.errors import ShapeError
from kernels.moe.activations import quantize_groups
from kernels.moe.align import NUM_WARPS, Blocks, count_pairs, place_pairs
from kernels.moe.routing import Routing
from kernels.moe.schemes import GROUP_SIZE
from kernels.quantize.fp8 import FP8_DTYPE

GROUPS_PER_PROGRAM = 32


@triton.jit
def place_and_quantize_kernel(
    num_placing,  # programs that place pairs; the others quantize
    ids_ptr,  # this and those to PROGRAMS_PER_STEP: see place_pairs
    expert_map_ptr,
    counts_ptr,
    cursor_ptr,
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    num_blocks_ptr,
    order_ptr,
    num_long_ptr,
    num_pairs,
    max_blocks,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    PAIRS: tl.constexpr,
    PROGRAMS_PER_STEP: tl.constexpr,
    x_ptr,  # this and the others: see quantize_groups
    weights_ptr,
    codes_ptr,
    scale_ptr,
    computed_ids_ptr,
    computed_map_ptr,
    num_groups,
    numel,
    K,
    top_k,
    GROUPS: tl.constexpr,
):
    """Give every pair a row of its expert, and quantize groups of hidden states."""
    program = tl.program_id(0)
    if program < num_placing:
        place_pairs(
            program, num_placing, ids_ptr, expert_map_ptr, counts_ptr, cursor_ptr, block_pairs_ptr, block_experts_ptr,
            block_rows_ptr, num_blocks_ptr, order_ptr, num_long_ptr, num_pairs, max_blocks,
            BLOCK_SIZE_M, BLOCK_SIZE_E, PAIRS, PROGRAMS_PER_STEP,
        )  # fmt: skip
    else:
        quantize_groups(
            program - num_placing, x_ptr, weights_ptr, codes_ptr, scale_ptr, computed_ids_ptr, computed_map_ptr, None,
            None, num_groups, numel, K, top_k, True, GROUPS,
        )  # fmt: skip


def align_and_quantize(
    routing: Routing, num_experts: int, block_size_m: int, x: torch.Tensor, *, weight_rows: bool = False
) -> tuple[Blocks, torch.Tensor, torch.Tensor]:
    """What align_blocks_triton returns, and what quantize_triton does, of groups of 128.

    Args:
        routing: of standard activations.
        num_experts: of this rank.
        x: [num_tokens, k] 16-bit values, contiguous.
        weight_rows: multiply each pair's copy of its token by the router's weight before it is rounded.
    Returns:
        Blocks; codes [num_tokens, k], or with weight_rows [num_pairs, k]; scales [rows, k / 128]. Rows that are not
        computed stay unwritten.
    Raises:
        ShapeError: the rows are batched.
    """
    if routing.topk_ids is None:
        raise ShapeError("batched rows are aligned already: quantize them with quantize_triton")
    num_tokens, k = x.shape
    num_rows = routing.num_rows if weight_rows else num_tokens
    codes = torch.empty(num_rows, k, dtype=FP8_DTYPE, device=x.device)
    scales = torch.empty(num_rows, k // GROUP_SIZE, device=x.device)
    weights = routing.topk_weights if weight_rows else None
    computed = routing.computed[:2] if weight_rows else (None, None)
    by_row = (k, routing.top_k) if weight_rows else (None, None)
    blocks, num_placing, arguments = count_pairs(routing.topk_ids, num_experts, block_size_m, routing.expert_map)
    place_and_quantize_kernel[(num_placing + triton.cdiv(scales.numel(), GROUPS_PER_PROGRAM),)](
        num_placing, *arguments, x, weights, codes, scales, *computed, scales.numel(), codes.numel(), *by_row,
        GROUPS_PER_PROGRAM, num_warps=NUM_WARPS,
    )  # fmt: skip
    return blocks, codes, scales
