"""A tile of a product with INT8 weights, for Triton kernels: weights on the left, unpacked in registers.

As kernels/gemm/w4_tile.py; kernels/gemm/w8_words.py says how words are laid out and why unpacking them is exact.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.w4_tile import HAS_ASM, STEP, finish_sums, run_on_pairs

HALF: tl.constexpr = tl.constexpr(64)

# Two words in a register: the codes of one half, then code + 128 times 2**124 (bfloat16) or 2**15 (float16), minus 1/4.
BFLOAT16_HALF_0: tl.constexpr = tl.constexpr(
    "{ .reg .b32 t, x, z; prmt.b32 t, $1, 0, 0x4240; mov.b32 x, 0x7D807D80; mov.b32 z, 0xBE80BE80; "
    "fma.rn.bf16x2 $0, t, x, z; }"
)
BFLOAT16_HALF_1: tl.constexpr = tl.constexpr(BFLOAT16_HALF_0.value.replace("0x4240", "0x4341"))
FLOAT16_HALF_0: tl.constexpr = tl.constexpr(
    "{ .reg .b32 t, x, z; prmt.b32 t, $1, 0, 0x4240; mov.b32 x, 0x78007800; mov.b32 z, 0xB400B400; "
    "fma.rn.f16x2 $0, t, x, z; }"
)
FLOAT16_HALF_1: tl.constexpr = tl.constexpr(FLOAT16_HALF_0.value.replace("0x4240", "0x4341"))


@triton.jit
def unpack_half(words, half: tl.constexpr, dtype: tl.constexpr):
    """Code / 512 of the codes of one half of a step, in dtype; words [ROWS, 64] int16."""
    if not HAS_ASM:
        one: tl.constexpr = 2.0**124 if dtype == tl.bfloat16 else 2.0**15
        shifted = ((words.to(tl.int32) >> 8 * half) & 0xFF).to(tl.int16).to(dtype, bitcast=True)
        values = (shifted.to(tl.float32) * one - 0.25).to(dtype)
    elif dtype == tl.bfloat16:
        values = run_on_pairs(words, BFLOAT16_HALF_0 if half == 0 else BFLOAT16_HALF_1)
    else:
        asm: tl.constexpr = FLOAT16_HALF_0 if half == 0 else FLOAT16_HALF_1
        values = tl.inline_asm_elementwise(asm, "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2)
    return values


@triton.jit
def multiply_int8(
    a_ptrs,  # [BLOCK_SIZE_M, 1], to the rows of tokens
    w_ptrs,  # [ROWS, 1] int16, to the first words of rows
    scale_ptrs,  # [ROWS] float32, to the first scales of rows; None if a row has one scale
    first_step,
    end_step,
    num_rows_w,  # rows of the whole matrix
    K,
    ROWS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
):
    """w @ a.T over some steps, [ROWS, BLOCK_SIZE_M] float32, each weight read once; scales multiply sums of steps."""
    column = tl.arange(0, HALF)
    a_ptrs += first_step * STEP + column[None, :]
    w_ptrs += first_step * num_rows_w * HALF + column[None, :]
    if scale_ptrs is not None:
        scale_ptrs += first_step * num_rows_w
    acc = tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32)
    for step in range(first_step, end_step):
        words = tl.load(w_ptrs)
        products = acc if scale_ptrs is None else tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32)
        for half in tl.static_range(2):
            if EVEN_K:
                a = tl.load(a_ptrs + half * HALF)
            else:
                left = K - step * STEP - half * HALF
                a = tl.load(a_ptrs + half * HALF, mask=column[None, :] < left, other=0.0)
            products = tl.dot(unpack_half(words, half, a.dtype), tl.trans(a), products)
        if scale_ptrs is None:
            acc = finish_sums(products)
        else:
            acc += products * tl.load(scale_ptrs)[:, None]
            scale_ptrs += num_rows_w
        a_ptrs += STEP
        w_ptrs += num_rows_w * HALF
    return acc
