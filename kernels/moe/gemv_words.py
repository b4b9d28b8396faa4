"""The products of a few tokens with repacked FP4 weights, row by row: gate-up with SiLU-and-mul, down with the sum.

As gemv.py: few pairs rarely share an expert, and a tensor core that asks for 64 rows of weights leaves too few programs
for the device's memory. kernels/gemm/w4_words.py says what words are; of mxfp4 and nvfp4 each code is a bfloat16 by a
mask. Here that becomes float32, and what adds up is float32 too: products of 8 columns, then their scale.

A segment is one step of one row, 64 bytes. A program reads some rows of SEGMENTS segments at a time: steps of one
expert, or for the down product steps of all a token's experts one after the other. Four lanes share a segment, and
every lane has the same columns of all rows, so that what it makes of the tokens' columns serves every row.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.w4_tile import HAS_ASM, QUARTER, STEP, quarter_of_e2m1
from kernels.moe.gemv import find_expert

PIECES: tl.constexpr = tl.constexpr(4)
"""Of a segment: what a lane reads at once, 8 words."""
PIECE: tl.constexpr = tl.constexpr(8)
RAISED: tl.constexpr = tl.constexpr(2.0**64)
"""Of the tokens, and taken back from the sums: a code is times 2**-126, a product would be subnormal."""


@triton.jit
def columns_of_piece(piece, quarter: tl.constexpr, BY_LANES: tl.constexpr):
    """The first of a piece's columns in a quarter, of a step."""
    return piece * STEP // PIECES + quarter * PIECE if BY_LANES else piece * PIECE + quarter * QUARTER


