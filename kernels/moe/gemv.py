"""The products of a few tokens, row by row and without tensor cores: gate-up with SiLU-and-mul, and down with the sum.

Few pairs rarely share an expert, so every weight is read for one row: what counts is how many bytes are on their way,
not who multiplies them. A tensor core asks for 64 rows of weights a program, too few programs for the device's
memory; here a program may have 4. And the down product needs no row per pair: a program takes a token's columns of all
its top_k experts at once, and adds up in float32 and always in the same order, so that nothing is left to sum up.
Weights go straight to registers, on their way before what they are multiplied by is read and rounded.

Scales go in as in gemm.py: see kernels/moe/schemes.py.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl

from kernels.moe.activations import GROUP_SIZE, round_to_fp8, scale_of
from kernels.moe.routing import Routing
from kernels.moe.schemes import GROUP_SIZE as GROUP_SIZE_OF_SCHEMES
from kernels.moe.schemes import MoeScheme
from kernels.moe.triton_configs import MoeConfig
from kernels.spec import Tensors

DOWN_STEP_BYTES = 2048
"""A step's, of one row of weights of all the experts of a token."""


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
def load_step(w_ptr, rows, k, K, EVEN_K: tl.constexpr, BLOCK_SIZE_K: tl.constexpr):
    """BLOCK_SIZE_K elements of rows of weights that are K elements apart, zeros past their end."""
    offs = k + tl.arange(0, BLOCK_SIZE_K)
    w_ptrs = w_ptr + rows[:, None] * K + offs[None, :]
    return tl.load(w_ptrs) if EVEN_K else tl.load(w_ptrs, mask=offs[None, :] < K, other=0.0)


