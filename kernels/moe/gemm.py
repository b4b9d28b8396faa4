"""The Triton GEMMs of the fused MoE: gate-up with SiLU-and-mul, and down.

SCALING says where scales go in, as in kernels/moe/schemes.py. "none", "tensor" and "channel" scale once, after the sum
over k. "block" has scales per 128 of k: a step of the sum lies in one group, and its products are scaled before they
are added up, in float32.

The tokens' operand is what the weights are, codes or 16-bit values, or ("tensor" and "block") 16-bit values that are
quantized on load: for a few tokens that costs less than a launch. INT8 products are summed up in int32. Codes that
meet 16-bit values are kernels/moe/gemm_words.py's.

LAYOUT says how blocks find their rows:

    aligned  pairs of one expert each, from kernels/moe/align.py
    single   block b is pair b alone
    batched  cdiv(T, BLOCK_SIZE_M) blocks for each expert's T rows, of which expert_num_tokens[e] are valid

With SWAP_AB the product is computed transposed, weights on the left. wgmma's left operand has 64 rows or nothing: with
16 tokens there three quarters of the tensor core would multiply padding, on the right it may be as narrow as 8.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.tiles import tile_of_program
from kernels.moe.activations import GROUP_SIZE, round_to_fp8, scale_of


@triton.jit
def rows_of_block(
    pid_m,
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    expert_map_ptr,
    rows_per_expert,
    LAYOUT: tl.constexpr,
    BM: tl.constexpr,
):
    """Pairs of a block, which are real, its expert, how many there are."""
    row = tl.arange(0, BM)
    if LAYOUT == "batched":
        blocks_per_expert = tl.cdiv(rows_per_expert, BM)
        expert = (pid_m // blocks_per_expert).to(tl.int64)
        first = pid_m % blocks_per_expert * BM
        num_rows = tl.maximum(tl.load(block_rows_ptr + expert) - first, 0)
        pair = expert * rows_per_expert + first + tl.where(row < num_rows, row, 0)
    elif LAYOUT == "aligned":
        expert = tl.load(block_experts_ptr + pid_m).to(tl.int64)
        num_rows = tl.load(block_rows_ptr + pid_m)
        pair = tl.load(block_pairs_ptr + pid_m * BM + row, mask=row < num_rows, other=0)
    else:
        expert = tl.load(block_experts_ptr + pid_m).to(tl.int64)
        num_rows = 1
        if expert_map_ptr is not None:
            expert = tl.load(expert_map_ptr + expert).to(tl.int64)
            num_rows = (expert >= 0).to(tl.int32)
        pair = tl.where(row < 1, pid_m, 0)
    return pair.to(tl.int64), row < num_rows, expert, num_rows


@triton.jit
def load_tokens(a_ptrs, a_scale_ptrs, weight, offs_k, k, SCALING: tl.constexpr, EVEN_K: tl.constexpr):
    """One step of the tokens' operand [BLOCK_SIZE_M, BLOCK_SIZE_K], and its scale where steps or tensors have one."""
    codes = tl.load(a_ptrs) if EVEN_K else tl.load(a_ptrs, mask=offs_k[None, :] < k, other=0.0)
    scale = 1.0
    if SCALING == "block" or SCALING == "tensor":
        if codes.dtype == tl.float8e4nv:
            scale = tl.load(a_scale_ptrs)
        else:
            x = codes.to(tl.float32)
            if weight is not None:
                x *= weight[:, None]
            scale = scale_of(tl.max(tl.abs(x), 1)) if SCALING == "block" else tl.load(a_scale_ptrs)
            codes = round_to_fp8(x / (scale[:, None] if SCALING == "block" else scale))
    return codes, scale


