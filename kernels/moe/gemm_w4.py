"""The Triton GEMMs of the 4-bit MoE kernels: gate-up with SiLU-and-mul, down; weights are unpacked in the kernel.

    mxfp4  e2m1 times an e8m0 scale per 32 columns: exact in bfloat16, multiplied on 16-bit tensor cores
    nvfp4  e2m1 times an e4m3 scale per 16 columns: exact in bfloat16; a float32 factor per expert after the sum
    int4   as e4m3 codes times 2**-9, multiplied on FP8 tensor cores; the e4m3 scale of 128 columns multiplies the sum
           over them, a float32 scale per output channel and one per token the whole sum

The product is computed transposed, weights on the left: there the tokens' side may be as narrow as 16, and gate and up
rows alternate in one tile.

NaN and infinity stay in their row: each row of tokens has its own products.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.mxfp4_kernels import e2m1_values, e8m0_values
from kernels.moe.gemm import rows_of_block, tile_of_program
from kernels.moe.round_w4 import round_to_fp4

INT4_UNIT: tl.constexpr = tl.constexpr(512.0)
"""Of int4_codes: the e4m3 code of 1 is 2**-9."""


@triton.jit
def int4_codes(nibbles):
    """e4m3 codes of int4 * 2**-9: from 0 to 8 magnitudes are e4m3's subnormals and the first normal, so bits stay."""
    return tl.where(nibbles > 7, 0x90 - nibbles, nibbles)


@triton.jit
def unpack_weights(codes, scales, FORMAT: tl.constexpr, dtype: tl.constexpr):
    """The values [ROWS, K] of codes [ROWS, K / 2], times scales [ROWS, K / group] but in int4; the first is low."""
    low, high = codes & 15, codes >> 4
    if FORMAT == "int4":
        values = tl.join(int4_codes(low), int4_codes(high)).to(tl.float8e4nv, bitcast=True)  # [ROWS, K / 2, 2]
    else:
        factors = e8m0_values(scales) if FORMAT == "mxfp4" else scales.to(tl.float32)
        group_size: tl.constexpr = 2 * codes.shape[1] // scales.shape[1]
        values = tl.reshape(tl.join(e2m1_values(low), e2m1_values(high)), (codes.shape[0], scales.shape[1], group_size))
        values = (values * factors[:, :, None]).to(dtype)
    return tl.reshape(values, (codes.shape[0], 2 * codes.shape[1]))


