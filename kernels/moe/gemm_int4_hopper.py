"""The GEMMs of INT4 experts and FP8 tokens for Hopper, in Gluon: warps that load, and warps that unpack and multiply.

What gemm_words.py computes with FORMAT "int4"; kernels/gemm/int4_words.py says how weights become e4m3 and what takes
their offsets away. As in gemm_hopper.py a program is three groups of four warps that meet at barriers in shared memory:
one copies tiles into a ring of STAGES, two multiply, so that one's products run while the other unpacks and adds.
halves_hopper.py deals out the tiles.

A tile is 128 pairs of rows of weights by a block of BLOCK_SIZE_M tokens: gate and up rows of 128 columns of the
intermediate, or 256 columns of the output, even and odd ones. The first rows of the pairs are one matrix, the second
rows another, and what is summed of a pair lies in one thread. Weights are the left operand, which wgmma takes from
registers, where unpacking leaves them. ptxas finds registers for two products of 64 x 64 beside their sums as long as
each is given those of the one before; it says nothing if it then finds none and runs one after the other (C7512): look.
A stage holds 128 columns of a tile, 32 KiB, or the sums of 64 groups of 128 columns of its tokens. Rows of tokens are
those of the blocks, quantized one after the other, so that the copy engine reads them as tiles: a thread's own copies
would need a fence before wgmma reads them, and that waits for every load on its way, scales of the next step too.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from kernels.gemm.int4_tile import HIGH, LOW
from kernels.moe.blocks_hopper import add_up, load_pairs, make_barriers, sigmoid
from kernels.moe.gemm_hopper import BLOCK_SIZE_M, GROUP
from kernels.moe.halves_hopper import count_tiles, load_half

HALF: gl.constexpr = gl.constexpr(64)
"""Pairs of rows of weights of a warpgroup, and what wgmma multiplies at least; columns that are low nibbles; sums in a
stage."""

QUARTER: gl.constexpr = gl.constexpr(32)
"""Of a block's rows: what is multiplied for a block that has no more."""
SUMS_TILE: gl.constexpr = gl.constexpr(gl.NVMMASharedLayout(128, 16, 2))
# The e4m3 scales of a pair of rows as numbers.
TO_FLOAT32: gl.constexpr = gl.constexpr(
    "{ .reg .b32 t; .reg .b16 x, y; cvt.rn.f16x2.e4m3x2 t, $2; mov.b32 {x, y}, t; "
    "cvt.f32.f16 $0, x; cvt.f32.f16 $1, y; }"
)
TO_FLOAT16: gl.constexpr = gl.constexpr("{ .reg .b32 t; cvt.rn.f16x2.e4m3x2 t, $2; mov.b32 {$0, $1}, t; }")


@gluon.jit
def make_ring(a_desc, w_desc, STAGES: gl.constexpr):
    """Buffers of a tile's operands; barriers: full when the copy engine has reported, and empty."""
    a_bufs = gl.allocate_shared_memory(a_desc.dtype, [STAGES, BLOCK_SIZE_M, GROUP], a_desc.layout)
    w_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, GROUP, GROUP], w_desc.layout)
    full, empty = make_barriers(1, 2, STAGES)
    return a_bufs, w_bufs, full, empty


