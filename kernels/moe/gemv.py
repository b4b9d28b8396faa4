"""The products of a few tokens, row by row and without tensor cores: gate-up with SiLU-and-mul, and down with the sum.

Few pairs rarely share an expert, so every weight is read for one row: what counts is how many bytes are on their way,
not who multiplies them. A tensor core asks for 64 rows of weights a program, too few programs for the device's
memory; here a program may have 4. And the down product needs no row per pair: a program takes a token's columns and
adds up its top_k experts, in float32 and always in the same order, so that nothing is left to sum up.

Scales go in as in gemm.py: see kernels/moe/schemes.py.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.moe.rows import GROUP_SIZE, Routing, round_to_fp8, scale_of
from kernels.moe.schemes import GROUP_SIZE as GROUP_SIZE_OF_SCHEMES
from kernels.moe.schemes import MoeScheme
from kernels.moe.triton_configs import MoeConfig
from kernels.spec import Tensors


@triton.jit
def load_row(x_ptr, x_scale_ptr, weight, k, K, SCALING: tl.constexpr, EVEN_K: tl.constexpr, BLOCK_SIZE_K: tl.constexpr):
    """What BLOCK_SIZE_K elements of a row stand for, [BLOCK_SIZE_K / 128, 128] float32, quantized if they are values.

    Scales of groups are in, others are not: they go in after the sum.
    """
    group = k // GROUP_SIZE + tl.arange(0, BLOCK_SIZE_K // GROUP_SIZE)
    offs = group[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    codes = tl.load(x_ptr + offs) if EVEN_K else tl.load(x_ptr + offs, mask=offs < K, other=0.0)
    x = codes.to(tl.float32)
    if SCALING == "block" or SCALING == "tensor":
        if codes.dtype == tl.float8e4nv:
            if SCALING == "block":
                x *= tl.load(x_scale_ptr + group, mask=group * GROUP_SIZE < K, other=0.0)[:, None]
        else:
            if weight is not None:
                x *= weight
            if SCALING == "block":
                scale = scale_of(tl.max(tl.abs(x), 1))[:, None]
                x = round_to_fp8(x / scale).to(tl.float32) * scale
            else:
                x = round_to_fp8(x / tl.load(x_scale_ptr)).to(tl.float32)
    return x


@triton.jit
def multiply_rows(w_ptr, w_scale_ptr, rows, x, k, K, length, SCALING: tl.constexpr, EVEN_K: tl.constexpr):
    """Partial sums of w[rows] * x over one step, [rows, groups, 16-byte pieces of a group]: a thread adds up its own.

    Rows are K elements apart; from `length` on they are not read.
    """
    GROUPS: tl.constexpr = x.shape[0]
    PIECE: tl.constexpr = 128 // w_ptr.dtype.element_ty.primitive_bitwidth
    offs = k + tl.arange(0, GROUPS * GROUP_SIZE)
    w_ptrs = w_ptr + rows[:, None] * K + offs[None, :]
    w = tl.load(w_ptrs) if EVEN_K else tl.load(w_ptrs, mask=offs[None, :] < length, other=0.0)
    products = tl.reshape(w, (rows.shape[0], GROUPS, GROUP_SIZE)).to(tl.float32) * x[None, :, :]
    sums = tl.sum(tl.reshape(products, (rows.shape[0], GROUPS, GROUP_SIZE // PIECE, PIECE)), 3)
    group = k // GROUP_SIZE + tl.arange(0, GROUPS)
    if SCALING == "block":  # one row of blocks has all the rows
        scale = tl.load(w_scale_ptr + group, mask=group * GROUP_SIZE < length, other=0.0)
        sums *= scale[None, :, None]
    return sums


@triton.jit
def find_expert(pair, ids_ptr, expert_map_ptr):
    """The expert of a pair as this rank numbers it; -1 if another rank has it."""
    expert = tl.load(ids_ptr + pair)
    if expert_map_ptr is not None:
        expert = tl.load(expert_map_ptr + expert)
    return expert.to(tl.int64)


@triton.jit
def gate_up_gemv_kernel(
    a_ptr,  # [rows, K] codes or values; rows are pairs, or tokens that have top_k pairs each
    a_scale_ptr,  # as moe_gate_up_kernel's, like all that follow
    w_ptr,
    w_scale_ptr,
    topk_weights_ptr,
    out_ptr,  # [num_pairs, N] codes ("tensor") or values
    out_scale_ptr,
    ids_ptr,
    expert_map_ptr,
    N,
    K,
    top_k,
    SCALING: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """out[pair] = silu(a[row] @ w_gate.T) * (a[row] @ w_up.T), BLOCK_SIZE_N columns of one pair a program."""
    tl.static_assert(SCALING != "block" or BLOCK_SIZE_N <= GROUP_SIZE, "a tile has one row of weight scales")
    pair, first_n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_SIZE_N
    expert = find_expert(pair, ids_ptr, expert_map_ptr)
    if expert < 0:
        return
    row, offs_n = pair // top_k, first_n + tl.arange(0, BLOCK_SIZE_N)
    rows = tl.where(offs_n < N, offs_n, 0)
    weight = None
    if topk_weights_ptr is not None:
        weight = tl.load(topk_weights_ptr + pair)
    a_ptr += row * K
    gate_ptr = w_ptr + expert * 2 * N * K
    up_ptr = gate_ptr + N * K
    gate_scale_ptr, up_scale_ptr = w_scale_ptr, w_scale_ptr
    if SCALING == "block":
        a_scale_ptr += row * (K // GROUP_SIZE)
        gate_scale_ptr += (expert * (2 * N // GROUP_SIZE) + first_n // GROUP_SIZE) * (K // GROUP_SIZE)
        up_scale_ptr = gate_scale_ptr + (N // GROUP_SIZE) * (K // GROUP_SIZE)
    PIECE: tl.constexpr = 128 // w_ptr.dtype.element_ty.primitive_bitwidth
    gate = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_K // GROUP_SIZE, GROUP_SIZE // PIECE), dtype=tl.float32)
    up = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_K // GROUP_SIZE, GROUP_SIZE // PIECE), dtype=tl.float32)
    for k in tl.range(0, K, BLOCK_SIZE_K, num_stages=NUM_STAGES):
        x = load_row(a_ptr, a_scale_ptr, weight, k, K, SCALING, EVEN_K, BLOCK_SIZE_K)
        gate += multiply_rows(gate_ptr, gate_scale_ptr, rows, x, k, K, K, SCALING, EVEN_K)
        up += multiply_rows(up_ptr, up_scale_ptr, rows, x, k, K, K, SCALING, EVEN_K)
    gate, up = tl.sum(tl.sum(gate, 2), 1), tl.sum(tl.sum(up, 2), 1)  # [BLOCK_SIZE_N]
    if SCALING == "tensor":
        scale = tl.load(a_scale_ptr) * tl.load(w_scale_ptr + expert)
        gate *= scale
        up *= scale
    elif SCALING == "channel":
        gate *= tl.load(w_scale_ptr + expert * 2 * N + rows)
        up *= tl.load(w_scale_ptr + expert * 2 * N + N + rows)
        scale = tl.load(a_scale_ptr + row)
        gate *= scale
        up *= scale
    if weight is not None and SCALING == "none":  # weighting products rounds nothing
        gate *= weight
        up *= weight
    h = gate * tl.sigmoid(gate) * up
    if out_ptr.dtype.element_ty == tl.float8e4nv:
        h = round_to_fp8(h / tl.load(out_scale_ptr))
    tl.store(out_ptr + pair * N + offs_n, h.to(out_ptr.dtype.element_ty), mask=offs_n < N)


@triton.jit
def down_gemv_kernel(
    a_ptr,  # [num_pairs, N] codes ("tensor", "channel") or values
    a_scale_ptr,  # tensor: [1]; channel: [num_pairs]; else not read
    w_ptr,  # [E, K, N]
    w_scale_ptr,  # as moe_down_kernel's
    topk_weights_ptr,  # [num_pairs] if the output is weighted, else None
    out_ptr,  # [num_tokens, K]
    ids_ptr,
    expert_map_ptr,
    N,
    K,
    top_k,
    SCALING: tl.constexpr,
    EVEN_N: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """out[token] = sum over its pairs of topk_weight[pair] * (a[pair] @ w.T), BLOCK_SIZE_N of K columns a program."""
    tl.static_assert(SCALING != "block" or BLOCK_SIZE_N <= GROUP_SIZE, "a tile has one row of weight scales")
    token, first_n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_SIZE_N
    offs_n = first_n + tl.arange(0, BLOCK_SIZE_N)
    rows = tl.where(offs_n < K, offs_n, 0)
    PIECE: tl.constexpr = 128 // w_ptr.dtype.element_ty.primitive_bitwidth
    acc = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_K // GROUP_SIZE, GROUP_SIZE // PIECE), dtype=tl.float32)
    steps = tl.cdiv(N, BLOCK_SIZE_K)
    for step in tl.range(0, top_k * steps, num_stages=NUM_STAGES):  # one loop, so that the next expert is on its way
        pair = token * top_k + step // steps
        k = step % steps * BLOCK_SIZE_K
        expert = find_expert(pair, ids_ptr, expert_map_ptr)
        is_here = expert >= 0
        expert = tl.where(is_here, expert, 0)
        length = tl.where(is_here, N, 0)  # of the rows that are read; EVEN_N is off where there is an expert map
        factor = 1.0
        if topk_weights_ptr is not None:
            factor = tl.load(topk_weights_ptr + pair)
        if SCALING == "tensor":
            factor *= tl.load(w_scale_ptr + expert)
        elif SCALING == "channel":
            factor *= tl.load(a_scale_ptr + pair, mask=is_here, other=0.0)
        x = load_row(a_ptr + pair * N, a_scale_ptr, None, k, length, SCALING, EVEN_N, BLOCK_SIZE_K) * factor
        scale_ptr = w_scale_ptr
        if SCALING == "block":
            scale_ptr += (expert * (K // GROUP_SIZE) + first_n // GROUP_SIZE) * (N // GROUP_SIZE)
        sums = multiply_rows(w_ptr + expert * K * N, scale_ptr, rows, x, k, N, length, SCALING, EVEN_N)
        if SCALING == "channel":
            sums *= tl.load(w_scale_ptr + expert * K + rows)[:, None, None]
        acc += sums
    out = tl.sum(tl.sum(acc, 2), 1)
    if SCALING == "tensor":
        out *= tl.load(a_scale_ptr)
    tl.store(out_ptr + token * K + offs_n, out.to(out_ptr.dtype.element_ty), mask=offs_n < K)


def steps_of(scheme: MoeScheme, length: int, config: MoeConfig) -> dict[str, Any]:
    """What both kernels are compiled for. Steps are long, even past a row's end: each warp goes through all."""
    step = max(min(triton.next_power_of_2(length), config.BLOCK_SIZE_K), GROUP_SIZE_OF_SCHEMES)
    return {
        "SCALING": scheme.scaling, "BLOCK_SIZE_K": step,
        "NUM_STAGES": config.num_stages, "num_warps": config.num_warps,
    }  # fmt: skip


