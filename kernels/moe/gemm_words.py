"""The Triton GEMMs of the MoE with repacked weights: gate-up with SiLU-and-mul, down; the kernel unpacks weights.

    mxfp4  e2m1 times an e8m0 scale per 32 columns
    nvfp4  e2m1 times an e4m3 scale per 16 columns
    int4   int4 times an e4m3 scale per 128 columns, on FP8 activations
    int8   int8, with or without a float32 scale per 128 columns

kernels/gemm/w4_tile.py, int4_tile.py and w8_tile.py multiply; a float32 factor per row of weights, and a scale per
token where activations have one, multiply whole sums. Gate and up rows alternate in the words of w1, and so in a tile.

NaN and infinity stay in their row: each row of tokens has its own products.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.int4_tile import multiply_int4
from kernels.gemm.tiles import tile_of_program
from kernels.gemm.w4_tile import QUARTER, multiply_words
from kernels.gemm.w8_tile import HALF, multiply_int8
from kernels.moe.gemm import rows_of_block
from kernels.moe.round_w4 import round_to_fp4


@triton.jit
def multiply_rows(
    a_ptrs,  # [BLOCK_SIZE_M, 1]
    words_ptr,
    scales_ptr,
    factor_ptr,
    a_scale_ptr,
    a_sum_ptr,
    row,  # of each token's row, [BLOCK_SIZE_M]
    expert,
    offs_w,  # rows of the expert's matrix, [ROWS]
    num_rows_w,
    first_step,
    end_step,
    K,
    ROWS: tl.constexpr,
    FORMAT: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
):
    """w @ a.T over some steps, [ROWS, BLOCK_SIZE_M] float32 of one expert, with all that multiplies whole sums."""
    first = expert * tl.cdiv(K, 128) * num_rows_w + offs_w
    if FORMAT == "int8":
        acc = multiply_int8(
            a_ptrs, words_ptr + first[:, None] * HALF, None if scales_ptr is None else scales_ptr + first,
            first_step, end_step, num_rows_w, K, ROWS, EVEN_K, BLOCK_SIZE_M,
        )  # fmt: skip
    elif FORMAT == "int4":
        acc = multiply_int4(
            a_ptrs, a_sum_ptr + row[:, None] * STEPS, words_ptr + first[:, None] * HALF, scales_ptr + first,
            first_step, end_step, num_rows_w, ROWS, STEPS, BLOCK_SIZE_M,
        )  # fmt: skip
    else:
        acc = multiply_words(
            a_ptrs, words_ptr + first[:, None] * QUARTER, scales_ptr + first, first_step, end_step, num_rows_w, K,
            ROWS, FORMAT, EVEN_K, BLOCK_SIZE_M,
        )  # fmt: skip
    acc *= tl.load(factor_ptr + expert * num_rows_w + offs_w)[:, None]
    if a_scale_ptr is not None:
        acc *= tl.load(a_scale_ptr + row)[None, :]
    return acc


@triton.jit
def words_gate_up_kernel(
    a_ptr,  # [rows, K] values
    a_scale_ptr,  # int4: [rows] float32; else None
    a_sum_ptr,  # int4: [rows, STEPS] float16; else None
    words_ptr,  # [E, K / 128, 2 N, 32], of int4 and int8 64: gate and up rows in turn
    scales_ptr,  # [E, K / 128, 2 N]; int8 with a scale per row: None
    factor_ptr,  # [E, 2 N]
    topk_weights_ptr,  # [num_pairs] if the input is weighted here, else None
    out_ptr,  # [num_pairs, N] values
    out_global_scale_ptr,  # nvfp4 with ROUND_OUT: [1]; else None
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    expert_map_ptr,
    num_blocks,
    N,
    K,
    pairs_per_row,
    rows_per_expert,
    FORMAT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ROUND_OUT: tl.constexpr,
    STEPS: tl.constexpr,
    LAYOUT: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[pair] = q(silu(a[row] @ w_gate.T) * (a[row] @ w_up.T)), one block x BLOCK_SIZE_N columns a program."""
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(N, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, expert_map_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    row = pair // pairs_per_row
    offs_w = pid_n * 2 * BLOCK_SIZE_N + tl.arange(0, 2 * BLOCK_SIZE_N)
    offs_w = offs_w if EVEN_N else tl.where(offs_w < 2 * N, offs_w, 0)
    acc = multiply_rows(
        a_ptr + row[:, None] * K, words_ptr, scales_ptr, factor_ptr, a_scale_ptr, a_sum_ptr,
        row, expert, offs_w, 2 * N, 0, tl.cdiv(K, 128), K, 2 * BLOCK_SIZE_N, FORMAT, STEPS, EVEN_K, BLOCK_SIZE_M,
    )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(acc, (BLOCK_SIZE_N, 2, BLOCK_SIZE_M)), (2, 0, 1)))
    # The sums are linear in the input, and so is its rounding if that has a scale per token.
    if topk_weights_ptr is not None:
        weight = tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)[:, None]
        gate *= weight
        up *= weight
    h = gate * tl.sigmoid(gate) * up  # [BLOCK_SIZE_M, BLOCK_SIZE_N]
    if ROUND_OUT:
        h = round_to_fp4(h, out_global_scale_ptr, FORMAT, GROUP_SIZE)
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    mask = valid[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + pair[:, None] * N + offs_n[None, :], h.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def words_down_kernel(
    a_ptr,  # [num_pairs, N] values
    a_scale_ptr,  # int4: [num_pairs] float32; else None
    a_sum_ptr,  # int4: [num_pairs, STEPS] float16; else None
    words_ptr,  # [E, N / 128, K, 32], of int4 and int8 64
    scales_ptr,  # [E, N / 128, K]; int8 with a scale per row: None
    factor_ptr,  # [E, K]
    topk_weights_ptr,  # [num_pairs] if the output is weighted, else None
    out_ptr,  # [num_pairs, SPLIT, K]
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    expert_map_ptr,
    num_blocks,
    N,
    K,
    rows_per_expert,
    FORMAT: tl.constexpr,
    STEPS: tl.constexpr,
    LAYOUT: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """out[pair, split] = topk_weight[pair] * (a[pair] @ w.T) over a SPLITth of N; BLOCK_SIZE_N tiles K."""
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(K, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, expert_map_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    offs_w = offs_n if EVEN_K else tl.where(offs_n < K, offs_n, 0)
    steps = tl.cdiv(N, 128)
    steps_per_split = tl.cdiv(steps, SPLIT)
    first_step = tl.program_id(1) * steps_per_split
    end_step = tl.minimum(first_step + steps_per_split, steps)
    acc = multiply_rows(
        a_ptr + pair[:, None] * N, words_ptr, scales_ptr, factor_ptr, a_scale_ptr, a_sum_ptr,
        pair, expert, offs_w, K, first_step, end_step, N, BLOCK_SIZE_N, FORMAT, STEPS, EVEN_N, BLOCK_SIZE_M,
    )  # fmt: skip
    if topk_weights_ptr is not None:
        acc *= tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)[None, :]
    mask = valid[:, None] & (offs_n < K)[None, :]
    out_ptrs = out_ptr + (pair * SPLIT + tl.program_id(1))[:, None] * K + offs_n[None, :]
    tl.store(out_ptrs, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=mask)