@gluon.jit
def copy_tiles(
    a_desc, sums_desc, w_desc, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long, num_tiles_n,
    num_pairs_w, K, a_bufs, w_bufs, full, empty,
    SUM_STEPS: gl.constexpr, LAYOUT: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps, of which one thread asks the copy engine for everything."""
    steps, step = K // GROUP, 0
    column, num_tiles, num_whole, half = count_tiles(num_blocks, num_long, num_tiles_n)
    tile_n, block, expert, first_row, num_rows, after = load_half(
        half, column, num_tiles, num_whole, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long,
        num_tiles_n, LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
    )  # fmt: skip
    while half < 2 * num_tiles:
        half = after
        next_n, next_block, next_expert, next_first, next_rows, after = load_half(
            half, column, num_tiles, num_whole, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long,
            num_tiles_n, LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
        )  # fmt: skip
        if num_rows > 0:
            a_row, w_row = block * BLOCK_SIZE_M + first_row, expert * steps * num_pairs_w + tile_n * GROUP
            for sum_step in range(SUM_STEPS):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(stage), BLOCK_SIZE_M * GROUP)
                tma.async_copy_global_to_shared(
                    sums_desc, [a_row, sum_step * GROUP], full.index(stage), a_bufs.index(stage)
                )
                step += 1
            for k in range(0, K, GROUP):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(stage), (BLOCK_SIZE_M + GROUP) * GROUP)
                tma.async_copy_global_to_shared(w_desc, [w_row, 0], full.index(stage), w_bufs.index(stage))
                tma.async_copy_global_to_shared(a_desc, [a_row, k], full.index(stage), a_bufs.index(stage))
                w_row += num_pairs_w
                step += 1
        tile_n, block, expert, first_row, num_rows = next_n, next_block, next_expert, next_first, next_rows


@gluon.jit
def load_scales(scale_ptrs, first, groups, num_pairs_w, WIDTH: gl.constexpr, left: gl.constexpr):
    """The scales of 64 pairs of rows and WIDTH groups as two left operands, float16; zeros past the last group."""
    group = first + gl.arange(0, WIDTH, layout=gl.SliceLayout(0, left))
    scale_ptrs = gl.convert_layout(scale_ptrs, gl.SliceLayout(1, left))[:, None] + group[None, :] * num_pairs_w
    scales = gl.load(scale_ptrs, mask=(group < groups)[None, :], other=0)
    return gl.inline_asm_elementwise(
        TO_FLOAT16, "=h,=h,h", [scales], dtype=(gl.float16, gl.float16), is_pure=True, pack=1
    )


@gluon.jit
def unpack(words, asm: gl.constexpr):
    """64 of 128 columns of weights, e4m3."""
    return gl.inline_asm_elementwise(asm, "=r,r", [words], dtype=gl.float8e4nv, is_pure=True, pack=4)


@gluon.jit
def multiply_columns(w, a, first: gl.constexpr, acc, use_acc):
    """acc + w @ a.T over 64 columns of the tokens a, on its way."""
    return warpgroup_mma(w, a.slice(first, HALF, 1).permute((1, 0)), acc, use_acc=use_acc, is_async=True)


@gluon.jit
def multiply_step(low, high, a, acc, use_acc):
    """acc + w @ a.T over the 128 columns of a step, on its way."""
    return multiply_columns(high, a, HALF, multiply_columns(low, a, 0, acc, use_acc), True)


@gluon.jit
def replace_one(values, i: gl.constexpr, value):
    """The values with another i-th."""
    return values[:i] + (value,) + values[i + 1 :]  # noqa: RUF005  # Gluon unpacks no tuples


@gluon.jit
def add_to(sums, i: gl.constexpr, product, scale):
    """The sums with product * scale added to the i-th."""
    return replace_one(sums, i, add_up(sums[i], product, scale))


@gluon.jit
def multiply_both(
    scale_ptrs, groups, num_pairs_w, step, first_row, a_bufs, w_bufs, full, empty,
    PARTS: gl.constexpr, TOKENS: gl.constexpr, SUM_STEPS: gl.constexpr, SUM_WIDTH: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """64 pairs of rows of a tile times PARTS x TOKENS tokens; the next step.

    Sums are [64, TOKENS] float32, of the first rows by PARTS, then of the second rows. While a product is added to its
    sum the next one is on its way: products take turns in two sets of registers, p0 and p1.
    """
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 32])
    summed_16: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, summed, 4)
    p0 = gl.zeros([HALF, TOKENS], gl.float32, layout=summed)
    p1, sums = p0, (p0,) * (2 * PARTS)
    for sum_step in gl.static_range(SUM_STEPS):
        left_scales = load_scales(
            scale_ptrs, sum_step * HALF, groups, num_pairs_w, SUM_WIDTH, gl.DotOperandLayout(0, summed_16, 2)
        )
        stage = step % STAGES
        mbarrier.wait(full.index(stage), step // STAGES & 1)
        right = a_bufs.index(stage)._reinterpret(gl.float16, [BLOCK_SIZE_M, HALF], SUMS_TILE).slice(0, SUM_WIDTH, 1)
        for i in gl.static_range(2 * PARTS):
            acc = gl.convert_layout(sums[i], summed_16)
            part = right.slice(i % PARTS * TOKENS, TOKENS, 0)
            acc = warpgroup_mma(left_scales[i // PARTS], part.permute((1, 0)), acc)
            sums = replace_one(sums, i, gl.convert_layout(acc, summed))
        mbarrier.arrive(empty.index(stage), count=1)
        step += 1
    scales = gl.load(scale_ptrs)
    never = groups < 0  # which ptxas does not know, so that a product takes the registers of the one it is given
    for group in range(groups):
        stage = step % STAGES
        mbarrier.wait(full.index(stage), step // STAGES & 1)
        a0, a1 = a_bufs.index(stage).slice(0, TOKENS, 0), a_bufs.index(stage).slice((PARTS - 1) * TOKENS, TOKENS, 0)
        w = w_bufs.index(stage).slice(first_row, HALF, 0)
        words = w.slice(0, HALF, 1).load(left)
        low, high = unpack(words, LOW), unpack(words, HIGH)
        c0 = multiply_step(low, high, a0, p0, never)
        scale0, scale1 = gl.inline_asm_elementwise(
            TO_FLOAT32, "=f,=f,h", [scales], dtype=(gl.float32, gl.float32), is_pure=True, pack=1
        )
        scales = gl.load(scale_ptrs + gl.minimum(group + 1, groups - 1) * num_pairs_w)  # runs behind the products
        if PARTS == 2:
            c1 = multiply_step(low, high, a1, p1, never)
            p0 = warpgroup_mma_wait(2, deps=(c0,))
            sums = add_to(sums, 0, p0, scale0)
            words = w.slice(HALF, HALF, 1).load(left)
            c1 = warpgroup_mma_wait(1, deps=(c1,))  # low columns are multiplied, the registers of their weights free
            low = unpack(words, LOW)
            c0 = multiply_columns(low, a0, 0, p0, never)
            p1 = warpgroup_mma_wait(1, deps=(c1,))
            high = unpack(words, HIGH)
            c0 = multiply_columns(high, a0, HALF, c0, True)
            sums = add_to(sums, 1, p1, scale0)
            c1 = multiply_step(low, high, a1, p1, never)
            p0 = warpgroup_mma_wait(2, deps=(c0,))
            sums = add_to(sums, 2, p0, scale1)
        else:
            words = w.slice(HALF, HALF, 1).load(left)
            c1 = multiply_step(unpack(words, LOW), unpack(words, HIGH), a0, p1, never)
            p0 = warpgroup_mma_wait(2, deps=(c0,))
            sums = add_to(sums, 0, p0, scale0)
        p1 = warpgroup_mma_wait(0, deps=(c1,))
        mbarrier.arrive(empty.index(stage), count=1)
        sums = add_to(sums, 2 * PARTS - 1, p1, scale1)
        step += 1
    return sums, step


@gluon.jit
def store_tile(values, row, first_column, num_columns, out_ptr):
    """out[row] = values [columns, tokens], from first_column on; row is -1 past the last token."""
    stored: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    values = gl.convert_layout(gl.permute(values, (1, 0)), stored)
    row = gl.convert_layout(row, gl.SliceLayout(1, stored))[:, None]
    column = first_column + gl.arange(0, values.shape[1], layout=gl.SliceLayout(0, stored))[None, :]
    gl.store(out_ptr + row.to(gl.int64) * num_columns + column, values, mask=(row >= 0) & (column < num_columns))


@gluon.jit
def multiply_tile(
    tile_n, block, expert, first_row, num_rows, step, a_scale_ptr, scale_ptr, factor_ptr, out_ptr, pairs_ptr,
    rows_per_expert, num_pairs_w, K, a_bufs, w_bufs, full, empty,
    IS_GATE_UP: gl.constexpr, WARPGROUP: gl.constexpr, PARTS: gl.constexpr, TOKENS: gl.constexpr,
    SUM_STEPS: gl.constexpr, SUM_WIDTH: gl.constexpr, LAYOUT: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Half of a tile's rows of weights, its PARTS x TOKENS first tokens; the next step."""
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 32])
    first = tile_n * GROUP + WARPGROUP * HALF
    pair_w = first + gl.arange(0, HALF, layout=gl.SliceLayout(1, summed))
    pair_w = gl.minimum(pair_w, num_pairs_w - 1)
    groups = K // GROUP
    sums, step = multiply_both(
        scale_ptr + expert.to(gl.int64) * groups * num_pairs_w + pair_w, groups, num_pairs_w, step, WARPGROUP * HALF,
        a_bufs, w_bufs, full, empty, PARTS, TOKENS, SUM_STEPS, SUM_WIDTH, STAGES,
    )  # fmt: skip
    factor_ptrs = factor_ptr + (expert * num_pairs_w + pair_w) * 2
    factor0, factor1 = gl.load(factor_ptrs)[:, None], gl.load(factor_ptrs + 1)[:, None]
    for part in gl.static_range(PARTS):
        token = part * TOKENS + gl.arange(0, TOKENS, layout=gl.SliceLayout(0, summed))
        row = block * BLOCK_SIZE_M + first_row + token
        of_token = gl.load(a_scale_ptr + row)[None, :]
        if not IS_GATE_UP:
            row = load_pairs(block, first_row + token, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
        row = gl.where(token < num_rows, row, -1)
        sum0 = sums[part] * factor0 * of_token
        sum1 = sums[PARTS + part] * factor1 * of_token
        if IS_GATE_UP:
            h = sum0 * sigmoid(sum0) * sum1
            store_tile(h.to(out_ptr.dtype.element_ty), row, first, num_pairs_w, out_ptr)
        else:
            both = gl.join(sum0.to(out_ptr.dtype.element_ty), sum1.to(out_ptr.dtype.element_ty))
            both = gl.reshape(gl.permute(both, (0, 2, 1)), (2 * HALF, TOKENS))
            store_tile(both, row, 2 * first, 2 * num_pairs_w, out_ptr)
    return step


@gluon.jit
def multiply_tiles(
    a_scale_ptr, scale_ptr, factor_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, order_ptr, rows_per_expert,
    num_blocks, num_long, num_tiles_n, num_pairs_w, K, a_bufs, w_bufs, full, empty,
    IS_GATE_UP: gl.constexpr, WARPGROUP: gl.constexpr, SUM_STEPS: gl.constexpr, SUM_WIDTH: gl.constexpr,
    LAYOUT: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: half of the rows of weights of each tile."""
    step = 0
    column, num_tiles, num_whole, half = count_tiles(num_blocks, num_long, num_tiles_n)
    tile_n, block, expert, first_row, num_rows, after = load_half(
        half, column, num_tiles, num_whole, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long,
        num_tiles_n, LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
    )  # fmt: skip
    while half < 2 * num_tiles:
        half = after
        next_n, next_block, next_expert, next_first, next_rows, after = load_half(
            half, column, num_tiles, num_whole, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long,
            num_tiles_n, LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
        )  # fmt: skip
        if num_rows > HALF:
            step = multiply_tile(
                tile_n, block, expert, first_row, num_rows, step, a_scale_ptr, scale_ptr, factor_ptr, out_ptr,
                pairs_ptr, rows_per_expert, num_pairs_w, K, a_bufs, w_bufs, full, empty,
                IS_GATE_UP, WARPGROUP, 2, HALF, SUM_STEPS, SUM_WIDTH, LAYOUT, STAGES,
            )  # fmt: skip
        elif num_rows > QUARTER:
            step = multiply_tile(
                tile_n, block, expert, first_row, num_rows, step, a_scale_ptr, scale_ptr, factor_ptr, out_ptr,
                pairs_ptr, rows_per_expert, num_pairs_w, K, a_bufs, w_bufs, full, empty,
                IS_GATE_UP, WARPGROUP, 1, HALF, SUM_STEPS, SUM_WIDTH, LAYOUT, STAGES,
            )  # fmt: skip
        elif num_rows > 0:
            step = multiply_tile(
                tile_n, block, expert, first_row, num_rows, step, a_scale_ptr, scale_ptr, factor_ptr, out_ptr,
                pairs_ptr, rows_per_expert, num_pairs_w, K, a_bufs, w_bufs, full, empty,
                IS_GATE_UP, WARPGROUP, 1, QUARTER, SUM_STEPS, SUM_WIDTH, LAYOUT, STAGES,
            )  # fmt: skip
        tile_n, block, expert, first_row, num_rows = next_n, next_block, next_expert, next_first, next_rows


@gluon.jit
def int4_hopper_kernel(
    a_desc,  # [blocks * BLOCK_SIZE_M, K] float8_e4m3fn in tiles of 128 x 128
    a_scale_ptr,  # [blocks * BLOCK_SIZE_M] float32, with the router's weight in it where rows are weighted
    sums_desc,  # [blocks * BLOCK_SIZE_M, SUM_STEPS * 128] bytes of float16, in such tiles
    w_desc,  # [E * K / 128 * num_pairs_w, 128] uint8 in such tiles: words of a pair of rows
    scale_ptr,  # [E, K / 128, num_pairs_w] int16, of two float8_e4m3fn
    factor_ptr,  # [E, num_pairs_w, 2] float32
    out_ptr,  # gate-up: [blocks * BLOCK_SIZE_M, num_pairs_w]; down: [num_pairs, 2 * num_pairs_w]
    pairs_ptr,
    experts_ptr,
    rows_ptr,
    rows_per_expert,
    num_blocks_ptr,  # [1], or None if it is max_blocks
    max_blocks,
    order_ptr,  # this and the next: see Blocks; None if num_blocks_ptr is
    num_long_ptr,
    num_pairs_w,  # of rows of weights
    K,
    IS_GATE_UP: gl.constexpr,
    SUM_STEPS: gl.constexpr,
    SUM_WIDTH: gl.constexpr,  # of a step's 64 sums those that are multiplied
    LAYOUT: gl.constexpr,
    GROUP_SIZE_M: gl.constexpr,
    STAGES: gl.constexpr,
):
    """out = silu(a @ w_gate.T) * (a @ w_up.T) by the rows of the blocks, or out[pair] = a[row of the pair] @ w.T."""
    num_blocks = max_blocks if num_blocks_ptr is None else gl.maximum(gl.load(num_blocks_ptr), 1)
    num_long = max_blocks if num_long_ptr is None else gl.load(num_long_ptr)
    num_tiles_n = gl.cdiv(num_pairs_w, GROUP)
    a_bufs, w_bufs, full, empty = make_ring(a_desc, w_desc, STAGES)
    gl.warp_specialize(
        [
            (multiply_tiles, (
                a_scale_ptr, scale_ptr, factor_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, order_ptr,
                rows_per_expert, num_blocks, num_long, num_tiles_n, num_pairs_w, K, a_bufs, w_bufs, full, empty,
                IS_GATE_UP, 0, SUM_STEPS, SUM_WIDTH, LAYOUT, GROUP_SIZE_M, STAGES,
            )),
            (multiply_tiles, (
                a_scale_ptr, scale_ptr, factor_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, order_ptr,
                rows_per_expert, num_blocks, num_long, num_tiles_n, num_pairs_w, K, a_bufs, w_bufs, full, empty,
                IS_GATE_UP, 1, SUM_STEPS, SUM_WIDTH, LAYOUT, GROUP_SIZE_M, STAGES,
            )),
            (copy_tiles, (
                a_desc, sums_desc, w_desc, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long,
                num_tiles_n, num_pairs_w, K, a_bufs, w_bufs, full, empty, SUM_STEPS, LAYOUT, GROUP_SIZE_M, STAGES,
            )),
        ],
        [4, 4],
        [240, 24],
    )  # fmt: skip
