"""Group (token, expert) pairs by expert into blocks of BLOCK_SIZE_M rows, on the device, without asking the host.

A pair is numbered token * top_k + choice. A block holds pairs of one expert only:

    block_pairs[b * BLOCK_SIZE_M + i]  the i-th pair of block b, valid for i < block_rows[b]
    block_experts[b]                   the expert of block b
    block_rows[b]                      its pairs, 0 for blocks past the last: grids are launched with an upper bound

The order of pairs inside an expert depends on atomics; no result depends on it, since every pair is computed on its own
row and written to its own row. With an expert map the pairs of other ranks' experts are in no block.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

ONE_PROGRAM_PAIRS = 2048
"""Up to so many pairs one program does everything in one launch; three launches cost more than what they spread."""

PAIRS_PER_PROGRAM = 1024


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


@triton.jit
def write_blocks(
    counts,
    block_experts_ptr,
    block_rows_ptr,
    first_chunk,
    chunk_step,
    max_blocks,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    BLOCKS_PER_STEP: tl.constexpr,
):
    """Tell every block its expert and its rows; an expert owns ceil(count / BLOCK_SIZE_M) consecutive blocks."""
    num_blocks = (counts + BLOCK_SIZE_M - 1) // BLOCK_SIZE_M  # [BLOCK_SIZE_E]
    end_block = tl.cumsum(num_blocks, 0)
    experts = tl.arange(0, BLOCK_SIZE_E)
    for chunk in range(first_chunk, tl.cdiv(max_blocks, BLOCKS_PER_STEP), chunk_step):
        block = chunk * BLOCKS_PER_STEP + tl.arange(0, BLOCKS_PER_STEP)
        expert = tl.sum((end_block[None, :] <= block[:, None]).to(tl.int32), 1)  # [BLOCKS_PER_STEP]
        own = experts[None, :] == expert[:, None]  # [BLOCKS_PER_STEP, BLOCK_SIZE_E]
        count = tl.sum(tl.where(own, counts[None, :], 0), 1)
        first = tl.sum(tl.where(own, (end_block - num_blocks)[None, :], 0), 1)
        rows = tl.minimum(tl.maximum(count - (block - first) * BLOCK_SIZE_M, 0), BLOCK_SIZE_M)
        tl.store(block_experts_ptr + block, expert, mask=block < max_blocks)
        tl.store(block_rows_ptr + block, rows, mask=block < max_blocks)


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
def place_pairs(
    ids_ptr,
    expert_map_ptr,
    cursor_ptr,
    block_pairs_ptr,
    first_pair,
    num_pairs,
    BLOCK_SIZE_M: tl.constexpr,
    PAIRS_PER_STEP: tl.constexpr,
):
    """Give each of PAIRS_PER_STEP pairs the next free row of its expert; cursor[e] starts at the expert's first row."""
    pair = first_pair + tl.arange(0, PAIRS_PER_STEP)
    expert, valid = load_experts(ids_ptr, expert_map_ptr, pair, num_pairs)
    row = tl.atomic_add(cursor_ptr + expert, 1, mask=valid, sem="relaxed")
    tl.store(block_pairs_ptr + row, pair, mask=valid)


@triton.jit
def align_in_one_program_kernel(
    ids_ptr,
    expert_map_ptr,  # None without expert parallelism
    cursor_ptr,
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    num_pairs,
    max_blocks,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    PAIRS_PER_STEP: tl.constexpr,
    BLOCKS_PER_STEP: tl.constexpr,
):
    """Count, lay out and scatter a small batch in a single program; needs no zeroed scratch."""
    pair = tl.arange(0, PAIRS_PER_STEP)
    expert, valid = load_experts(ids_ptr, expert_map_ptr, pair, num_pairs)
    counts = tl.histogram(expert, BLOCK_SIZE_E, mask=valid)
    num_blocks = (counts + BLOCK_SIZE_M - 1) // BLOCK_SIZE_M
    tl.store(cursor_ptr + tl.arange(0, BLOCK_SIZE_E), (tl.cumsum(num_blocks, 0) - num_blocks) * BLOCK_SIZE_M)
    tl.debug_barrier()  # the cursors are read back by other threads of this program
    place_pairs(ids_ptr, expert_map_ptr, cursor_ptr, block_pairs_ptr, 0, num_pairs, BLOCK_SIZE_M, PAIRS_PER_STEP)
    write_blocks(
        counts, block_experts_ptr, block_rows_ptr, 0, 1, max_blocks, BLOCK_SIZE_M, BLOCK_SIZE_E, BLOCKS_PER_STEP
    )


