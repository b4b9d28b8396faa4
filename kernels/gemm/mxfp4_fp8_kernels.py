"""The Triton kernels that turn MXFP4 into FP8 without loss: rotate and round activations, unpack weights.

An e2m1 value times 2**d is an e4m3 value for d from -8 to 6. So a row whose group scales span at most 14 powers of two
is a row of FP8 codes times one power of two, exactly. Activations whose span is wider are rare: such a row is flagged,
and its 16-bit values are written too, for a product that takes them as they are. A group with the NaN scale makes the
scale of its row NaN.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

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

LEAST_SHIFT: tl.constexpr = tl.constexpr(-5)
"""Of weights: 0.5 * 2**-5 is e4m3's least normal value, so that a shift adds to the exponents of a table."""
UNPACK_WORD: tl.constexpr = tl.constexpr(
    "{ .reg .b32 m, h, s; and.b32 m, $2, 0x77777777; prmt.b32 h, $3, $7, m; lop3.b32 $0, $2, 0x80808080, h, 0xEA; "
    "shr.b32 m, m, 16; prmt.b32 h, $11, $15, m; shl.b32 s, $2, 4; lop3.b32 $1, s, 0x80808080, h, 0xEA; }"
)
"""Eight e4m3 codes, four of each half of a step: magnitudes out of tables of eight bytes, signs from their places."""
EIGHT_CODES: tl.constexpr = tl.constexpr(
    "{ .reg .b32 m, s; and.b32 m, $2, 0x77777777; prmt.b32 s, 0x80808080, 0x80808080, $2; prmt.b32 $0, $3, $7, m; "
    "shl.b32 s, s, 7; lop3.b32 $0, s, 0x80808080, $0, 0xEA; shr.b32 m, m, 16; shr.b32 s, $2, 16; "
    "prmt.b32 s, 0x80808080, 0x80808080, s; prmt.b32 $1, $3, $7, m; shl.b32 s, s, 7; "
    "lop3.b32 $1, s, 0x80808080, $1, 0xEA; }"
)
"""As many, of codes in their usual order: where a selector has a sign, prmt fills with the bit that it selects."""

LARGEST_SHIFT: tl.constexpr = tl.constexpr(6)
"""6 * 2**6 is 384, and e4m3 ends at 448."""
WIDEST_SPAN: tl.constexpr = tl.constexpr(14)
NUM_ARRIVED: tl.constexpr = tl.constexpr(512)
"""Two for each program of mxfp4_hopper_gemm_kernel, of which an SM has one: zeroed by the launch before it."""


@triton.jit
def power_of_two(exponent):
    """2**exponent as float32, for exponents from -149 to 127."""
    code = exponent + 127
    bits = tl.where(code > 0, tl.maximum(code, 1) << 23, 0x00400000 >> tl.minimum(tl.maximum(-code, 0), 22))
    return bits.to(tl.float32, bitcast=True)


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
def table_of(above_least):
    """The e4m3 codes of 0, 0.5, 1, 1.5 and of 2, 3, 4, 6 under a shift, given how far that is above LEAST_SHIFT.

    Down to three below it they end in e4m3's subnormal values; further down they are zeros.
    """
    low, high = 0x14100800 + above_least * 0x08080800, 0x24201C18 + above_least * 0x08080808
    low = tl.where(above_least == -1, 0x0C080400, tl.where(above_least == -2, 0x06040200, low))
    high = tl.where(above_least == -1, 0x1C181410, tl.where(above_least == -2, 0x14100C08, high))
    low = tl.where(above_least < -2, tl.where(above_least == -3, 0x03020100, 0), low)
    high = tl.where(above_least < -2, tl.where(above_least == -3, 0x0C080604, 0), high)
    return low[:, None], high[:, None]