@triton.jit
def multiply_tile(
    a_ptrs,  # [BLOCK_SIZE_M, 1], to the rows of tokens
    w_ptrs,  # [ROWS, 1], to the rows of weights
    w_scale_ptrs,  # [ROWS, 1]
    K,
    ROWS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    FORMAT: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """w @ a.T, [ROWS, BLOCK_SIZE_M] float32, each weight read once."""
    tl.static_assert(FORMAT != "int4" or BLOCK_SIZE_K == GROUP_SIZE, "a step must have one scale per row of weights")
    groups: tl.constexpr = BLOCK_SIZE_K // GROUP_SIZE
    offs_k = tl.arange(0, BLOCK_SIZE_K)
    offs_byte = tl.arange(0, BLOCK_SIZE_K // 2)
    offs_group = tl.arange(0, groups)
    a_ptrs += offs_k[None, :]
    w_ptrs += offs_byte[None, :]
    w_scale_ptrs += offs_group[None, :]
    acc = tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32)
    for k in range(0, K, BLOCK_SIZE_K):
        if EVEN_K:
            a = tl.load(a_ptrs)
            codes = tl.load(w_ptrs)
            scales = tl.load(w_scale_ptrs)
        else:
            a = tl.load(a_ptrs, mask=offs_k[None, :] < K - k, other=0.0)
            codes = tl.load(w_ptrs, mask=offs_byte[None, :] < (K - k) // 2, other=0)
            scales = tl.load(w_scale_ptrs, mask=offs_group[None, :] < (K - k) // GROUP_SIZE, other=0.0)
        w = unpack_weights(codes, scales, FORMAT, a.dtype)
        if FORMAT == "int4":
            acc += tl.dot(w, tl.trans(a)) * scales.to(tl.float32)
        else:
            acc = tl.dot(w, tl.trans(a), acc)
        a_ptrs += BLOCK_SIZE_K
        w_ptrs += BLOCK_SIZE_K // 2
        w_scale_ptrs += groups
    return acc


@triton.jit
def scale_tile(acc, w_factor_ptr, a_scale_ptr, row, expert, num_rows_w, offs_w, FORMAT: tl.constexpr):
    """acc [ROWS, BLOCK_SIZE_M] times what multiplies whole sums."""
    if FORMAT == "int4":
        channel_scale = tl.load(w_factor_ptr + expert * num_rows_w + offs_w) * INT4_UNIT
        acc *= channel_scale[:, None] * tl.load(a_scale_ptr + row)[None, :]
    elif FORMAT == "nvfp4":
        acc *= tl.load(w_factor_ptr + expert)
    return acc


@triton.jit
def w4_gate_up_kernel(
    a_ptr,  # [rows, K] values, or codes with int4
    a_scale_ptr,  # int4: [rows] float32; else None
    w_ptr,  # [E, 2 N, K / 2]: gate rows, then up rows
    w_scale_ptr,  # [E, 2 N, K / GROUP_SIZE]
    w_factor_ptr,  # int4: [E, 2 N]; nvfp4: [E]; mxfp4: None
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
    row_bytes,  # K / 2 and K / GROUP_SIZE: as arguments, Triton knows what divides them
    row_groups,
    pairs_per_row,
    rows_per_expert,
    FORMAT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ROUND_OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
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
    offs_w = tl.arange(0, 2 * BLOCK_SIZE_N)  # gate and up rows alternate
    is_up = offs_w % 2
    offs_w = pid_n * BLOCK_SIZE_N + offs_w // 2
    offs_w = (offs_w if EVEN_N else tl.where(offs_w < N, offs_w, 0)) + is_up * N
    rows_w = (expert * 2 * N + offs_w)[:, None]
    acc = multiply_tile(
        a_ptr + row[:, None] * K,
        w_ptr + rows_w * row_bytes,
        w_scale_ptr + rows_w * row_groups,
        K,
        2 * BLOCK_SIZE_N,
        GROUP_SIZE,
        FORMAT,
        EVEN_K,
        BLOCK_SIZE_M,
        BLOCK_SIZE_K,
    )
    acc = scale_tile(acc, w_factor_ptr, a_scale_ptr, row, expert, 2 * N, offs_w, FORMAT)
    # The sums are linear in the input, and so is its rounding if that has a scale per token.
    if topk_weights_ptr is not None:
        acc *= tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)[None, :]
    gate, up = tl.split(tl.permute(tl.reshape(acc, (BLOCK_SIZE_N, 2, BLOCK_SIZE_M)), (2, 0, 1)))
    h = gate * tl.sigmoid(gate) * up  # [BLOCK_SIZE_M, BLOCK_SIZE_N]
    if ROUND_OUT:
        h = round_to_fp4(h, out_global_scale_ptr, FORMAT, GROUP_SIZE)
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    mask = valid[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + pair[:, None] * N + offs_n[None, :], h.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def w4_down_kernel(
    a_ptr,  # [num_pairs, N] values, or codes with int4
    a_scale_ptr,  # int4: [num_pairs] float32; else None
    w_ptr,  # [E, K, N / 2]
    w_scale_ptr,  # [E, K, N / GROUP_SIZE]
    w_factor_ptr,  # int4: [E, K]; nvfp4: [E]; mxfp4: None
    topk_weights_ptr,  # [num_pairs] if the output is weighted, else None
    out_ptr,  # [num_pairs, K]
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    expert_map_ptr,
    num_blocks,
    N,
    K,
    row_bytes,  # N / 2 and N / GROUP_SIZE
    row_groups,
    rows_per_expert,
    FORMAT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    LAYOUT: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[pair] = topk_weight[pair] * (a[pair] @ w.T); BLOCK_SIZE_N tiles K, BLOCK_SIZE_K the sum over N."""
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(K, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, expert_map_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    offs_w = offs_n if EVEN_K else tl.where(offs_n < K, offs_n, 0)
    rows_w = (expert * K + offs_w)[:, None]
    acc = multiply_tile(
        a_ptr + pair[:, None] * N,
        w_ptr + rows_w * row_bytes,
        w_scale_ptr + rows_w * row_groups,
        N,
        BLOCK_SIZE_N,
        GROUP_SIZE,
        FORMAT,
        EVEN_N,
        BLOCK_SIZE_M,
        BLOCK_SIZE_K,
    )
    acc = scale_tile(acc, w_factor_ptr, a_scale_ptr, pair, expert, K, offs_w, FORMAT)
    if topk_weights_ptr is not None:
        acc *= tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)[None, :]
    mask = valid[:, None] & (offs_n < K)[None, :]
    tl.store(out_ptr + pair[:, None] * K + offs_n[None, :], tl.trans(acc).to(out_ptr.dtype.element_ty), mask=mask)