@triton.jit
def scale_of_piece(scales, piece, quarter: tl.constexpr, FORMAT: tl.constexpr, BY_LANES: tl.constexpr):
    """The float32 scale of these; scales and piece [PIECES, ...]."""
    if FORMAT == "mxfp4":
        bits = ((scales >> 8 * (piece if BY_LANES else quarter)) & 0xFF) << 23
    else:
        place = 16 * piece + 8 * (quarter // 2)
        if not BY_LANES:  # the bytes of a quarter's two groups lie 16 bits apart
            place = 16 * (piece // 2) + 32 * (quarter // 2) + 8 * (quarter % 2)
        bits = (((scales >> place).to(tl.int32) & 0xFF) << 20) + 0x70000000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def widen(values):
    """Bfloat16 values as float32; two in a register by an instruction each, which Triton's conversion is not."""
    if HAS_ASM:
        wide = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xFFFF0000;", "=r,=r,r", [values], tl.float32, is_pure=True, pack=2
        )
    else:
        wide = values.to(tl.float32)
    return wide


@triton.jit
def load_segments(
    first,  # number of each segment's first row of weights, [SEGMENTS]
    is_there,  # [SEGMENTS]
    rows,  # of the weights, [ROWS]
    words_ptr,
    scales_ptr,
):
    """Words [PIECES, SEGMENTS, ROWS, PIECE] and scales [PIECES, SEGMENTS, ROWS]; zeros of a segment that is not."""
    piece = tl.arange(0, PIECES)
    column = piece[:, None] * PIECE + tl.arange(0, PIECE)[None, :]
    row = first[:, None] + rows[None, :]  # [SEGMENTS, ROWS]
    words_ptrs = words_ptr + row[None, :, :, None] * QUARTER + column[:, None, None, :]
    scale_ptrs = scales_ptr + row[None, :, :] + 0 * piece[:, None, None]
    words = tl.load(words_ptrs, mask=is_there[None, :, None, None], other=0)
    return words, tl.load(scale_ptrs, mask=is_there[None, :, None], other=0)


@triton.jit
def multiply_segments(
    x_ptrs,  # [SEGMENTS], to the columns of each segment
    x_factor,  # [1, SEGMENTS, 1] or a number
    left,  # columns from there to the end of the row, [SEGMENTS]
    words,
    scales,
    FORMAT: tl.constexpr,
    BY_LANES: tl.constexpr,
):
    """Sums [PIECES, SEGMENTS, ROWS] of the products of each lane's columns, times 2**64."""
    piece = tl.arange(0, PIECES)
    sums = tl.zeros(scales.shape, dtype=tl.float32)
    for quarter in tl.static_range(4):
        offs = columns_of_piece(piece, quarter, BY_LANES)[:, None] + tl.arange(0, PIECE)[None, :]
        x = tl.load(x_ptrs[None, :, None] + offs[:, None, :], mask=offs[:, None, :] < left[None, :, None], other=0.0)
        x = (widen(x) if x.dtype == tl.bfloat16 else x.to(tl.float32)) * x_factor
        products = widen(quarter_of_e2m1(words, quarter)) * x[:, :, None, :]
        sums += tl.sum(products, 3) * scale_of_piece(scales, piece[:, None, None], quarter, FORMAT, BY_LANES)
    return sums


@triton.jit
def words_gate_up_gemv_kernel(
    a_ptr,  # [num_tokens, K] values
    words_ptr,  # [E, K / 128, num_rows_w, 32]: gate and up rows in turn
    scales_ptr,  # [E, K / 128, num_rows_w]
    factor_ptr,  # [E, num_rows_w]
    topk_weights_ptr,  # [num_pairs] if the input is weighted, else None
    out_ptr,  # [num_pairs, N] values
    ids_ptr,
    expert_map_ptr,
    num_rows_w,
    N,
    K,
    top_k,
    FORMAT: tl.constexpr,
    BY_LANES: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    SEGMENTS: tl.constexpr,
):
    """out[pair] = silu(a[row] @ w_gate.T) * (a[row] @ w_up.T), BLOCK_SIZE_N columns of one pair a program."""
    pair = tl.program_id(0).to(tl.int64)
    expert = find_expert(pair, ids_ptr, expert_map_ptr)
    if expert < 0:
        return
    place = tl.program_id(1) * BLOCK_SIZE_N + tl.arange(0, 2 * BLOCK_SIZE_N) // 2  # of columns, gate and up in turn
    is_up = tl.arange(0, 2 * BLOCK_SIZE_N) % 2
    rows = place // 8 * 16 + is_up * 8 + place % 8 if BY_LANES else place * 2 + is_up
    rows = tl.where(rows < num_rows_w, rows, 0)
    num_steps = tl.cdiv(K, STEP)
    a_ptr += pair // top_k * K
    words_ptr += expert * num_steps * num_rows_w * QUARTER
    scales_ptr += expert * num_steps * num_rows_w
    sums = tl.zeros((PIECES, SEGMENTS, 2 * BLOCK_SIZE_N), dtype=tl.float32)
    step = tl.arange(0, SEGMENTS)
    words, scales = load_segments(step * num_rows_w, step < num_steps, rows, words_ptr, scales_ptr)
    for _ in range(0, num_steps, SEGMENTS):
        ahead = step + SEGMENTS
        next_words, next_scales = load_segments(ahead * num_rows_w, ahead < num_steps, rows, words_ptr, scales_ptr)
        sums += multiply_segments(a_ptr + step * STEP, RAISED, K - step * STEP, words, scales, FORMAT, BY_LANES)
        step, words, scales = ahead, next_words, next_scales
    sums = tl.sum(tl.sum(sums, 0), 0) * tl.load(factor_ptr + expert * num_rows_w + rows) * (1 / RAISED)
    if topk_weights_ptr is not None:
        sums *= tl.load(topk_weights_ptr + pair)
    gate, up = tl.split(tl.reshape(sums, (BLOCK_SIZE_N, 2)))
    h = gate * tl.sigmoid(gate) * up
    offs_n = tl.program_id(1) * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    if BY_LANES:
        offs_n = offs_n // STEP * STEP + offs_n // 2 % 4 * 32 + offs_n % STEP // 8 * 2 + offs_n % 2
    tl.store(out_ptr + pair * N + offs_n, h.to(out_ptr.dtype.element_ty), mask=offs_n < N)


@triton.jit
def find_segments(segment, token, num_steps, top_k, ids_ptr, expert_map_ptr):
    """Pairs and experts of segments of a token, and which there are; of others some pair and expert 0."""
    choice = segment // num_steps
    is_here = choice < top_k
    pair = token * top_k + tl.where(is_here, choice, 0)
    expert = find_expert(pair, ids_ptr, expert_map_ptr)
    is_here = is_here & (expert >= 0)
    return pair, tl.where(is_here, expert, 0), is_here


@triton.jit
def words_down_gemv_kernel(
    a_ptr,  # [num_pairs, N] values
    words_ptr,  # [E, N / 128, K, 32]
    scales_ptr,  # [E, N / 128, K]
    factor_ptr,  # [E, K]
    topk_weights_ptr,  # [num_pairs] if the output is weighted, else None
    out_ptr,  # [num_tokens, K]
    ids_ptr,
    expert_map_ptr,
    N,
    K,
    top_k,
    FORMAT: tl.constexpr,
    BY_LANES: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    SEGMENTS: tl.constexpr,
):
    """out[token] = sum over its pairs of topk_weight[pair] * (a[pair] @ w.T), BLOCK_SIZE_N of K columns a program."""
    token = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    rows_read = tl.where(rows < K, rows, 0)
    num_steps = tl.cdiv(N, STEP)
    piece = tl.arange(0, PIECES)
    sums = tl.zeros((PIECES, SEGMENTS, BLOCK_SIZE_N), dtype=tl.float32)
    segment = tl.arange(0, SEGMENTS)
    pair, expert, is_here = find_segments(segment, token, num_steps, top_k, ids_ptr, expert_map_ptr)
    step = segment % num_steps
    words, scales = load_segments((expert * num_steps + step) * K, is_here, rows_read, words_ptr, scales_ptr)
    for _ in range(0, top_k * num_steps, SEGMENTS):
        segment += SEGMENTS
        next_pair, next_expert, is_next = find_segments(segment, token, num_steps, top_k, ids_ptr, expert_map_ptr)
        next_step = segment % num_steps
        next_words, next_scales = load_segments(
            (next_expert * num_steps + next_step) * K, is_next, rows_read, words_ptr, scales_ptr
        )
        weight = RAISED
        if topk_weights_ptr is not None:
            weight *= tl.load(topk_weights_ptr + pair)[None, :, None]
        factor_ptrs = factor_ptr + (expert * K)[None, :, None] + rows_read[None, None, :] + 0 * piece[:, None, None]
        sums += tl.load(factor_ptrs) * multiply_segments(
            a_ptr + pair * N + step * STEP,
            weight,
            tl.where(is_here, N - step * STEP, 0),
            words,
            scales,
            FORMAT,
            BY_LANES,
        )
        pair, expert, is_here, step, words, scales = next_pair, next_expert, is_next, next_step, next_words, next_scales
    out = tl.sum(tl.sum(sums, 0), 0) * (1 / RAISED)
    tl.store(out_ptr + token * K + rows, out.to(out_ptr.dtype.element_ty), mask=rows < K)