def gate_up_gemv(
    scheme: MoeScheme,
    weights: Tensors,
    a: torch.Tensor,
    a_scale: torch.Tensor | None,
    topk_weights: torch.Tensor | None,
    routing: Routing,
    h: torch.Tensor,
    config: MoeConfig,
) -> None:
    """Write the intermediate h [num_pairs, N] of rows a [num_tokens or num_pairs, K]; see gate_up_triton."""
    (_, k, n), block_n, steps = weights["w2"].shape, config.GATE_UP_BLOCK_SIZE_N, steps_of(scheme, a.shape[1], config)
    gate_up_gemv_kernel[(routing.num_rows, triton.cdiv(n, block_n))](
        a, a_scale, weights["w1"], weights.get("w1_scale"), topk_weights, h, weights.get("a2_scale"),
        routing.topk_ids, routing.expert_map, n, k, routing.num_rows // len(a),
        EVEN_K=k % steps["BLOCK_SIZE_K"] == 0, BLOCK_SIZE_N=block_n, **steps,
    )  # fmt: skip


def down_gemv(
    scheme: MoeScheme,
    weights: Tensors,
    h: torch.Tensor,
    h_scale: torch.Tensor | None,
    topk_weights: torch.Tensor | None,
    routing: Routing,
    config: MoeConfig,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Sum over each token's pairs of topk_weight * (h @ w2.T) [num_tokens, K]."""
    (_, k, n), block_n, steps = weights["w2"].shape, config.DOWN_BLOCK_SIZE_N, steps_of(scheme, h.shape[1], config)
    out = torch.empty(routing.num_rows // routing.top_k, k, dtype=dtype, device=h.device)
    down_gemv_kernel[(len(out), triton.cdiv(k, block_n))](
        h, h_scale, weights["w2"], weights.get("w2_scale"), topk_weights, out,
        routing.topk_ids, routing.expert_map, n, k, routing.top_k,
        EVEN_N=routing.expert_map is None and n % steps["BLOCK_SIZE_K"] == 0, BLOCK_SIZE_N=block_n, **steps,
    )  # fmt: skip
    return out
