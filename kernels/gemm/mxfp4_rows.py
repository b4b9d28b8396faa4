"""The MXFP4 linear layer of one token without tensor cores: a sum of integers for each row of weights, exact.

Twice an e2m1 value is an integer up to 12, and dp4a multiplies four of them: what a group of 32 adds to a sum is an
integer, at most 32 * 144, times two powers of two. Only these are added up in float32. So no row of activations is too
wide, and a group of them with the NaN scale makes the output NaN.

Weights are those of the product on FP8 tensor cores: kernels/gemm/mxfp4_fp8_words.py has their layout. A segment is
one step of one row, 64 bytes; four lanes have 16 each, eight rows of a step are a warp's. A program takes all steps of
eight rows, then of its next rows: a lane's columns stay the same, so that it keeps the token in registers. What a warp
added up of a row is written, and added up by the program at its end.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl

from kernels.gemm.mxfp4_fp8_words import Fp8Words
from kernels.gemm.mxfp4_kernels import GROUP_SIZE, e2m1_codes, e8m0_values, hadamard_sums, round_groups
from kernels.gemm.w4_tile import HAS_ASM
from kernels.sms import count_sms

LANES: tl.constexpr = tl.constexpr(4)
"""That share a segment: each has four words, of eight codes."""
ROWS: tl.constexpr = tl.constexpr(8)
"""Of weights, that a warp takes at a time."""
MOST_COLUMNS = 8192
"""Of a token that 16 warps keep in registers."""
GROUPS_OF_PROGRAM = 16
"""Hadamard groups that a program rotates: as few as a tensor core takes."""
FACTOR_OF_SUMS: tl.constexpr = tl.constexpr(2.0**-7)
"""Of twice the weights times twice the token, with shifts from 0 on that count from 2**-5."""
TWICE_E2M1: tl.constexpr = tl.constexpr(0xC8643210 - 2**32)
"""Twice e2m1's magnitudes, a nibble each."""
UNPACK: tl.constexpr = tl.constexpr(
    "{ .reg .b32 m, h, s; and.b32 m, $4, 0x77777777; shl.b32 s, $4, 4; "
    "prmt.b32 $1, $4, 0, 0xBA98; prmt.b32 h, $5, 0x0C080604, m; xor.b32 $0, h, $1; shr.b32 m, m, 16; "
    "prmt.b32 $3, s, 0, 0xBA98; prmt.b32 h, $5, 0x0C080604, m; xor.b32 $2, h, $3; }"
)
"""unpack_word: magnitudes out of a table of eight bytes; prmt also fills a byte with another's highest bit."""
LOWER_TABLE: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a, b; mov.u32 a, %lanemask_eq; mov.u32 b, %lanemask_lt; lop3.b32 $0, a, b, 0x03020100, 0xEA; }"
)
"""The first four magnitudes, in a register: ptxas would copy a constant into one before each use."""
SPREAD: tl.constexpr = tl.constexpr(
    "{ .reg .b32 m, s, p, n, w; and.b32 m, $2, 0x77777777; shl.b32 s, $2, 4; "
    "prmt.b32 p, 0x03020100, 0x0C080604, m; prmt.b32 n, 0xFDFEFF00, 0xF4F8FAFC, m; prmt.b32 w, s, $2, 0xD9C8; "
    "lop3.b32 $0, w, n, p, 0xCA; shr.b32 m, m, 16; "
    "prmt.b32 p, 0x03020100, 0x0C080604, m; prmt.b32 n, 0xFDFEFF00, 0xF4F8FAFC, m; prmt.b32 w, s, $2, 0xFBEA; "
    "lop3.b32 $1, w, n, p, 0xCA; }"
)
"""spread_values: positive and negative values out of tables, and which of them out of signs."""


@triton.jit
def twice_magnitude(code):
    """Of the lowest nibble, without its sign."""
    return (tl.full(code.shape, TWICE_E2M1, tl.int32) >> 4 * (code & 7)) & 15


