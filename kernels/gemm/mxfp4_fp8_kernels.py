"""The Triton kernels of MXFP4 as FP8, without loss: rotate and round activations, unpack weights, multiply.

An e2m1 value times 2**d is an e4m3 value for d from -8 to 6 (mxfp4_fp8_codes.py). So a row whose group scales span at
most 14 powers of two is a row of FP8 codes times one power of two, exactly. Activations whose span is wider are rare:
such a row is flagged, and its 16-bit values are written too, for a product that takes them as they are. A group with
the NaN scale makes the scale of its row NaN.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.mxfp4_fp8_codes import LARGEST_SHIFT, WIDEST_SPAN, power_of_two, unpack_group, unpack_step
from kernels.gemm.mxfp4_kernels import (
    GROUP_SIZE,
    e2m1_values,
    e8m0_values,
    group_scales,
    hadamard_sums,
    rotate_and_round,
    round_in_units,
)
from kernels.gemm.tiles import rows_of_tile, store_tile
from kernels.gemm.w4_tile import HAS_ASM

NUM_ARRIVED: tl.constexpr = tl.constexpr(1024)
"""Four for each program of mxfp4_hopper_gemm_kernel, of which an SM has one: zeroed by the launch before it."""


@triton.jit
def nearest_at_once(x, unit):
    """nearest_in_units: Hopper's minimum of magnitudes, with x's sign, takes the place of two comparisons."""
    largest = 6.0 * unit.to(tl.float32, bitcast=True)
    if HAS_ASM:
        x = tl.inline_asm_elementwise(
            "min.xorsign.abs.f32 $0, $1, $2;", "=r,r,r", [x, largest], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        x = tl.minimum(tl.maximum(x, -largest), largest)
    return round_in_units(x, unit)


@triton.jit
def store_scale(largest, least, scale_ptr, is_wide_ptr, arrived_ptr):
    """Write a row's scale and whether FP8 is too narrow for it, given its largest scale and the least that is not 0.

    The least of all, 2**-127, is that of zeros: beside larger groups, what else it holds counts as zero.

    Returns:
        The scale as an exponent like e8m0's, and whether it is wide.
    """
    row_scale = tl.maximum(largest, LARGEST_SHIFT) - LARGEST_SHIFT
    is_wide = (largest < 255) & (least < largest - WIDEST_SPAN)
    place = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(scale_ptr + place, tl.where(largest == 255, float("nan"), power_of_two(row_scale - 127)))
    tl.store(is_wide_ptr + place, is_wide.to(tl.int32))
    if place == 0:
        tl.store(arrived_ptr + tl.arange(0, NUM_ARRIVED), 0)
    return row_scale, is_wide


@triton.jit
def find_split(K, split_size):
    """Where the part of a row starts that a split of the sum multiplies, and its columns."""
    first = tl.program_id(1) * split_size
    return tl.program_id(0).to(tl.int64) * K + first, tl.minimum(split_size, K - first)


@triton.jit
def least_scale(scale):
    """The least that is not 0."""
    return tl.min(tl.where(scale > 0, scale, 255), 0)


@triton.jit
def rotate_to_fp8_kernel(
    x_ptr,  # [M, K] values
    codes_ptr,  # [M, K] float8_e4m3fn
    scale_ptr,  # [SPLITS, M] float32, a power of two
    values_ptr,  # [M, K] bfloat16, written where is_wide
    is_wide_ptr,  # [SPLITS, M] int32
    arrived_ptr,  # [NUM_ARRIVED] int32, zeroed
    K,
    split_size,
    HADAMARD_SIZE: tl.constexpr,
    RSQRT_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """codes * scale = dequantize_mxfp4(*quantize_mxfp4(rotate_hadamard(x))), of split_size columns of a row.

    They are GROUPS Hadamard groups at most.

    It rounds x / scale: there a group's e2m1 values are 2**shift times what they are in MXFP4.
    """
    if HAS_ASM:
        tl.extra.cuda.gdc_launch_dependents()  # a product that is early may begin
    start, size = find_split(K, split_size)
    column = tl.arange(0, GROUPS)[:, None] * HADAMARD_SIZE + tl.arange(0, HADAMARD_SIZE)[None, :]
    x = tl.load(x_ptr + start + column, mask=column < size, other=0.0)
    sums = tl.reshape(hadamard_sums(x, HADAMARD_SIZE), (GROUPS * (HADAMARD_SIZE // GROUP_SIZE), GROUP_SIZE))
    scale = group_scales(sums, RSQRT_SIZE)
    row_scale, is_wide = store_scale(tl.max(scale, 0), least_scale(scale), scale_ptr, is_wide_ptr, arrived_ptr)
    unit = tl.maximum(127 + scale - row_scale, 1)[:, None] << 23  # bits of 2**shift
    codes = nearest_at_once(sums * (power_of_two(127 - row_scale) * RSQRT_SIZE), unit)
    codes = tl.reshape(codes, (GROUPS, HADAMARD_SIZE)).to(tl.float8e4nv)
    tl.store(codes_ptr + start + column, codes, mask=column < size)
    if is_wide:
        x = tl.load(x_ptr + start + column, mask=column < size, other=0.0)  # again: kept, it would cost registers
        values = rotate_and_round(x, HADAMARD_SIZE, RSQRT_SIZE, GROUPS)
        tl.store(values_ptr + start + column, values.to(tl.bfloat16), mask=column < size)


@triton.jit
def rows_to_fp8_kernel(
    e2m1_ptr,  # [M, K / 2] e2m1 codes
    e8m0_ptr,  # [M, K / 32]
    codes_ptr,  # this and the next four: see rotate_to_fp8_kernel
    scale_ptr,
    values_ptr,
    is_wide_ptr,
    arrived_ptr,
    K,
    split_size,
    GROUPS: tl.constexpr,
):
    """codes * scale = dequantize_mxfp4(e2m1, e8m0), of split_size columns of a row: GROUPS groups of 32 at most."""
    start, size = find_split(K, split_size)
    group = tl.arange(0, GROUPS)
    byte = group[:, None] * (GROUP_SIZE // 2) + tl.arange(0, GROUP_SIZE // 2)[None, :]
    packed = tl.load(e2m1_ptr + start // 2 + byte, mask=byte < size // 2, other=0)
    exists = group < size // GROUP_SIZE
    scale = tl.load(e8m0_ptr + start // GROUP_SIZE + group, mask=exists, other=0).to(tl.int32)
    row_scale, is_wide = store_scale(tl.max(scale, 0), least_scale(scale), scale_ptr, is_wide_ptr, arrived_ptr)
    column = group[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    codes = unpack_group(packed, scale - row_scale, GROUPS)
    tl.store(codes_ptr + start + column, codes, mask=column < size)
    if is_wide:
        e2m1 = tl.reshape(tl.join(e2m1_values(packed & 15), e2m1_values(packed >> 4)), (GROUPS, GROUP_SIZE))
        exact = e2m1 * e8m0_values(scale)[:, None]
        tl.store(values_ptr + start + column, exact.to(tl.bfloat16), mask=column < size)


@triton.jit
def unpack_words_kernel(
    words_ptr,  # [K / 128, N, 64] int8
    shifts_ptr,  # [K / 128, N] int32
    out_ptr,  # [N, K] float8_e4m3fn
    N,
    K,
    ROWS: tl.constexpr,
):
    """The e4m3 codes of ROWS rows of one step; programs of neighbouring steps follow each other, and fill rows."""
    step = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 64)
    exists = row < N
    words = tl.load(words_ptr + (step * N + row)[:, None] * 64 + column[None, :], mask=exists[:, None], other=0)
    shifts = tl.load(shifts_ptr + step * N + row, mask=exists, other=0)
    codes = unpack_step(words, shifts, ROWS, True)
    for half in tl.static_range(2):
        columns = step * 128 + half * 64 + column
        mask = exists[:, None] & (columns < K)[None, :]
        tl.store(out_ptr + row[:, None] * K + columns[None, :], codes[half], mask=mask)


@triton.jit
def multiply_shifted(
    x_ptrs,  # [BLOCK_SIZE_M, 1], to the rows of tokens: FP8 codes, or bfloat16 values
    w_ptrs,  # [ROWS, 1] int8, to the first words of rows
    shift_ptrs,  # [ROWS] int32
    first_step,
    end_step,
    num_rows_w,
    K,
    ROWS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    PROMOTE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """w @ x.T over some steps, [ROWS, BLOCK_SIZE_M] float32, without factors of rows."""
    column = tl.arange(0, 64)
    x_ptrs += first_step * 128 + column[None, :]
    w_ptrs += first_step * num_rows_w * 64 + column[None, :]
    shift_ptrs += first_step * num_rows_w
    acc = tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32)
    for step in tl.range(first_step, end_step, num_stages=STAGES):
        words = tl.load(w_ptrs)
        shifts = tl.load(shift_ptrs)
        codes = unpack_step(words, shifts, ROWS, x_ptrs.dtype.element_ty == tl.float8e4nv)
        part = tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32) if PROMOTE else acc
        for half in tl.static_range(2):
            if EVEN_K:
                x = tl.load(x_ptrs + half * 64)
            else:
                x = tl.load(x_ptrs + half * 64, mask=column[None, :] < K - step * 128 - half * 64, other=0.0)
            part = tl.dot(codes[half].to(x.dtype), tl.trans(x), part)
        acc = acc + part if PROMOTE else part
        x_ptrs += 128
        w_ptrs += num_rows_w * 64
        shift_ptrs += num_rows_w
    return acc


@triton.jit
def multiply_wide(
    values_ptr, words_ptr, shifts_ptr, rows_x, rows_w, first_step, end_step, N, K,
    EVEN_K: tl.constexpr, BLOCK_SIZE_M: tl.constexpr, BLOCK_SIZE_N: tl.constexpr,
):  # fmt: skip
    """The product of 16-bit values, without a pipeline: it is rare, and its buffers would be taken from every tile."""
    return multiply_shifted(
        values_ptr + rows_x[:, None] * K, words_ptr + rows_w[:, None] * 64, shifts_ptr + rows_w,
        first_step, end_step, N, K, BLOCK_SIZE_N, EVEN_K, BLOCK_SIZE_M, False, 1,
    )  # fmt: skip


@triton.jit
def mxfp4_fp8_gemm_kernel(
    x_ptr,  # [M, K] float8_e4m3fn
    x_scale_ptr,  # [SPLIT_K, M] float32; [1, M] with stride_split 0
    values_ptr,  # [M, K] bfloat16, of rows that are wide
    is_wide_ptr,  # likewise, int32; None: such rows are left wrong
    words_ptr,  # [K / 128, N, 64] int8
    shifts_ptr,  # [K / 128, N] int32
    factor_ptr,  # [N] float32
    out_ptr,  # [SPLIT_K, M, N]
    M,
    N,
    K,
    steps_per_split,
    stride_split,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
    PROMOTE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """out[split] = x @ w.T over the split's share of the columns, one tile a program."""
    offs_m, offs_n, rows_x, rows_w = rows_of_tile(M, N, EVEN_N, BLOCK_SIZE_M, BLOCK_SIZE_N, GROUP_SIZE_M)
    first_step = tl.program_id(1) * steps_per_split
    end_step = tl.minimum(first_step + steps_per_split, tl.cdiv(K, 128))
    acc = multiply_shifted(
        x_ptr + rows_x[:, None] * K, words_ptr + rows_w[:, None] * 64, shifts_ptr + rows_w,
        first_step, end_step, N, K, BLOCK_SIZE_N, EVEN_K, BLOCK_SIZE_M, PROMOTE, STAGES,
    )  # fmt: skip
    acc *= tl.load(x_scale_ptr + tl.program_id(1) * stride_split + rows_x)[None, :]
    if is_wide_ptr is not None:
        is_wide = tl.load(is_wide_ptr + tl.program_id(1) * stride_split + offs_m, mask=offs_m < M, other=0) != 0
        if tl.max(is_wide.to(tl.int32), 0) != 0:
            wide = multiply_wide(
                values_ptr, words_ptr, shifts_ptr, rows_x, rows_w, first_step, end_step, N, K,
                EVEN_K, BLOCK_SIZE_M, BLOCK_SIZE_N,
            )  # fmt: skip
            acc = tl.where(is_wide[None, :], wide, acc)
    acc *= tl.load(factor_ptr + rows_w)[:, None]
    store_tile(acc, out_ptr, tl.program_id(1), offs_m, offs_n, M, N)