@triton.jit
def multiply_rows(w, w_scale_ptr, x, k, K, SCALING: tl.constexpr):
    """Partial sums of w * x over one step, [rows, groups, 16-byte pieces of a group]: a thread adds up its own."""
    ROWS: tl.constexpr = w.shape[0]
    GROUPS: tl.constexpr = x.shape[0]
    PIECE: tl.constexpr = 128 // w.dtype.primitive_bitwidth
    products = tl.reshape(w, (ROWS, GROUPS, GROUP_SIZE)).to(tl.float32) * x[None, :, :]
    sums = tl.sum(tl.reshape(products, (ROWS, GROUPS, GROUP_SIZE // PIECE, PIECE)), 3)
    if SCALING == "block":  # one row of blocks has all the rows
        group = k // GROUP_SIZE + tl.arange(0, GROUPS)
        sums *= tl.load(w_scale_ptr + group, mask=group * GROUP_SIZE < K, other=0.0)[None, :, None]
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
    for k in range(0, K, BLOCK_SIZE_K):
        gate_w = load_step(gate_ptr, rows, k, K, EVEN_K, BLOCK_SIZE_K)
        up_w = load_step(up_ptr, rows, k, K, EVEN_K, BLOCK_SIZE_K)
        x = load_row(a_ptr, a_scale_ptr, weight, k, K, SCALING, EVEN_K, BLOCK_SIZE_K)
        gate += multiply_rows(gate_w, gate_scale_ptr, x, k, K, SCALING)
        up += multiply_rows(up_w, up_scale_ptr, x, k, K, SCALING)
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
def load_rows(a_ptr, rows, is_here, k, length, EVEN_N: tl.constexpr, GROUPS: tl.constexpr):
    """GROUPS * 128 elements of each row from k on, [rows, GROUPS, 128]; zeros past the end and of rows not here."""
    offs = k + tl.arange(0, GROUPS)[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    a_ptrs = a_ptr + (rows * length)[:, None, None] + offs[None, :, :]
    if EVEN_N:
        return tl.load(a_ptrs)
    return tl.load(a_ptrs, mask=is_here[:, None, None] & (offs < length)[None, :, :], other=0.0)


@triton.jit
def load_weights(w_ptr, experts, is_here, rows, k, K, N, EVEN_N: tl.constexpr, BLOCK_SIZE_K: tl.constexpr):
    """BLOCK_SIZE_K elements of the rows of each expert, [experts, rows, BLOCK_SIZE_K], likewise."""
    offs = k + tl.arange(0, BLOCK_SIZE_K)
    w_ptrs = w_ptr + (experts * K * N)[:, None, None] + rows[None, :, None] * N + offs[None, None, :]
    if EVEN_N:
        return tl.load(w_ptrs)
    return tl.load(w_ptrs, mask=is_here[:, None, None] & (offs < N)[None, None, :], other=0.0)


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
    CHOICES: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """out[token] = sum over its pairs of topk_weight[pair] * (a[pair] @ w.T), BLOCK_SIZE_N of K columns a program.

    A step is of all top_k experts at once.
    """
    tl.static_assert(SCALING != "block" or BLOCK_SIZE_N <= GROUP_SIZE, "a tile has one row of weight scales")
    token, first_n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_SIZE_N
    offs_n = first_n + tl.arange(0, BLOCK_SIZE_N)
    rows = tl.where(offs_n < K, offs_n, 0)
    choice = tl.arange(0, CHOICES)
    is_here = choice < top_k
    pair = token * top_k + choice
    expert = tl.load(ids_ptr + pair, mask=is_here, other=0)
    if expert_map_ptr is not None:
        expert = tl.load(expert_map_ptr + expert)
        is_here = is_here & (expert >= 0)
    expert = tl.where(is_here, expert, 0).to(tl.int64)
    GROUPS: tl.constexpr = BLOCK_SIZE_K // GROUP_SIZE
    factor = tl.where(is_here, 1.0, 0.0)
    if topk_weights_ptr is not None:
        factor = tl.load(topk_weights_ptr + pair, mask=is_here, other=0.0)
    if SCALING == "tensor":
        factor *= tl.load(w_scale_ptr + expert)
    elif SCALING == "channel":
        factor *= tl.load(a_scale_ptr + pair, mask=is_here, other=0.0)
    if SCALING == "block":
        w_scale_ptr += first_n // GROUP_SIZE * (N // GROUP_SIZE)
        w_scale_ptrs = w_scale_ptr + (expert * (K // GROUP_SIZE) * (N // GROUP_SIZE))[:, None]
    PIECE: tl.constexpr = 128 // w_ptr.dtype.element_ty.primitive_bitwidth
    acc = tl.zeros((CHOICES, BLOCK_SIZE_N, GROUPS, GROUP_SIZE // PIECE), dtype=tl.float32)
    for k in range(0, N, BLOCK_SIZE_K):
        w = load_weights(w_ptr, expert, is_here, rows, k, K, N, EVEN_N, BLOCK_SIZE_K)
        x = load_rows(a_ptr, pair, is_here, k, N, EVEN_N, GROUPS).to(tl.float32)
        if SCALING == "block":
            group = k // GROUP_SIZE + tl.arange(0, GROUPS)
            scale = scale_of(tl.max(tl.abs(x), 2))
            x = round_to_fp8(x / scale[:, :, None]).to(tl.float32)
            scale *= tl.load(w_scale_ptrs + group[None, :], mask=(group * GROUP_SIZE < N)[None, :], other=0.0)
        products = tl.reshape(w, (CHOICES, BLOCK_SIZE_N, GROUPS, GROUP_SIZE)).to(tl.float32) * x[:, None, :, :]
        sums = tl.sum(tl.reshape(products, (CHOICES, BLOCK_SIZE_N, GROUPS, GROUP_SIZE // PIECE, PIECE)), 4)
        if SCALING == "block":
            sums *= scale[:, None, :, None]
        acc += sums
    out = tl.sum(tl.sum(acc, 3), 2) * factor[:, None]  # [CHOICES, BLOCK_SIZE_N]
    if SCALING == "channel":
        out *= tl.load(w_scale_ptr + (expert * K)[:, None] + rows[None, :])
    out = tl.sum(out, 0)
    if SCALING == "tensor":
        out *= tl.load(a_scale_ptr)
    tl.store(out_ptr + token * K + offs_n, out.to(out_ptr.dtype.element_ty), mask=offs_n < K)


def step_of(length: int, most_elements: int) -> int:
    """How far rows are gone through at a time, maybe past their end."""
    whole: int = triton.next_power_of_2(length)
    return max(min(whole, most_elements), GROUP_SIZE_OF_SCHEMES)


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
    (_, k, n), block_n = weights["w2"].shape, config.GATE_UP_BLOCK_SIZE_N
    step = step_of(k, config.BLOCK_SIZE_K)
    gate_up_gemv_kernel[(routing.num_rows, triton.cdiv(n, block_n))](
        a, a_scale, weights["w1"], weights.get("w1_scale"), topk_weights, h, weights.get("a2_scale"),
        routing.topk_ids, routing.expert_map, n, k, routing.num_rows // len(a), SCALING=scheme.scaling,
        EVEN_K=k % step == 0, BLOCK_SIZE_N=block_n, BLOCK_SIZE_K=step, num_warps=config.num_warps,
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
    (_, k, n), block_n = weights["w2"].shape, config.DOWN_BLOCK_SIZE_N
    choices = triton.next_power_of_2(routing.top_k)
    step = step_of(n, DOWN_STEP_BYTES // (choices * weights["w2"].element_size()))
    out = torch.empty(routing.num_rows // routing.top_k, k, dtype=dtype, device=h.device)
    down_gemv_kernel[(len(out), triton.cdiv(k, block_n))](
        h, h_scale, weights["w2"], weights.get("w2_scale"), topk_weights, out,
        routing.topk_ids, routing.expert_map, n, k, routing.top_k, SCALING=scheme.scaling,
        EVEN_N=routing.expert_map is None and routing.top_k == choices and n % step == 0, CHOICES=choices,
        BLOCK_SIZE_N=block_n, BLOCK_SIZE_K=step, num_warps=config.num_warps,
    )  # fmt: skip
    return out
