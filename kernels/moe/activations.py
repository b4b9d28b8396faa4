"""The Triton kernels that quantize activations of the fused MoE to FP8 or INT8: groups of 128, or whole rows.

Rows are those of kernels/moe/routing.py, or for quantize_blocks_kernel rows of blocks.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl

from kernels.moe.routing import Routing, is_computed
from kernels.moe.schemes import GROUP_SIZE as GROUP_SIZE_OF_SCHEMES
from kernels.moe.schemes import MoeScheme
from kernels.quantize import fp8

GROUP_SIZE: tl.constexpr = tl.constexpr(GROUP_SIZE_OF_SCHEMES)
FP8_MAX: tl.constexpr = tl.constexpr(fp8.FP8_MAX)
AMAX_FLOOR: tl.constexpr = tl.constexpr(fp8.AMAX_FLOOR)


@triton.jit
def scale_of(amax):
    """kernels.quantize.fp8.scale_of."""
    return tl.maximum(amax, AMAX_FLOOR) / FP8_MAX


@triton.jit
def round_to_fp8(x):
    """kernels.quantize.fp8.round_to_fp8."""
    return tl.minimum(tl.maximum(x, -FP8_MAX), FP8_MAX).to(tl.float8e4nv)


@triton.jit
def round_to_int8(x):
    """Half to even, as kernels.quantize.integer: adding 1.5 * 2**23 leaves no bits for a fraction."""
    x = tl.minimum(tl.maximum(x, -127.0), 127.0)
    return (x + 12582912.0 - 12582912.0).to(tl.int8)


@triton.jit
def largest_magnitude(x):
    """max|x|, but at least 1e-10, or NaN if there is one: the bits of magnitudes are ordered as integers, NaN last."""
    bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
    return tl.maximum(bits.to(tl.float32, bitcast=True), AMAX_FLOOR, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def quantize_groups(
    program,
    x_ptr,
    weights_ptr,  # [num_rows], multiply a row before it is rounded; or None
    codes_ptr,
    scale_ptr,
    ids_ptr,  # this and the next three: see is_computed
    expert_map_ptr,
    expert_num_tokens_ptr,
    rows_per_expert,
    num_groups,
    numel,
    K,  # None if rows need not be told apart
    top_k,
    GROUPED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Quantize GROUPS groups of 128 consecutive values, each with its own scale (written) or the static one (read)."""
    group = program.to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    offs = group[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]  # [GROUPS, 128]
    mask = offs < numel
    x_ptrs = x_ptr + offs
    if K is not None:
        row = offs // K
        mask = is_computed(row, mask, ids_ptr, expert_map_ptr, expert_num_tokens_ptr, rows_per_expert)
        x_ptrs = x_ptr + row // top_k * K + offs % K
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    if weights_ptr is not None:
        x *= tl.load(weights_ptr + row, mask=mask, other=0.0)
    if GROUPED:
        scale = scale_of(tl.max(tl.abs(x), 1))
        tl.store(scale_ptr + group, scale, mask=group < num_groups)
        codes = round_to_fp8(x / scale[:, None])
    else:
        codes = round_to_fp8(x / tl.load(scale_ptr))
    tl.store(codes_ptr + offs, codes, mask=mask)


