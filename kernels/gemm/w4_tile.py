"""A tile of a product with MXFP4 or NVFP4 weights, for Triton kernels: weights on the left, unpacked in registers.

Both are multiplied as bfloat16 (float16 where the tokens are) on 16-bit tensor cores, and summed in float32: a
code times its scale is exact there. kernels/gemm/w4_words.py says how words are laid out and why it is exact.

The product is computed transposed, w @ a.T: there wgmma takes weights from registers, where unpacking leaves them, and
the tokens' side may be as narrow as 16.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

STEP: tl.constexpr = tl.constexpr(128)
QUARTER: tl.constexpr = tl.constexpr(32)
HAS_ASM: tl.constexpr = tl.constexpr(not triton.knobs.runtime.interpret)
"""The interpreter runs the same formulas on one word at a time."""


# Two words in a register, which LLVM would take apart: what unpacks both. Triton 3.6 has no table to take it from.
E2M1_QUARTER_0: tl.constexpr = tl.constexpr("and.b32 $0, $1, 0x81C081C0;")
E2M1_QUARTER_1: tl.constexpr = tl.constexpr("{ .reg .b32 t; shl.b32 t, $1, 3; and.b32 $0, t, 0x81C081C0; }")
E2M1_QUARTER_2: tl.constexpr = tl.constexpr("{ .reg .b32 t; shl.b32 t, $1, 6; and.b32 $0, t, 0x81C081C0; }")
E2M1_QUARTER_3: tl.constexpr = tl.constexpr(
    "{ .reg .b32 s, m; shl.b32 s, $1, 1; and.b32 s, s, 0x80008000; shr.b32 m, $1, 5; "
    "lop3.b32 s, m, 0x01000100, s, 0xEA; shr.b32 m, $1, 4; lop3.b32 $0, m, 0x00C000C0, s, 0xEA; }"
)


@triton.jit
def run_on_pairs(words, asm: tl.constexpr):
    """Two words at a time, read as bfloat16."""
    return tl.inline_asm_elementwise(asm, "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2)


@triton.jit
def quarter_of_e2m1(words, quarter: tl.constexpr):
    """Value * 2**-126 of the codes of one quarter, bfloat16; words [ROWS, 32] int16."""
    if not HAS_ASM:
        wide = words.to(tl.int32)
        last = (wide << 1) & 0x8000 | (wide >> 5) & 0x0100 | (wide >> 4) & 0x00C0
        values = as_bfloat16(last if quarter == 3 else (wide << 3 * quarter) & 0x81C0)
    elif quarter == 0:
        values = run_on_pairs(words, E2M1_QUARTER_0)
    elif quarter == 1:
        values = run_on_pairs(words, E2M1_QUARTER_1)
    elif quarter == 2:
        values = run_on_pairs(words, E2M1_QUARTER_2)
    else:
        values = run_on_pairs(words, E2M1_QUARTER_3)
    return values


@triton.jit
def as_bfloat16(bits):
    """The bfloat16 of 16 bits that are in an integer."""
    return bits.to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def multiply(x, y):
    """x * y in bfloat16."""
    return x * y if HAS_ASM else (x.to(tl.float32) * y.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def unpack_quarter(words, scales, quarter: tl.constexpr, FORMAT: tl.constexpr, ROWS: tl.constexpr):
    """The values [ROWS, 32] of one quarter of a step, bfloat16; words [ROWS, 32], scales [ROWS]."""
    if FORMAT == "mxfp4":
        both = (scales << 7 if quarter % 2 == 0 else scales >> 1) & 0x7F807F80
        factor = as_bfloat16(both if quarter < 2 else both >> 16)[:, None]
        values = multiply(quarter_of_e2m1(words, quarter), factor)
    else:
        both = (((scales >> 32 * (quarter // 2)).to(tl.int32) >> 8 * (quarter % 2)) & 0x00FF00FF) * 16 + 0x70007000
        factors = tl.join(as_bfloat16(both), as_bfloat16(both >> 16))
        values = multiply(tl.reshape(quarter_of_e2m1(words, quarter), (ROWS, 2, 16)), factors[:, :, None])
        values = tl.reshape(values, (ROWS, QUARTER))
    return values


@triton.jit
def finish_sums(acc):
    """acc, read by an instruction that costs nothing.

    Nothing else reads sums before the loop ends, so Triton would leave the last product of a step to the next one.
    There ptxas moves the registers of a product that is not finished, and waits for every single wgmma.
    """
    if HAS_ASM:
        acc = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [acc], dtype=tl.float32, is_pure=True, pack=1)
    return acc


@triton.jit
def multiply_words(
    a_ptrs,  # [BLOCK_SIZE_M, 1], to the rows of tokens
    w_ptrs,  # [ROWS, 1] int16, to the first words of rows
    scale_ptrs,  # [ROWS], to the first scales of rows
    first_step,
    end_step,
    num_rows_w,  # rows of the whole matrix
    K,
    ROWS: tl.constexpr,
    FORMAT: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
):
    """w @ a.T over some steps, [ROWS, BLOCK_SIZE_M] float32, each weight read once."""
    column = tl.arange(0, QUARTER)
    a_ptrs += first_step * STEP + column[None, :]
    w_ptrs += first_step * num_rows_w * QUARTER + column[None, :]
    scale_ptrs += first_step * num_rows_w
    acc = tl.zeros((ROWS, BLOCK_SIZE_M), dtype=tl.float32)
    for step in range(first_step, end_step):
        words = tl.load(w_ptrs)
        scales = tl.load(scale_ptrs)
        for quarter in tl.static_range(4):
            if EVEN_K:
                a = tl.load(a_ptrs + quarter * QUARTER)
            else:
                left = K - step * STEP - quarter * QUARTER
                a = tl.load(a_ptrs + quarter * QUARTER, mask=column[None, :] < left, other=0.0)
            w = unpack_quarter(words, scales, quarter, FORMAT, ROWS)
            acc = tl.dot(w.to(a.dtype), tl.trans(a), acc)
        acc = finish_sums(acc)
        a_ptrs += STEP
        w_ptrs += num_rows_w * QUARTER
        scale_ptrs += num_rows_w
    return acc