@triton.jit
def unpack_group(packed, shift, GROUPS: tl.constexpr):
    """e4m3 codes [GROUPS, 32] of e2m1 codes [GROUPS, 16] uint8, the first of two low, times 2**shift."""
    if HAS_ASM:
        low, high = table_of(shift - LEAST_SHIFT)
        packed, low = tl.broadcast(packed, low)
        packed, high = tl.broadcast(packed, high)
        first, second = tl.inline_asm_elementwise(
            EIGHT_CODES, "=&r,=&r,r,r,r,r,r,r,r,r,r", [packed, low, high],
            dtype=(tl.float8e4nv, tl.float8e4nv), is_pure=True, pack=4,
        )  # fmt: skip
        pairs = tl.join(tl.reshape(first, (GROUPS, 4, 4)), tl.reshape(second, (GROUPS, 4, 4)))
        codes = tl.reshape(tl.permute(pairs, (0, 1, 3, 2)), (GROUPS, GROUP_SIZE))
    else:
        e2m1 = tl.reshape(tl.join(e2m1_values(packed & 15), e2m1_values(packed >> 4)), (GROUPS, GROUP_SIZE))
        codes = (e2m1 * power_of_two(tl.maximum(shift, -100))[:, None]).to(tl.float8e4nv)
    return codes


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
def unpack_step(words, shifts, ROWS: tl.constexpr, IN_FP8: tl.constexpr):
    """e4m3 codes [ROWS, 64] of each half of a step; words [ROWS, 64] int8, shifts [ROWS] int32 of four bytes.

    The assembly wants the four bytes of a word in one thread, as the left operand of a product IN_FP8 has them. That
    of a product in 16 bits has two, and Triton would move its layout up to before assembly that is pure.
    """
    shift0 = tl.join(shifts & 255, (shifts >> 8) & 255)[:, :, None]  # [ROWS, 2, 1], of groups of 32
    shift1 = tl.join((shifts >> 16) & 255, shifts >> 24)[:, :, None]
    if HAS_ASM:
        packed = tl.reshape(words, (ROWS, 2, GROUP_SIZE))
        packed, low0 = tl.broadcast(packed, 0x14100800 + shift0 * 0x08080800)  # 0, 0.5, 1, 1.5 times 2**(shift - 5)
        packed, high0 = tl.broadcast(packed, 0x24201C18 + shift0 * 0x08080808)  # 2, 3, 4 and 6
        packed, low1 = tl.broadcast(packed, 0x14100800 + shift1 * 0x08080800)
        packed, high1 = tl.broadcast(packed, 0x24201C18 + shift1 * 0x08080808)
        first, second = tl.inline_asm_elementwise(
            UNPACK_WORD,
            "=r,=r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r",
            [packed, low0, high0, low1, high1],
            dtype=(tl.float8e4nv, tl.float8e4nv),
            is_pure=IN_FP8,
            pack=4,
        )
    else:
        low, high = tl.split(tl.permute(tl.reshape(words, (ROWS, 16, 2, 2)), (0, 1, 3, 2)))
        signs = tl.reshape(words, (ROWS, 2, GROUP_SIZE)).to(tl.int32)
        first = values_of_nibbles(low, signs & 128, shift0, ROWS)
        second = values_of_nibbles(high, signs & 8, shift1, ROWS)
    return tl.reshape(first, (ROWS, 2 * GROUP_SIZE)), tl.reshape(second, (ROWS, 2 * GROUP_SIZE))


@triton.jit
def values_of_nibbles(nibbles, signs, shift, ROWS: tl.constexpr):
    """e4m3 codes [ROWS, 2, 32] of magnitudes in nibbles [ROWS, 16, 2], negative where signs are not 0."""
    nibbles = nibbles.to(tl.int32)
    values = e2m1_values(tl.join(nibbles & 7, (nibbles >> 4) & 7))
    values = tl.reshape(values, (ROWS, 2, GROUP_SIZE)) * power_of_two(shift + LEAST_SHIFT)
    return tl.where(signs != 0, -values, values).to(tl.float8e4nv)


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
