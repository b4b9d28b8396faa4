"""e2m1 codes times a power of two as e4m3 codes, for Triton and Gluon kernels: tables, and assembly that looks them up.

An e2m1 value times 2**shift is an e4m3 value for shifts from -8 to 6. A table is two registers of four codes each, and
a magnitude's three bits select one of their eight bytes.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.mxfp4_kernels import GROUP_SIZE, e2m1_values
from kernels.gemm.w4_tile import HAS_ASM

LEAST_SHIFT: tl.constexpr = tl.constexpr(-5)
"""Of weights: 0.5 * 2**-5 is e4m3's least normal value, so that a shift adds to the exponents of a table."""
LARGEST_SHIFT: tl.constexpr = tl.constexpr(6)
"""6 * 2**6 is 384, and e4m3 ends at 448."""
WIDEST_SPAN: tl.constexpr = tl.constexpr(14)
"""Of shifts under which all values are e4m3 values, subnormal ones too."""
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


@triton.jit
def power_of_two(exponent):
    """2**exponent as float32, for exponents from -149 to 127."""
    code = exponent + 127
    bits = tl.where(code > 0, tl.maximum(code, 1) << 23, 0x00400000 >> tl.minimum(tl.maximum(-code, 0), 22))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def shifted_tables(above_least):
    """The e4m3 codes of 0, 0.5, 1, 1.5 and of 2, 3, 4, 6 times 2**shift, given how far that is above LEAST_SHIFT."""
    return 0x14100800 + above_least * 0x08080800, 0x24201C18 + above_least * 0x08080808


@triton.jit
def tables_below_too(above_least):
    """shifted_tables of any shift, a row each.

    Down to three below the least they end in e4m3's subnormal values; further down they are zeros.
    """
    low, high = shifted_tables(above_least)
    low = tl.where(above_least == -1, 0x0C080400, tl.where(above_least == -2, 0x06040200, low))
    high = tl.where(above_least == -1, 0x1C181410, tl.where(above_least == -2, 0x14100C08, high))
    low = tl.where(above_least < -2, tl.where(above_least == -3, 0x03020100, 0), low)
    high = tl.where(above_least < -2, tl.where(above_least == -3, 0x0C080604, 0), high)
    return low[:, None], high[:, None]


@triton.jit
def unpack_group(packed, shift, GROUPS: tl.constexpr):
    """e4m3 codes [GROUPS, 32] of e2m1 codes [GROUPS, 16] uint8, the first of two low, times 2**shift."""
    if HAS_ASM:
        low, high = tables_below_too(shift - LEAST_SHIFT)
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
def unpack_step(words, shifts, ROWS: tl.constexpr, IN_FP8: tl.constexpr):
    """e4m3 codes [ROWS, 64] of each half of a step; words [ROWS, 64] int8, shifts [ROWS] int32 of four bytes.

    The assembly wants the four bytes of a word in one thread, as the left operand of a product IN_FP8 has them. That
    of a product in 16 bits has two, and Triton would move its layout up to before assembly that is pure.
    """
    shift0 = tl.join(shifts & 255, (shifts >> 8) & 255)[:, :, None]  # [ROWS, 2, 1], of groups of 32
    shift1 = tl.join((shifts >> 16) & 255, shifts >> 24)[:, :, None]
    if HAS_ASM:
        packed = tl.reshape(words, (ROWS, 2, GROUP_SIZE))
        low0, high0 = shifted_tables(shift0)
        low1, high1 = shifted_tables(shift1)
        packed, low0 = tl.broadcast(packed, low0)
        packed, high0 = tl.broadcast(packed, high0)
        packed, low1 = tl.broadcast(packed, low1)
        packed, high1 = tl.broadcast(packed, high1)
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