@triton.jit
def moe_gate_up_kernel(
    a_ptr,  # [rows, K] codes or values; rows are pairs, or tokens that have top_k pairs each
    a_scale_ptr,  # block: [rows, K / 128]; tensor: [1]; channel: [rows]; none: None
    w_ptr,  # [E, 2 N, K]: gate rows, then up rows
    w_scale_ptr,  # block: [E, 2 N / 128, K / 128]; tensor: [E]; channel: [E, 2 N]
    topk_weights_ptr,  # [num_pairs] if the input is weighted here, else None
    out_ptr,  # [num_pairs, N] codes or values
    out_scale_ptr,  # block: [num_pairs, N / 128], written with codes; tensor: [1], read; else None
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    expert_map_ptr,
    num_blocks,
    N,
    K,
    top_k,
    rows_per_expert,
    SCALING: tl.constexpr,
    LAYOUT: tl.constexpr,
    SWAP_AB: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[pair] = silu(a[row] @ w_gate.T) * (a[row] @ w_up.T), one block x BLOCK_SIZE_N columns a program.

    "tensor" and "block" round it, unless the tile is narrower than a group; "channel" needs a whole row to do so.
    """
    tl.static_assert(SCALING != "block" or (BLOCK_SIZE_K == 128 and BLOCK_SIZE_N <= 128), "a step has one weight scale")
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(N, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, expert_map_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    token = pair // top_k
    weight = None
    if topk_weights_ptr is not None:
        weight = tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)
    offs_k = tl.arange(0, BLOCK_SIZE_K)
    a_ptrs = a_ptr + token[:, None] * K + offs_k[None, :]
    a_scale_ptrs = a_scale_ptr + token * (K // GROUP_SIZE) if SCALING == "block" else a_scale_ptr
    w_ptr += expert * 2 * N * K
    if SCALING == "block":
        gate_scale_ptr = w_scale_ptr + (expert * (2 * N // GROUP_SIZE) + pid_n * BLOCK_SIZE_N // GROUP_SIZE) * (
            K // GROUP_SIZE
        )
        up_scale_ptr = gate_scale_ptr + (N // GROUP_SIZE) * (K // GROUP_SIZE)
    sum_dtype: tl.constexpr = tl.int32 if a_ptr.dtype.element_ty == tl.int8 else tl.float32

    if SWAP_AB:  # gate and up rows alternate in one tile of 2 * BLOCK_SIZE_N rows: wide enough for wgmma at 32 columns
        offs_w = tl.arange(0, 2 * BLOCK_SIZE_N)
        is_up = offs_w % 2
        offs_w = pid_n * BLOCK_SIZE_N + offs_w // 2
        offs_w = (offs_w if EVEN_N else tl.where(offs_w < N, offs_w, 0)) + is_up * N
        w_ptrs = w_ptr + offs_w[:, None] * K + offs_k[None, :]
        acc = tl.zeros((2 * BLOCK_SIZE_N, BLOCK_SIZE_M), dtype=sum_dtype)
        for k in range(0, K, BLOCK_SIZE_K):
            codes, a_scale = load_tokens(a_ptrs, a_scale_ptrs, weight, offs_k, K - k, SCALING, EVEN_K)
            w = tl.load(w_ptrs) if EVEN_K else tl.load(w_ptrs, mask=offs_k[None, :] < K - k, other=0.0)
            if SCALING == "block":
                w_scale = tl.where(is_up == 1, tl.load(up_scale_ptr), tl.load(gate_scale_ptr))
                acc += tl.dot(w, tl.trans(codes)) * (w_scale[:, None] * a_scale[None, :])
                a_scale_ptrs += 1
                gate_scale_ptr += 1
                up_scale_ptr += 1
            else:
                acc = tl.dot(w, tl.trans(codes), acc, out_dtype=sum_dtype)
            a_ptrs += BLOCK_SIZE_K
            w_ptrs += BLOCK_SIZE_K
        gate, up = tl.split(tl.permute(tl.reshape(acc, (BLOCK_SIZE_N, 2, BLOCK_SIZE_M)), (2, 0, 1)))
    else:
        offs_w = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
        offs_w = offs_w if EVEN_N else tl.where(offs_w < N, offs_w, 0)
        gate_ptrs = w_ptr + offs_w[None, :] * K + offs_k[:, None]
        up_ptrs = gate_ptrs + N * K
        gate = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=sum_dtype)
        up = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=sum_dtype)
        for k in range(0, K, BLOCK_SIZE_K):
            codes, a_scale = load_tokens(a_ptrs, a_scale_ptrs, weight, offs_k, K - k, SCALING, EVEN_K)
            w_gate = tl.load(gate_ptrs) if EVEN_K else tl.load(gate_ptrs, mask=offs_k[:, None] < K - k, other=0.0)
            w_up = tl.load(up_ptrs) if EVEN_K else tl.load(up_ptrs, mask=offs_k[:, None] < K - k, other=0.0)
            if SCALING == "block":
                gate += tl.dot(codes, w_gate) * (a_scale * tl.load(gate_scale_ptr))[:, None]
                up += tl.dot(codes, w_up) * (a_scale * tl.load(up_scale_ptr))[:, None]
                a_scale_ptrs += 1
                gate_scale_ptr += 1
                up_scale_ptr += 1
            else:
                gate = tl.dot(codes, w_gate, gate, out_dtype=sum_dtype)
                up = tl.dot(codes, w_up, up, out_dtype=sum_dtype)
            a_ptrs += BLOCK_SIZE_K
            gate_ptrs += BLOCK_SIZE_K
            up_ptrs += BLOCK_SIZE_K

    if SCALING == "tensor":
        scale = tl.load(a_scale_ptr) * tl.load(w_scale_ptr + expert)
        gate *= scale
        up *= scale
    elif SCALING == "channel":
        offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
        scale_ptrs = w_scale_ptr + expert * 2 * N + offs_n
        gate = gate.to(tl.float32) * tl.load(scale_ptrs, mask=offs_n < N, other=0.0)[None, :]
        up = up.to(tl.float32) * tl.load(scale_ptrs + N, mask=offs_n < N, other=0.0)[None, :]
        scale = tl.load(a_scale_ptr + token)[:, None]
        gate *= scale
        up *= scale
    if weight is not None and SCALING == "none":  # weighting products rounds nothing
        gate *= weight[:, None]
        up *= weight[:, None]
    h = gate * tl.sigmoid(gate) * up  # [BLOCK_SIZE_M, BLOCK_SIZE_N]
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    out_ptrs = out_ptr + pair[:, None] * N + offs_n[None, :]
    mask = valid[:, None] & (offs_n < N)[None, :]
    if out_ptr.dtype.element_ty != tl.float8e4nv:
        tl.store(out_ptrs, h.to(out_ptr.dtype.element_ty), mask=mask)
    elif SCALING == "block":
        tl.static_assert(BLOCK_SIZE_N == 128, "a tile must hold one whole quantization group")
        h_scale = scale_of(tl.max(tl.abs(h), 1))
        tl.store(out_scale_ptr + pair * (N // GROUP_SIZE) + pid_n, h_scale, mask=valid)
        tl.store(out_ptrs, round_to_fp8(h / h_scale[:, None]), mask=mask)
    else:
        tl.store(out_ptrs, round_to_fp8(h / tl.load(out_scale_ptr)), mask=mask)


@triton.jit
def moe_down_kernel(
    a_ptr,  # [num_pairs, N] codes or values
    a_scale_ptr,  # block: [num_pairs, N / 128]; tensor: [1]; channel: [num_pairs]; none: None
    w_ptr,  # [E, K, N]
    w_scale_ptr,  # block: [E, K / 128, N / 128]; tensor: [E]; channel: [E, K]
    topk_weights_ptr,  # [num_pairs] if the output is weighted, else None
    out_ptr,  # [num_pairs, K]
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    expert_map_ptr,
    num_blocks,
    N,
    K,
    rows_per_expert,
    SCALING: tl.constexpr,
    LAYOUT: tl.constexpr,
    SWAP_AB: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[pair] = topk_weight[pair] * (a[pair] @ w.T); BLOCK_SIZE_N tiles K, BLOCK_SIZE_K the sum over N."""
    tl.static_assert(SCALING != "block" or (BLOCK_SIZE_K == 128 and BLOCK_SIZE_N <= 128), "a step has one weight scale")
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(K, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, expert_map_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    offs_k = tl.arange(0, BLOCK_SIZE_K)
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    offs_w = offs_n if EVEN_K else tl.where(offs_n < K, offs_n, 0)
    a_ptrs = a_ptr + pair[:, None] * N + offs_k[None, :]
    a_scale_ptrs = a_scale_ptr + pair * (N // GROUP_SIZE) if SCALING == "block" else a_scale_ptr
    w_ptrs = w_ptr + expert * K * N + offs_w[:, None] * N + offs_k[None, :]  # [BLOCK_SIZE_N, BLOCK_SIZE_K]
    if SCALING == "block":
        w_scale_ptr += (expert * (K // GROUP_SIZE) + pid_n * BLOCK_SIZE_N // GROUP_SIZE) * (N // GROUP_SIZE)
    sum_dtype: tl.constexpr = tl.int32 if a_ptr.dtype.element_ty == tl.int8 else tl.float32
    acc = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_M) if SWAP_AB else (BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=sum_dtype)
    for k in range(0, N, BLOCK_SIZE_K):
        codes, a_scale = load_tokens(a_ptrs, a_scale_ptrs, None, offs_k, N - k, SCALING, EVEN_N)
        w = tl.load(w_ptrs) if EVEN_N else tl.load(w_ptrs, mask=offs_k[None, :] < N - k, other=0.0)
        if SCALING == "block":
            scale = a_scale * tl.load(w_scale_ptr)
            if SWAP_AB:
                acc += tl.dot(w, tl.trans(codes)) * scale[None, :]
            else:
                acc += tl.dot(codes, tl.trans(w)) * scale[:, None]
            a_scale_ptrs += 1
            w_scale_ptr += 1
        elif SWAP_AB:
            acc = tl.dot(w, tl.trans(codes), acc, out_dtype=sum_dtype)
        else:
            acc = tl.dot(codes, tl.trans(w), acc, out_dtype=sum_dtype)
        a_ptrs += BLOCK_SIZE_K
        w_ptrs += BLOCK_SIZE_K
    if SWAP_AB:
        acc = tl.trans(acc)
    weight = tl.full((BLOCK_SIZE_M,), 1.0, dtype=tl.float32)
    if topk_weights_ptr is not None:
        weight = tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)
    if SCALING == "tensor":
        weight *= tl.load(a_scale_ptr) * tl.load(w_scale_ptr + expert)
    elif SCALING == "channel":
        acc = acc.to(tl.float32) * tl.load(w_scale_ptr + expert * K + offs_w)[None, :]
        weight *= tl.load(a_scale_ptr + pair)
    out = (acc * weight[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + pair[:, None] * K + offs_n[None, :], out, mask=valid[:, None] & (offs_n < K)[None, :])
