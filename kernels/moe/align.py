"""Group (token, expert) pairs by expert into blocks of BLOCK_SIZE_M rows, on the device, without asking the host.

A pair is numbered token * top_k + choice. A block holds pairs of one expert only:

    block_pairs[b * BLOCK_SIZE_M + i]  the i-th pair of block b, valid for i < block_rows[b]
    block_rows[b]                      its pairs, 0 for blocks past the last: grids are launched with an upper bound
    block_experts[b]                   the expert of block b, undefined past the last

The order of pairs inside an expert depends on atomics; no result depends on it, since every pair is computed on its own
row and written to its own row. With an expert map the pairs of other ranks' experts are in no block.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

ONE_PROGRAM_PAIRS = 2048
"""Up to so many pairs one program counts and places them all; more of them are counted in a launch of its own."""

PAIRS_PER_PROGRAM = 1024
PROGRAMS_PER_STEP = 32
NUM_WARPS = 8


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows grouped by expert, as the GEMM kernels read them; of other layouts than "aligned" they read less."""

    pairs: torch.Tensor
    """[max_blocks * BLOCK_SIZE_M] int32; past a block's rows the values are undefined. Read if aligned."""
    experts: torch.Tensor
    """[max_blocks] int32. Read if aligned or single."""
    rows: torch.Tensor
    """[max_blocks] int32 if aligned; [E] int32, the rows of each expert, if batched."""
    max_blocks: int
    """What grids are launched with."""
    layout: str = "aligned"
    """"aligned", "single" or "batched", as gemm.py explains them."""
    num_blocks: torch.Tensor | None = None
    """[1] int32, how many blocks have rows: a prefix. None if not aligned."""
    order: torch.Tensor | None = None
    """[max_blocks] int32 if asked for: blocks with more than half of their rows, the others, those past the last."""
    num_long: torch.Tensor | None = None
    """[1] int32, how many have more than half of their rows."""


@triton.jit
def load_experts(ids_ptr, expert_map_ptr, pair, num_pairs):
    """The experts of pairs, as this rank numbers them, and which of the pairs it computes."""
    valid = pair < num_pairs
    expert = tl.load(ids_ptr + pair, mask=valid, other=0)
    if expert_map_ptr is not None:
        expert = tl.load(expert_map_ptr + expert, mask=valid, other=-1)
        valid = expert >= 0
    return expert, valid


