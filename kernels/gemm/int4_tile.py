"""A tile of a product of INT4 weights and FP8 tokens, for Triton kernels: weights on the left, unpacked in registers.

As kernels/gemm/w4_tile.py, but on FP8 tensor cores; kernels/gemm/int4_words.py says how words are laid out. Sums over
128 columns are the tensor core's, the sum of these times their scales is float32. What takes the offsets away is a
small product of its own, of scales and sums of tokens in float16.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.w4_tile import HAS_ASM, STEP

HALF: tl.constexpr = tl.constexpr(64)

# Four bytes in a register, which LLVM would take apart.
LOW: tl.constexpr = tl.constexpr("lop3.b32 $0, $1, 0x0F0F0F0F, 0x80008000, 0xEA;")
HIGH: tl.constexpr = tl.constexpr("{ .reg .b32 t; shr.b32 t, $1, 4; lop3.b32 $0, t, 0x0F0F0F0F, 0x80008000, 0xEA; }")


@triton.jit
def unpack_int4(words, half: tl.constexpr):
    """(code + 8 or - 7) * 2**-9 of the codes of one half of a step, e4m3; words [ROWS, 64] uint8."""
    if HAS_ASM:
        values = tl.inline_asm_elementwise(
            LOW if half == 0 else HIGH, "=r,r", [words], dtype=tl.float8e4nv, is_pure=True, pack=4
        )
    else:
        sign = (tl.arange(0, HALF) % 2 * 128).to(tl.uint8)
        values = ((words >> 4 * half) & 15 | sign[None, :]).to(tl.float8e4nv, bitcast=True)
    return values


@triton.jit
def multiply_int4(
    a_ptrs,  # [BLOCK_SIZE_M, 1] float8_e4m3fn, to the rows of tokens
    a_sum_ptrs,  # [BLOCK_SIZE_M, 1] float16, to the STEPS sums of rows: see int4_words.py
    w_ptrs,  # [ROWS, 1] uint8, to the first words of rows
    scale_ptrs,  # [ROWS] float8_e4m3fn, to the first scales of rows
    first_step,
    end_step,
    num_rows_w,  # rows of the whole matrix
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,  # of the sums, a power of two
    BLOCK_SIZE_M: tl.constexpr,
):
    """w @ a.T over some steps, [ROWS, BLOCK_SIZE_M] float32, each weight read once."""
    steps = tl.arange(0, STEPS)
    is_summed = (steps >= first_step) & (steps < end_step)
    scales = tl.load(scale_ptrs[None, :] + steps[:, None] * num_rows_w, mask=is_summed[:, None], other=0.0)
    acc = tl.dot(tl.trans(scales.to(tl.float16)), tl.trans(tl.load(a_sum_ptrs + steps[None, :])))
    column = tl.arange(0, HALF)
    a_ptrs += first_step * STEP + column[None, :]
    w_ptrs += first_step * num_rows_w * HALF + column[None, :]
    last_step = end_step - 1
    scale = tl.load(scale_ptrs + tl.minimum(first_step, last_step) * num_rows_w)
    for step in range(first_step, end_step):
        words = tl.load(w_ptrs)
        products = tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32)
        for half in tl.static_range(2):
            products = tl.dot(unpack_int4(words, half), tl.trans(tl.load(a_ptrs + half * HALF)), products)
        ahead = tl.load(scale_ptrs + tl.minimum(step + 1, last_step) * num_rows_w)  # behind the products
        acc += products * scale.to(tl.float32)[:, None]
        scale = ahead
        a_ptrs += STEP
        w_ptrs += num_rows_w * HALF
    return acc
