"""The Triton kernels of the FP8 fused MoE: quantize, gate-up GEMM with SiLU-and-mul, down GEMM, sum over top_k.

Scales come in two kinds, told apart by GROUPED:

    per tensor  one scale per expert's weights, one static scale for all activations: applied once, after the sum over k
    grouped     weights 128 x 128, activations 1 x 128: BLOCK_SIZE_K is the group, so each step of the sum has one scale
                per row and one per tile of weights, and partial sums are promoted to float32 every 128

The tokens' operand is FP8 codes, or values that are quantized on load: for a few tokens that costs less than a launch.

With SWAP_AB the product is computed transposed, weights on the left. wgmma's left operand has 64 rows or nothing: with
16 tokens there three quarters of the tensor core would multiply padding, on the right it may be as narrow as 8.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

GROUP_SIZE: tl.constexpr = tl.constexpr(128)


@triton.jit
def scale_of(amax):
    """kernels.quantize.fp8.scale_of."""
    return tl.maximum(amax, 1e-10) / 448.0


@triton.jit
def round_to_fp8(x):
    """kernels.quantize.fp8.round_to_fp8."""
    return tl.minimum(tl.maximum(x, -448.0), 448.0).to(tl.float8e4nv)


@triton.jit
def quantize_kernel(x_ptr, codes_ptr, scale_ptr, num_groups, numel, GROUPED: tl.constexpr, GROUPS: tl.constexpr):
    """Quantize GROUPS groups of 128 consecutive values, each with its own scale (written) or the static one (read)."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    offs = group[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]  # [GROUPS, 128]
    x = tl.load(x_ptr + offs, mask=offs < numel, other=0.0).to(tl.float32)
    if GROUPED:
        scale = scale_of(tl.max(tl.abs(x), 1))
        tl.store(scale_ptr + group, scale, mask=group < num_groups)
        codes = round_to_fp8(x / scale[:, None])
    else:
        codes = round_to_fp8(x / tl.load(scale_ptr))
    tl.store(codes_ptr + offs, codes, mask=offs < numel)


@triton.jit
def tile_of_program(num_blocks, num_tiles_n, GROUP_SIZE_M: tl.constexpr):
    """Walk GROUP_SIZE_M blocks down before one tile across, so that blocks of one expert find its weights in L2."""
    pid = tl.program_id(0)
    first_m = pid // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    group_rows = tl.minimum(num_blocks - first_m, GROUP_SIZE_M)
    in_group = pid % (GROUP_SIZE_M * num_tiles_n)
    return first_m + in_group % group_rows, in_group // group_rows


@triton.jit
def rows_of_block(pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, ALIGNED: tl.constexpr, BM: tl.constexpr):
    """Pairs of a block, which are real, its expert, how many there are. Unaligned: block b is pair b alone."""
    row = tl.arange(0, BM)
    expert = tl.load(block_experts_ptr + pid_m).to(tl.int64)
    if ALIGNED:
        num_rows = tl.load(block_rows_ptr + pid_m)
        pair = tl.load(block_pairs_ptr + pid_m * BM + row, mask=row < num_rows, other=0)
    else:
        num_rows = 1
        pair = tl.where(row < 1, pid_m, 0)
    return pair.to(tl.int64), row < num_rows, expert, num_rows


@triton.jit
def load_tokens(a_ptrs, a_scale_ptrs, offs_k, k, GROUPED: tl.constexpr, EVEN_K: tl.constexpr):
    """One step of the tokens' operand: codes [BLOCK_SIZE_M, BLOCK_SIZE_K], scale [BLOCK_SIZE_M] or a scalar."""
    a = tl.load(a_ptrs) if EVEN_K else tl.load(a_ptrs, mask=offs_k[None, :] < k, other=0.0)
    if a_ptrs.dtype.element_ty == tl.float8e4nv:
        codes = a
        scale = tl.load(a_scale_ptrs)
    elif GROUPED:
        x = a.to(tl.float32)
        scale = scale_of(tl.max(tl.abs(x), 1))
        codes = round_to_fp8(x / scale[:, None])
    else:
        scale = tl.load(a_scale_ptrs)
        codes = round_to_fp8(a.to(tl.float32) / scale)
    return codes, scale