@triton.jit
def count_pairs_kernel(
    ids_ptr,
    expert_map_ptr,  # None without expert parallelism
    counts_ptr,  # [programs, BLOCK_SIZE_E], written
    num_pairs,
    BLOCK_SIZE_E: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """How many of each program's PAIRS pairs every expert has."""
    program = tl.program_id(0)
    expert, valid = load_experts(ids_ptr, expert_map_ptr, program * PAIRS + tl.arange(0, PAIRS), num_pairs)
    counts = tl.histogram(expert, BLOCK_SIZE_E, mask=valid)
    tl.store(counts_ptr + program * BLOCK_SIZE_E + tl.arange(0, BLOCK_SIZE_E), counts)


@triton.jit
def add_counts(counts_ptr, program, num_programs, BLOCK_SIZE_E: tl.constexpr, PROGRAMS_PER_STEP: tl.constexpr):
    """How many pairs every expert has, and how many of them the programs before this one."""
    counts = tl.zeros((BLOCK_SIZE_E,), dtype=tl.int32)
    before = tl.zeros((BLOCK_SIZE_E,), dtype=tl.int32)
    for first in range(0, num_programs, PROGRAMS_PER_STEP):
        other = (first + tl.arange(0, PROGRAMS_PER_STEP))[:, None]
        count_ptrs = counts_ptr + other * BLOCK_SIZE_E + tl.arange(0, BLOCK_SIZE_E)[None, :]
        count = tl.load(count_ptrs, mask=other < num_programs, other=0)  # [PROGRAMS_PER_STEP, BLOCK_SIZE_E]
        counts += tl.sum(count, 0)
        before += tl.sum(tl.where(other < program, count, 0), 0)
    return counts, before


@triton.jit
def place_pairs(
    program,  # of num_programs that do
    num_programs,
    ids_ptr,
    expert_map_ptr,
    counts_ptr,  # of count_pairs_kernel; None if one program has all pairs
    cursor_ptr,  # [programs, BLOCK_SIZE_E] scratch: the next free row of every expert, a row of them for each program
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    num_blocks_ptr,
    order_ptr,  # this and the next: as in Blocks, or None
    num_long_ptr,
    num_pairs,
    max_blocks,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    PAIRS: tl.constexpr,
    PROGRAMS_PER_STEP: tl.constexpr,
):
    """Give each of a program's PAIRS pairs a row of its expert, and every block, in turn, its expert and its rows.

    An expert owns ceil(count / BLOCK_SIZE_M) consecutive blocks.
    """
    experts = tl.arange(0, BLOCK_SIZE_E)
    pair = program * PAIRS + tl.arange(0, PAIRS)
    expert, valid = load_experts(ids_ptr, expert_map_ptr, pair, num_pairs)
    if counts_ptr is None:
        counts, before = tl.histogram(expert, BLOCK_SIZE_E, mask=valid), 0
    else:
        counts, before = add_counts(counts_ptr, program, num_programs, BLOCK_SIZE_E, PROGRAMS_PER_STEP)
    num_blocks = (counts + BLOCK_SIZE_M - 1) // BLOCK_SIZE_M
    first_block = tl.cumsum(num_blocks, 0) - num_blocks
    cursor_ptr += program * BLOCK_SIZE_E
    tl.store(cursor_ptr + experts, first_block * BLOCK_SIZE_M + before)
    tl.debug_barrier()  # the cursors are read back by other threads of this program
    row = tl.atomic_add(cursor_ptr + expert, 1, mask=valid, sem="relaxed")
    tl.store(block_pairs_ptr + row, pair, mask=valid)

    num_long = (counts + BLOCK_SIZE_M // 2 - 1) // BLOCK_SIZE_M
    first_long, total_long = tl.cumsum(num_long, 0) - num_long, tl.sum(num_long, 0)
    first_short = total_long + first_block - first_long
    for i in range(program, tl.max(num_blocks, 0), num_programs):  # the i-th blocks of all experts at once
        owned = i < num_blocks
        if order_ptr is not None:
            tl.store(order_ptr + tl.where(i < num_long, first_long + i, first_short), first_block + i, mask=owned)
        tl.store(block_experts_ptr + first_block + i, experts, mask=owned)
        tl.store(block_rows_ptr + first_block + i, tl.minimum(counts - i * BLOCK_SIZE_M, BLOCK_SIZE_M), mask=owned)
    total = tl.sum(num_blocks, 0)
    for first in range(total + program * BLOCK_SIZE_E, max_blocks, num_programs * BLOCK_SIZE_E):
        tl.store(block_rows_ptr + first + experts, 0, mask=first + experts < max_blocks)
        if order_ptr is not None:
            tl.store(order_ptr + first + experts, first + experts, mask=first + experts < max_blocks)
    if program == 0:
        tl.store(num_blocks_ptr, total)
        if num_long_ptr is not None:
            tl.store(num_long_ptr, total_long)


@triton.jit
def place_pairs_kernel(
    ids_ptr,  # this and the others: see place_pairs
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
):
    """Give every pair a row of its expert."""
    place_pairs(
        tl.program_id(0), tl.num_programs(0), ids_ptr, expert_map_ptr, counts_ptr, cursor_ptr, block_pairs_ptr,
        block_experts_ptr, block_rows_ptr, num_blocks_ptr, order_ptr, num_long_ptr, num_pairs, max_blocks,
        BLOCK_SIZE_M, BLOCK_SIZE_E, PAIRS, PROGRAMS_PER_STEP,
    )  # fmt: skip


def max_num_blocks(num_pairs: int, num_experts: int, block_size_m: int) -> int:
    """The most blocks any routing of num_pairs can need: what the grids are launched with."""
    return min(num_pairs, (num_pairs + num_experts * (block_size_m - 1)) // block_size_m)


def count_pairs(
    topk_ids: torch.Tensor,
    num_experts: int,
    block_size_m: int,
    expert_map: torch.Tensor | None,
    *,
    ordered: bool = False,
) -> tuple[Blocks, int, tuple[Any, ...]]:
    """Blocks that are not written yet, how many programs place pairs, and what place_pairs takes after these.

    Pairs have been counted, if they are more than one program places.
    """
    num_pairs, device = topk_ids.numel(), topk_ids.device
    max_blocks = max_num_blocks(num_pairs, num_experts, block_size_m)
    block_size_e = max(triton.next_power_of_2(num_experts), 16)
    one_program = num_pairs <= ONE_PROGRAM_PAIRS
    pairs_per_program = max(triton.next_power_of_2(num_pairs), 16) if one_program else PAIRS_PER_PROGRAM
    num_programs = triton.cdiv(num_pairs, pairs_per_program)
    pairs, experts, rows, num_blocks, cursor = (
        torch.empty(size, dtype=torch.int32, device=device)
        for size in (max_blocks * block_size_m, max_blocks, max_blocks, 1, num_programs * block_size_e)
    )
    order, num_long = (torch.empty_like(experts), torch.empty_like(num_blocks)) if ordered else (None, None)
    counts = None
    if not one_program:
        counts = torch.empty_like(cursor)
        count_pairs_kernel[(num_programs,)](
            topk_ids, expert_map, counts, num_pairs, block_size_e, pairs_per_program, num_warps=NUM_WARPS
        )
    arguments = (
        topk_ids, expert_map, counts, cursor, pairs, experts, rows, num_blocks, order, num_long, num_pairs, max_blocks,
        block_size_m, block_size_e, pairs_per_program, PROGRAMS_PER_STEP,
    )  # fmt: skip
    blocks = Blocks(pairs, experts, rows, max_blocks, num_blocks=num_blocks, order=order, num_long=num_long)
    return blocks, num_programs, arguments


def align_blocks_triton(
    topk_ids: torch.Tensor,
    num_experts: int,
    block_size_m: int,
    expert_map: torch.Tensor | None = None,
    *,
    ordered: bool = False,
) -> Blocks:
    """Group the pairs of topk_ids by expert into blocks of block_size_m rows.

    Args:
        topk_ids: [num_tokens, top_k] int32, contiguous, each in [0, num_experts), or an index of expert_map.
        num_experts: of this rank.
        expert_map: int32, this rank's number of each expert of all ranks, -1 for other ranks' experts.
        ordered: whether Blocks.order is asked for.
    Returns:
        Blocks, allocated for the worst routing so that a CUDA graph can capture the launch.
    """
    blocks, num_programs, arguments = count_pairs(topk_ids, num_experts, block_size_m, expert_map, ordered=ordered)
    place_pairs_kernel[(num_programs,)](*arguments, num_warps=NUM_WARPS)
    return blocks