@triton.jit
def count_experts_kernel(
    ids_ptr, expert_map_ptr, counts_ptr, num_pairs, BLOCK_SIZE_E: tl.constexpr, PAIRS_PER_STEP: tl.constexpr
):
    """Add this program's histogram of experts to counts, which starts at zero."""
    pair = tl.program_id(0) * PAIRS_PER_STEP + tl.arange(0, PAIRS_PER_STEP)
    expert, valid = load_experts(ids_ptr, expert_map_ptr, pair, num_pairs)
    counts = tl.histogram(expert, BLOCK_SIZE_E, mask=valid)
    tl.atomic_add(counts_ptr + tl.arange(0, BLOCK_SIZE_E), counts, mask=counts > 0, sem="relaxed")


@triton.jit
def lay_out_blocks_kernel(
    counts_ptr,
    cursor_ptr,
    block_experts_ptr,
    block_rows_ptr,
    max_blocks,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_E: tl.constexpr,
    BLOCKS_PER_STEP: tl.constexpr,
):
    """Turn counts into each expert's first row and each block's expert and rows."""
    experts = tl.arange(0, BLOCK_SIZE_E)
    counts = tl.load(counts_ptr + experts)
    num_blocks = (counts + BLOCK_SIZE_M - 1) // BLOCK_SIZE_M
    tl.store(
        cursor_ptr + experts,
        (tl.cumsum(num_blocks, 0) - num_blocks) * BLOCK_SIZE_M,
        mask=(experts >= 0) & (tl.program_id(0) == 0),
    )
    write_blocks(
        counts,
        block_experts_ptr,
        block_rows_ptr,
        tl.program_id(0),
        tl.num_programs(0),
        max_blocks,
        BLOCK_SIZE_M,
        BLOCK_SIZE_E,
        BLOCKS_PER_STEP,
    )


@triton.jit
def scatter_pairs_kernel(
    ids_ptr,
    expert_map_ptr,
    cursor_ptr,
    block_pairs_ptr,
    num_pairs,
    BLOCK_SIZE_M: tl.constexpr,
    PAIRS_PER_STEP: tl.constexpr,
):
    """Place this program's pairs."""
    first_pair = tl.program_id(0) * PAIRS_PER_STEP
    place_pairs(
        ids_ptr, expert_map_ptr, cursor_ptr, block_pairs_ptr, first_pair, num_pairs, BLOCK_SIZE_M, PAIRS_PER_STEP
    )


def max_num_blocks(num_pairs: int, num_experts: int, block_size_m: int) -> int:
    """The most blocks any routing of num_pairs can need: what the grids are launched with."""
    return min(num_pairs, (num_pairs + num_experts * (block_size_m - 1)) // block_size_m)


def align_blocks_triton(
    topk_ids: torch.Tensor, num_experts: int, block_size_m: int, expert_map: torch.Tensor | None = None
) -> Blocks:
    """Group the pairs of topk_ids by expert into blocks of block_size_m rows.

    Args:
        topk_ids: [num_tokens, top_k] int32, contiguous, each in [0, num_experts), or an index of expert_map.
        num_experts: of this rank.
        expert_map: int32, this rank's number of each expert of all ranks, -1 for other ranks' experts.
    Returns:
        Blocks, allocated for the worst routing so that a CUDA graph can capture the launch.
    """
    num_pairs, device = topk_ids.numel(), topk_ids.device
    max_blocks = max_num_blocks(num_pairs, num_experts, block_size_m)
    block_size_e = max(triton.next_power_of_2(num_experts), 16)
    blocks = Blocks(
        pairs=torch.empty(max_blocks * block_size_m, dtype=torch.int32, device=device),
        experts=torch.empty(max_blocks, dtype=torch.int32, device=device),
        rows=torch.empty(max_blocks, dtype=torch.int32, device=device),
        max_blocks=max_blocks,
    )
    cursor = torch.empty(block_size_e, dtype=torch.int32, device=device)
    sizes = {"BLOCK_SIZE_M": block_size_m, "BLOCK_SIZE_E": block_size_e, "BLOCKS_PER_STEP": 32}
    if num_pairs <= ONE_PROGRAM_PAIRS:
        align_in_one_program_kernel[(1,)](
            topk_ids, expert_map, cursor, blocks.pairs, blocks.experts, blocks.rows, num_pairs, max_blocks,
            PAIRS_PER_STEP=max(triton.next_power_of_2(num_pairs), 16), num_warps=8, **sizes,
        )  # fmt: skip
        return blocks
    counts = torch.zeros(block_size_e, dtype=torch.int32, device=device)
    grid = (triton.cdiv(num_pairs, PAIRS_PER_PROGRAM),)
    count_experts_kernel[grid](topk_ids, expert_map, counts, num_pairs, block_size_e, PAIRS_PER_PROGRAM)
    lay_out_blocks_kernel[(min(triton.cdiv(max_blocks, 32), 64),)](
        counts, cursor, blocks.experts, blocks.rows, max_blocks, **sizes
    )
    scatter_pairs_kernel[grid](topk_ids, expert_map, cursor, blocks.pairs, num_pairs, block_size_m, PAIRS_PER_PROGRAM)
    return blocks