@triton.jit
def spread_values(codes):
    """Twice the values of a word of eight e2m1 codes, four int8 in a word: of the lower four, of the upper four."""
    if HAS_ASM:
        lower, upper = tl.inline_asm_elementwise(
            SPREAD, "=&r,=&r,r", [codes], (tl.int32, tl.int32), is_pure=True, pack=1
        )
    else:
        lower, upper = tl.zeros_like(codes), tl.zeros_like(codes)
        for i in tl.static_range(8):
            code = codes >> 4 * i
            value = tl.where(code & 8 != 0, -twice_magnitude(code), twice_magnitude(code)) & 255
            if i < 4:
                lower |= value << 8 * i
            else:
                upper |= value << 8 * i - 32
    return lower, upper


@triton.jit
def unpack_word(words, table):
    """Of both halves of a step four magnitudes in a word, inverted where negative, and bytes of ones there."""
    if HAS_ASM:
        first, first_signs, second, second_signs = tl.inline_asm_elementwise(
            UNPACK,
            "=&r,=&r,=&r,=&r,r,r",
            [words, table],
            (tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    else:
        first_signs, second_signs = ((words >> 7) & 0x01010101) * 255, ((words >> 3) & 0x01010101) * 255
        first, second = first_signs, second_signs
        for i in tl.static_range(4):
            first ^= twice_magnitude(words >> 4 * i) << 8 * i
            second ^= twice_magnitude(words >> 4 * i + 16) << 8 * i
    return first, first_signs, second, second_signs


@triton.jit
def dot4(weights, x, total):
    """total + the sum of four products of int8."""
    if HAS_ASM:
        total = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [weights, x, total], tl.int32, is_pure=True, pack=1
        )
    else:
        for i in tl.static_range(4):
            total += (weights << 24 - 8 * i >> 24) * (x << 24 - 8 * i >> 24)
    return total


@triton.jit
def shift_left(x, shifts):
    """x << shifts % 32, for which shifts need no mask."""
    if HAS_ASM:
        x = tl.inline_asm_elementwise(
            "shf.l.wrap.b32 $0, 0, $1, $2;", "=r,r,r", [x, shifts], tl.int32, is_pure=True, pack=1
        )
    else:
        x = x << (shifts & 31)
    return x


@triton.jit
def split4(x):
    """The four parts of the last of four dimensions."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2], 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def multiply_half(magnitudes, signs, shifts, x):
    """What each lane adds up of half a step; -m is m inverted and one more."""
    m0, m1, m2, m3 = split4(magnitudes)
    s0, s1, s2, s3 = split4(signs)
    x0, x1, x2, x3 = split4(x)
    zero = tl.zeros_like(shifts)
    sums = dot4(m3, x3, dot4(m2, x2, dot4(m1, x1, dot4(m0, x0, zero))))
    sums -= dot4(s3, x3, dot4(s2, x2, dot4(s1, x1, dot4(s0, x0, zero))))
    return shift_left(sums, shifts).to(tl.float32)


@triton.jit
def load_rows(words_ptr, shifts_ptr, first_row, N, K, STEPS: tl.constexpr, EVEN: tl.constexpr):
    """Words [STEPS, ROWS, LANES, 4] and shifts [STEPS, ROWS, LANES]; of what is not there anything finite.

    Pointers to shifts are laid out as those to words are because Triton sees nothing contiguous in them.
    """
    step = tl.arange(0, STEPS)[:, None]
    place = tl.arange(0, ROWS * 16)[None, :] + first_row * 16
    words_ptrs = words_ptr + step * (N * 16) + place
    row = tl.arange(0, ROWS)[None, :, None] + first_row
    step_of_shift = tl.arange(0, STEPS)[None, None, :] + 0 * tl.arange(0, LANES)[:, None, None]
    shift_ptrs = shifts_ptr + step_of_shift * N + tl.where(row < N, row, 0)
    if EVEN:
        words, shifts = tl.load(words_ptrs), tl.load(shift_ptrs)
    else:
        num_steps = tl.cdiv(K, 128)
        words = tl.load(words_ptrs, mask=(step < num_steps) & (place < N * 16), other=0)
        shifts = tl.load(shift_ptrs, mask=step_of_shift < num_steps, other=0)
    return tl.reshape(words, (STEPS, ROWS, LANES, 4)), tl.permute(shifts, (2, 1, 0))


@triton.jit
def load_token(codes_ptr, scale_ptr, K, STEPS: tl.constexpr):
    """The token's codes [STEPS, 16], eight in a word, and of either half of a step the scales [STEPS, LANES]."""
    step = tl.arange(0, STEPS)[:, None]
    word = step * 16 + tl.arange(0, 16)[None, :]
    codes = tl.load(codes_ptr + word, mask=word < K // 8, other=0)
    group = step * 4 + tl.arange(0, LANES)[None, :] // 2
    first_scale = tl.load(scale_ptr + group, mask=group < K // GROUP_SIZE, other=0)
    second_scale = tl.load(scale_ptr + group + 2, mask=group + 2 < K // GROUP_SIZE, other=0)
    return codes, first_scale, second_scale


@triton.jit
def unpack_token(codes, first_scale, second_scale, STEPS: tl.constexpr):
    """As a lane multiplies it: of either half int8 values [STEPS, 1, LANES, 4], four in a word, then the scales."""
    lower, upper = spread_values(codes)
    x = tl.reshape(tl.join(lower, upper), (STEPS, 2, LANES, 4))
    first, second = tl.split(tl.permute(x, (0, 2, 3, 1)))
    first_scale, second_scale = e8m0_values(first_scale), e8m0_values(second_scale)
    return first[:, None, :, :], second[:, None, :, :], first_scale[:, None, :], second_scale[:, None, :]


@triton.jit
def quantize_token_kernel(
    x_ptr,  # [num_groups, HADAMARD_SIZE] values
    codes_ptr,  # [num_groups, HADAMARD_SIZE / 2] uint8
    scale_ptr,  # [num_groups, HADAMARD_SIZE / 32] uint8
    num_groups,
    HADAMARD_SIZE: tl.constexpr,
    RSQRT_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """quantize_mxfp4(rotate_hadamard(x)), GROUPS Hadamard groups a program."""
    SCALES: tl.constexpr = HADAMARD_SIZE // GROUP_SIZE
    first = tl.program_id(0) * GROUPS
    group = first + tl.arange(0, GROUPS)
    offs = group[:, None] * HADAMARD_SIZE + tl.arange(0, HADAMARD_SIZE)[None, :]
    x = tl.load(x_ptr + offs, mask=group[:, None] < num_groups, other=0.0)
    rotated = hadamard_sums(x, HADAMARD_SIZE) * RSQRT_SIZE
    e2m1, scale = round_groups(tl.reshape(rotated, (GROUPS * SCALES, GROUP_SIZE)))
    low, high = tl.split(tl.reshape(e2m1_codes(e2m1), (GROUPS * SCALES, GROUP_SIZE // 2, 2)))
    place = first * SCALES + tl.arange(0, GROUPS * SCALES)
    exists = place < num_groups * SCALES
    byte = place[:, None] * (GROUP_SIZE // 2) + tl.arange(0, GROUP_SIZE // 2)[None, :]
    tl.store(codes_ptr + byte, (low | high << 4).to(tl.uint8), mask=exists[:, None])
    tl.store(scale_ptr + place, scale.to(tl.uint8), mask=exists)


@triton.jit
def mxfp4_rows_kernel(
    codes_ptr,  # [K / 8] int32, of the token
    scale_ptr,  # [K / 32]
    words_ptr,  # [K / 128, N, 16] int32
    shifts_ptr,  # [K / 128, N] int32
    factor_ptr,  # [N] float32
    parts_ptr,  # [WARPS, N] float32
    out_ptr,  # [N]
    N,
    K,
    STEPS: tl.constexpr,
    WARPS: tl.constexpr,
    TURNS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """out = w @ x, of STEPS steps at most; a program takes every num_programs-th tile of ROWS rows, TURNS at most.

    The next tile is loaded while this one is multiplied.
    """
    pid, num_programs, num_tiles = tl.program_id(0), tl.num_programs(0), tl.cdiv(N, ROWS)
    table = 0
    if HAS_ASM:
        table = tl.inline_asm_elementwise(LOWER_TABLE, "=r,r", [pid], tl.int32, is_pure=True, pack=1)
    codes, first_code, second_code = load_token(codes_ptr, scale_ptr, K, STEPS)
    words, shifts = load_rows(words_ptr, shifts_ptr, pid * ROWS, N, K, STEPS, EVEN)
    tl.debug_barrier()  # ptxas would wait for the token before it asks for the rows
    first_x, second_x, first_scale, second_scale = unpack_token(codes, first_code, second_code, STEPS)
    lane = tl.arange(0, LANES)
    for tile in range(pid, num_tiles, num_programs):
        ahead = tl.where(tile + num_programs < num_tiles, tile + num_programs, tile)
        next_words, next_shifts = load_rows(words_ptr, shifts_ptr, ahead * ROWS, N, K, STEPS, EVEN)
        first, first_signs, second, second_signs = unpack_word(words, table)
        shifts = shifts >> 8 * (lane // 2)[None, None, :]
        sums = multiply_half(first, first_signs, shifts, first_x) * first_scale
        sums += multiply_half(second, second_signs, shifts >> 16, second_x) * second_scale
        sums = tl.sum(tl.reshape(sums, (STEPS // WARPS, WARPS, ROWS, LANES)), 0)
        sums = tl.broadcast_to(tl.sum(sums, 2)[:, :, None], (WARPS, ROWS, LANES))  # in the same threads
        row = tl.arange(0, ROWS)[None, :, None] + tile * ROWS
        place = tl.arange(0, WARPS)[None, None, :] * N + tl.where(row < N, row, 0) + 0 * lane[:, None, None]
        tl.store(parts_ptr + place, tl.permute(sums, (2, 1, 0)), mask=(row < N) & (lane == 0)[:, None, None])
        words, shifts = next_words, next_shifts
    rows = tl.arange(0, ROWS)[None, :] + (tl.arange(0, TURNS)[:, None] * num_programs + pid) * ROWS
    factor = tl.load(factor_ptr + rows, mask=rows < N, other=0.0) * FACTOR_OF_SUMS
    tl.debug_barrier()
    parts_ptrs = parts_ptr + tl.arange(0, WARPS)[None, :, None] * N + rows[:, None, :]
    sums = tl.sum(tl.load(parts_ptrs, mask=(rows < N)[:, None, :], other=0.0), 1) * factor
    tl.store(out_ptr + rows, sums.to(out_ptr.dtype.element_ty), mask=rows < N)


def quantize_token(x: torch.Tensor, hadamard_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize_mxfp4(rotate_hadamard(x, hadamard_size)); x [1, k] bfloat16 or float16, contiguous."""
    k = x.shape[1]
    codes = torch.empty(1, k // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(1, k // GROUP_SIZE.value, dtype=torch.uint8, device=x.device)
    quantize_token_kernel[(triton.cdiv(k, hadamard_size * GROUPS_OF_PROGRAM),)](
        x, codes, scales, k // hadamard_size, HADAMARD_SIZE=hadamard_size, RSQRT_SIZE=hadamard_size**-0.5,
        GROUPS=GROUPS_OF_PROGRAM,
    )  # fmt: skip
    return codes, scales


def multiply_rows(
    codes: torch.Tensor, scales: torch.Tensor, w: Fp8Words, dtype: torch.dtype, num_warps: int
) -> torch.Tensor:
    """x @ w.T [1, n].

    Args:
        codes, scales: of x, [1, k / 2] and [1, k / 32] uint8, contiguous.
        dtype: of the output.
    """
    k, (num_steps, n, _) = 2 * codes.shape[1], w.words.shape
    steps = triton.next_power_of_2(num_steps)
    warps = min(num_warps, steps)
    num_tiles = triton.cdiv(n, ROWS.value)
    num_programs = min(count_sms(codes.device), num_tiles)
    out = torch.empty(1, n, dtype=dtype, device=codes.device)
    mxfp4_rows_kernel[(num_programs,)](
        codes.view(torch.int32), scales, w.words.view(torch.int32), w.shifts, w.factor,
        torch.empty(warps, n, device=codes.device), out, n, k, STEPS=steps, WARPS=warps,
        TURNS=triton.next_power_of_2(triton.cdiv(num_tiles, num_programs)),
        EVEN=n % ROWS.value == 0 and num_steps == steps, num_warps=num_warps,
    )  # fmt: skip
    return out