@triton.jit
def moe_gate_up_kernel(
    a_ptr,  # [num_tokens, K] codes or values
    a_scale_ptr,  # [num_tokens, K / 128] or [1]
    w_ptr,  # [E, 2 N, K] codes: gate rows, then up rows
    w_scale_ptr,  # [E, 2 N / 128, K / 128] or [E]
    out_ptr,  # [num_tokens * top_k, N] codes or values
    out_scale_ptr,  # grouped: [num_tokens * top_k, N / 128], written with codes; per tensor: [1], read
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    num_blocks,
    N,
    K,
    top_k,
    GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SWAP_AB: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[pair] = q(silu(a[token] @ w_gate.T) * (a[token] @ w_up.T)), one block x BLOCK_SIZE_N columns a program."""
    tl.static_assert(not GROUPED or (BLOCK_SIZE_K == 128 and BLOCK_SIZE_N <= 128), "a step must have one weight scale")
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(N, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, ALIGNED, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    token = pair // top_k
    offs_k = tl.arange(0, BLOCK_SIZE_K)
    a_ptrs = a_ptr + token[:, None] * K + offs_k[None, :]
    a_scale_ptrs = a_scale_ptr + token * (K // GROUP_SIZE) if GROUPED else a_scale_ptr
    w_ptr += expert * 2 * N * K
    if GROUPED:
        gate_scale_ptr = w_scale_ptr + (expert * (2 * N // GROUP_SIZE) + pid_n * BLOCK_SIZE_N // GROUP_SIZE) * (
            K // GROUP_SIZE
        )
        up_scale_ptr = gate_scale_ptr + (N // GROUP_SIZE) * (K // GROUP_SIZE)

    if SWAP_AB:  # gate and up rows alternate in one tile of 2 * BLOCK_SIZE_N rows: wide enough for wgmma at 32 columns
        offs_w = tl.arange(0, 2 * BLOCK_SIZE_N)
        is_up = offs_w % 2
        offs_w = pid_n * BLOCK_SIZE_N + offs_w // 2
        offs_w = (offs_w if EVEN_N else tl.where(offs_w < N, offs_w, 0)) + is_up * N
        w_ptrs = w_ptr + offs_w[:, None] * K + offs_k[None, :]
        acc = tl.zeros((2 * BLOCK_SIZE_N, BLOCK_SIZE_M), dtype=tl.float32)
        for k in range(0, K, BLOCK_SIZE_K):
            codes, a_scale = load_tokens(a_ptrs, a_scale_ptrs, offs_k, K - k, GROUPED, EVEN_K)
            w = tl.load(w_ptrs) if EVEN_K else tl.load(w_ptrs, mask=offs_k[None, :] < K - k, other=0.0)
            if GROUPED:
                w_scale = tl.where(is_up == 1, tl.load(up_scale_ptr), tl.load(gate_scale_ptr))
                acc += tl.dot(w, tl.trans(codes)) * (w_scale[:, None] * a_scale[None, :])
                a_scale_ptrs += 1
                gate_scale_ptr += 1
                up_scale_ptr += 1
            else:
                acc = tl.dot(w, tl.trans(codes), acc)
            a_ptrs += BLOCK_SIZE_K
            w_ptrs += BLOCK_SIZE_K
        gate, up = tl.split(tl.permute(tl.reshape(acc, (BLOCK_SIZE_N, 2, BLOCK_SIZE_M)), (2, 0, 1)))
    else:
        offs_w = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
        offs_w = offs_w if EVEN_N else tl.where(offs_w < N, offs_w, 0)
        gate_ptrs = w_ptr + offs_w[None, :] * K + offs_k[:, None]
        up_ptrs = gate_ptrs + N * K
        gate = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.float32)
        up = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.float32)
        for k in range(0, K, BLOCK_SIZE_K):
            codes, a_scale = load_tokens(a_ptrs, a_scale_ptrs, offs_k, K - k, GROUPED, EVEN_K)
            w_gate = tl.load(gate_ptrs) if EVEN_K else tl.load(gate_ptrs, mask=offs_k[:, None] < K - k, other=0.0)
            w_up = tl.load(up_ptrs) if EVEN_K else tl.load(up_ptrs, mask=offs_k[:, None] < K - k, other=0.0)
            if GROUPED:
                gate += tl.dot(codes, w_gate) * (a_scale * tl.load(gate_scale_ptr))[:, None]
                up += tl.dot(codes, w_up) * (a_scale * tl.load(up_scale_ptr))[:, None]
                a_scale_ptrs += 1
                gate_scale_ptr += 1
                up_scale_ptr += 1
            else:
                gate = tl.dot(codes, w_gate, gate)
                up = tl.dot(codes, w_up, up)
            a_ptrs += BLOCK_SIZE_K
            gate_ptrs += BLOCK_SIZE_K
            up_ptrs += BLOCK_SIZE_K

    if not GROUPED:
        scale = tl.load(a_scale_ptr) * tl.load(w_scale_ptr + expert)
        gate *= scale
        up *= scale
    h = gate * tl.sigmoid(gate) * up  # [BLOCK_SIZE_M, BLOCK_SIZE_N]
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    out_ptrs = out_ptr + pair[:, None] * N + offs_n[None, :]
    mask = valid[:, None] & (offs_n < N)[None, :]
    if out_ptr.dtype.element_ty == tl.float8e4nv:
        if GROUPED:
            tl.static_assert(BLOCK_SIZE_N == 128, "a tile must hold one whole quantization group")
            h_scale = scale_of(tl.max(tl.abs(h), 1))
            tl.store(out_scale_ptr + pair * (N // GROUP_SIZE) + pid_n, h_scale, mask=valid)
            tl.store(out_ptrs, round_to_fp8(h / h_scale[:, None]), mask=mask)
        else:
            tl.store(out_ptrs, round_to_fp8(h / tl.load(out_scale_ptr)), mask=mask)
    else:
        tl.store(out_ptrs, h.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def moe_down_kernel(
    a_ptr,  # [num_tokens * top_k, N] codes or values
    a_scale_ptr,  # [num_tokens * top_k, N / 128] or [1]
    w_ptr,  # [E, K, N] codes
    w_scale_ptr,  # [E, K / 128, N / 128] or [E]
    topk_weights_ptr,  # [num_tokens * top_k]
    out_ptr,  # [num_tokens * top_k, K]
    block_pairs_ptr,
    block_experts_ptr,
    block_rows_ptr,
    num_blocks,
    N,
    K,
    GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SWAP_AB: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[pair] = topk_weight[pair] * (a[pair] @ w.T); BLOCK_SIZE_N tiles K, BLOCK_SIZE_K the sum over N."""
    tl.static_assert(not GROUPED or (BLOCK_SIZE_K == 128 and BLOCK_SIZE_N <= 128), "a step must have one weight scale")
    pid_m, pid_n = tile_of_program(num_blocks, tl.cdiv(K, BLOCK_SIZE_N), GROUP_SIZE_M)
    pair, valid, expert, num_rows = rows_of_block(
        pid_m, block_pairs_ptr, block_experts_ptr, block_rows_ptr, ALIGNED, BLOCK_SIZE_M
    )
    if num_rows == 0:
        return
    offs_k = tl.arange(0, BLOCK_SIZE_K)
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    offs_w = offs_n if EVEN_K else tl.where(offs_n < K, offs_n, 0)
    a_ptrs = a_ptr + pair[:, None] * N + offs_k[None, :]
    a_scale_ptrs = a_scale_ptr + pair * (N // GROUP_SIZE) if GROUPED else a_scale_ptr
    w_ptrs = w_ptr + expert * K * N + offs_w[:, None] * N + offs_k[None, :]  # [BLOCK_SIZE_N, BLOCK_SIZE_K]
    if GROUPED:
        w_scale_ptr += (expert * (K // GROUP_SIZE) + pid_n * BLOCK_SIZE_N // GROUP_SIZE) * (N // GROUP_SIZE)
    acc = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_M) if SWAP_AB else (BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.float32)
    for k in range(0, N, BLOCK_SIZE_K):
        codes, a_scale = load_tokens(a_ptrs, a_scale_ptrs, offs_k, N - k, GROUPED, EVEN_N)
        w = tl.load(w_ptrs) if EVEN_N else tl.load(w_ptrs, mask=offs_k[None, :] < N - k, other=0.0)
        if GROUPED:
            scale = a_scale * tl.load(w_scale_ptr)
            if SWAP_AB:
                acc += tl.dot(w, tl.trans(codes)) * scale[None, :]
            else:
                acc += tl.dot(codes, tl.trans(w)) * scale[:, None]
            a_scale_ptrs += 1
            w_scale_ptr += 1
        elif SWAP_AB:
            acc = tl.dot(w, tl.trans(codes), acc)
        else:
            acc = tl.dot(codes, tl.trans(w), acc)
        a_ptrs += BLOCK_SIZE_K
        w_ptrs += BLOCK_SIZE_K
    if SWAP_AB:
        acc = tl.trans(acc)
    weight = tl.load(topk_weights_ptr + pair, mask=valid, other=0.0)
    if not GROUPED:
        weight *= tl.load(a_scale_ptr) * tl.load(w_scale_ptr + expert)
    out = (acc * weight[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + pair[:, None] * K + offs_n[None, :], out, mask=valid[:, None] & (offs_n < K)[None, :])


@triton.jit
def moe_sum_kernel(x_ptr, out_ptr, K, top_k: tl.constexpr, BLOCK_SIZE_K: tl.constexpr):
    """out[token] = sum of x[token, choice] over the choices, in float32 and always in the same order."""
    token = tl.program_id(0).to(tl.int64)
    offs_k = tl.program_id(1) * BLOCK_SIZE_K + tl.arange(0, BLOCK_SIZE_K)
    x_ptrs = x_ptr + token * top_k * K + offs_k
    total = tl.zeros((BLOCK_SIZE_K,), dtype=tl.float32)
    for choice in tl.static_range(top_k):
        total += tl.load(x_ptrs + choice * K, mask=offs_k < K, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * K + offs_k, total.to(out_ptr.dtype.element_ty), mask=offs_k < K)