@triton.jit
def quantize_kernel(
    x_ptr,  # this and the others: see quantize_groups
    weights_ptr,
    codes_ptr,
    scale_ptr,
    ids_ptr,
    expert_map_ptr,
    expert_num_tokens_ptr,
    rows_per_expert,
    num_groups,
    numel,
    K,
    top_k,
    GROUPED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Quantize GROUPS groups a program."""
    quantize_groups(
        tl.program_id(0), x_ptr, weights_ptr, codes_ptr, scale_ptr, ids_ptr, expert_map_ptr, expert_num_tokens_ptr,
        rows_per_expert, num_groups, numel, K, top_k, GROUPED, GROUPS,
    )  # fmt: skip


@triton.jit
def store_quantized(
    x,  # [BLOCK_SIZE_K] float32
    row,
    offs,
    weight,  # of the scale, or None
    codes_ptr,  # [rows, K] float8_e4m3fn or int8
    scale_ptr,  # [rows]
    sums_ptr,  # [rows, NUM_SUMS] float16, or None
    K,
    even_factor,
    odd_factor,
    NUM_SUMS: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """Codes of a row, its scale, and the sums of groups of codes times the factor of their column, zeros after them."""
    amax = largest_magnitude(x)
    if codes_ptr.dtype.element_ty == tl.int8:
        scale = amax / 127.0
        codes = round_to_int8(x / scale)
    else:
        scale = amax / FP8_MAX
        codes = (x * (1.0 / scale)).to(tl.float8e4nv)  # at most 448 but for the last bits: rounds to it
    tl.store(scale_ptr + row, scale if weight is None else scale * weight)
    tl.store(codes_ptr + row * K + offs, codes, mask=offs < K)
    if sums_ptr is not None:
        GROUPS: tl.constexpr = BLOCK_SIZE_K // GROUP_SIZE
        products = codes.to(tl.float32) * tl.where(offs % 2 == 0, even_factor, odd_factor)
        sums = tl.sum(tl.reshape(products, (GROUPS, GROUP_SIZE)), 1)
        sums_ptr += row * NUM_SUMS
        tl.store(sums_ptr + tl.arange(0, GROUPS), sums.to(tl.float16))
        if NUM_SUMS > GROUPS:
            left = tl.arange(0, NUM_SUMS)
            tl.store(sums_ptr + left, tl.zeros((NUM_SUMS,), tl.float16), mask=left >= GROUPS)


@triton.jit
def quantize_rows_kernel(
    x_ptr,
    weights_ptr,  # as quantize_kernel's
    codes_ptr,  # [num_rows, K] float8_e4m3fn or int8
    scale_ptr,  # [num_rows]
    sums_ptr,  # [num_rows, NUM_SUMS] float16, or None
    ids_ptr,
    expert_map_ptr,
    expert_num_tokens_ptr,
    rows_per_expert,
    K,
    top_k,
    even_factor,
    odd_factor,
    NUM_SUMS: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """Quantize one row, all of it at once, with its own scale; a NaN makes the scale NaN, so that it stays visible."""
    row = tl.program_id(0).to(tl.int64)
    if not is_computed(row, row >= 0, ids_ptr, expert_map_ptr, expert_num_tokens_ptr, rows_per_expert):
        return
    offs = tl.arange(0, BLOCK_SIZE_K)
    x = tl.load(x_ptr + row // top_k * K + offs, mask=offs < K, other=0.0).to(tl.float32)
    if weights_ptr is not None:
        x *= tl.load(weights_ptr + row)
    store_quantized(
        x, row, offs, None, codes_ptr, scale_ptr, sums_ptr, K, even_factor, odd_factor, NUM_SUMS, BLOCK_SIZE_K
    )


@triton.jit
def quantize_blocks_kernel(
    x_ptr,
    weights_ptr,  # [num_pairs], multiply scales; or None
    codes_ptr,  # [blocks * BLOCK_SIZE_M, K]; this and the next two: see store_quantized
    scale_ptr,
    sums_ptr,
    block_pairs_ptr,
    block_rows_ptr,
    rows_per_expert,
    K,
    top_k,  # pairs of a row of x; None if these are the rows of the blocks
    even_factor,
    odd_factor,
    LAYOUT: tl.constexpr,  # "aligned" or "batched": see gemm.py
    BLOCK_SIZE_M: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """Quantize one row of a block, wherever it comes from; codes past the block's last row are zeros."""
    row = tl.program_id(0).to(tl.int64)
    block, in_block = row // BLOCK_SIZE_M, row % BLOCK_SIZE_M
    if LAYOUT == "batched":
        blocks_per_expert = tl.cdiv(rows_per_expert, BLOCK_SIZE_M)
        first = block % blocks_per_expert * BLOCK_SIZE_M
        expert = block // blocks_per_expert
        num_rows = tl.load(block_rows_ptr + expert) - first
        pair = expert * rows_per_expert + first + in_block
    else:
        num_rows = tl.load(block_rows_ptr + block)
        pair = tl.load(block_pairs_ptr + row)
    offs = tl.arange(0, BLOCK_SIZE_K)
    if in_block >= num_rows:
        if num_rows > 0:  # is multiplied too, and zeros take less power
            zeros = tl.zeros((BLOCK_SIZE_K,), codes_ptr.dtype.element_ty)
            tl.store(codes_ptr + row * K + offs, zeros, mask=offs < K)
        return
    x_row = row if top_k is None else (pair // top_k).to(tl.int64)
    x = tl.load(x_ptr + x_row * K + offs, mask=offs < K, other=0.0).to(tl.float32)
    weight = None
    if weights_ptr is not None:
        weight = tl.load(weights_ptr + pair)
    store_quantized(
        x, row, offs, weight, codes_ptr, scale_ptr, sums_ptr, K, even_factor, odd_factor, NUM_SUMS, BLOCK_SIZE_K
    )


def quantize_triton(
    scheme: MoeScheme,
    x: torch.Tensor,
    static_scale: torch.Tensor | None,
    routing: Routing,
    weight_rows: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round activations as the scheme does.

    Args:
        x: [num_rows, k] 16-bit values, contiguous; with weight_rows [num_rows / top_k, k].
        static_scale: [1] float32 for scaling "tensor", else None.
        weight_rows: multiply each pair's copy of its token by the router's weight before it is rounded.
    Returns:
        codes [num_rows, k]; scales [num_rows, k / 128] or [num_rows], or static_scale. Rows that are not computed stay
        unwritten.
    """
    k = x.shape[-1]
    num_rows = routing.num_rows if weight_rows else x.numel() // k
    weights, top_k = (routing.topk_weights, routing.top_k) if weight_rows else (None, 1)
    computed = routing.computed if num_rows == routing.num_rows else (None,) * 4  # else rows are tokens
    codes = torch.empty(num_rows, k, dtype=scheme.activation_dtype, device=x.device)
    if scheme.rounds_whole_rows:
        scales = torch.empty(num_rows, device=x.device)
        launch_quantize_rows(x, weights, codes, scales, None, computed, top_k)
        return codes, scales
    num_groups = triton.cdiv(codes.numel(), GROUP_SIZE_OF_SCHEMES)
    scales = torch.empty(num_rows, k // 128, device=x.device) if static_scale is None else static_scale
    by_row = (k, top_k) if weight_rows or computed != (None,) * 4 else (None, None)
    quantize_kernel[(triton.cdiv(num_groups, 16),)](
        x, weights, codes, scales, *computed, num_groups, codes.numel(), *by_row, static_scale is None, 16
    )
    return codes, scales


def quantize_rows_and_sum(
    x: torch.Tensor, routing: Routing, factors: tuple[float, float], least_sums: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round whole rows to FP8, and sum up groups of their codes.

    Args:
        x: [num_rows or tokens, k] 16-bit values, contiguous; k is a multiple of 128.
        factors: of codes in sums, in even columns and odd ones.
        least_sums: of a row, a power of two.
    Returns:
        codes like x, float8_e4m3fn; scales [rows] float32; sums of 128 codes [rows, S] float16, where S is the least
        power of two that will do, and zeros follow the sums. Rows that are not computed stay unwritten.
    """
    num_rows, k = x.shape
    computed = routing.computed if num_rows == routing.num_rows else (None,) * 4  # else rows are tokens
    codes = torch.empty_like(x, dtype=fp8.FP8_DTYPE)
    scales = torch.empty(num_rows, device=x.device)
    num_sums = max(triton.next_power_of_2(k // GROUP_SIZE_OF_SCHEMES), least_sums)
    sums = torch.empty(num_rows, num_sums, dtype=torch.float16, device=x.device)
    launch_quantize_rows(x, None, codes, scales, sums, computed, 1, factors)
    return codes, scales, sums


def launch_quantize_rows(
    x: torch.Tensor,
    weights: torch.Tensor | None,
    codes: torch.Tensor,
    scales: torch.Tensor,
    sums: torch.Tensor | None,
    computed: tuple[torch.Tensor | int | None, ...],
    top_k: int,
    factors: tuple[float, float] = (1.0, 1.0),
) -> None:
    """A program a row."""
    num_rows, k = codes.shape
    block_size = triton.next_power_of_2(k)
    quantize_rows_kernel[(num_rows,)](
        x, weights, codes, scales, sums, *computed, k, top_k, *factors, None if sums is None else sums.shape[1],
        block_size, num_warps=min(max(block_size // 512, 1), 8),
    )  # fmt: skip
