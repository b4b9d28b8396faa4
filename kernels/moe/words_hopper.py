"""The GEMMs of the MoE with repacked FP4 weights for Hopper, in Gluon: gate-up with SiLU-and-mul, and down.

What gemm_words.py computes. There each warp loads, unpacks and multiplies in turn, and memory waits meanwhile. Here a
program is three groups of four warps that meet at barriers in shared memory, as in gemm_hopper.py: one copies tiles
into a ring of STAGES, two take words out of it, unpack them into the registers that the tensor core reads its left
operand from, and multiply ROWS rows of weights each by a block's tokens. A program takes tile after tile, so that the
next one's loads run under the last one's stores.

Words are by lanes (kernels/gemm/w4_words.py): a lane has 16 bytes of a row, and one scale serves half of them. Tokens
come with their columns in the order in which lanes multiply them, in whole steps (columns.py), and gate-up leaves its
columns in it, since the rows of w1 are in that order.

Few tokens are multiplied by each warp for itself, which may be as few as 8: a wgmma that takes weights from registers
costs as much for 16 tokens as for 32. BY_WARPGROUP it is wgmma.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    mma_v2,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.gemm.w4_tile import E2M1_QUARTER_0, E2M1_QUARTER_1, E2M1_QUARTER_2, E2M1_QUARTER_3
from kernels.moe.blocks_hopper import load_pairs, load_tile, make_barriers, sigmoid

STEP: gl.constexpr = gl.constexpr(128)
HALF: gl.constexpr = gl.constexpr(64)
"""Of a step's columns."""
COPYING_THREADS: gl.constexpr = gl.constexpr(128)


@gluon.constexpr_function
def words_layout(rows):
    """How a warpgroup reads rows of 32 words, two rows a line: 16 bytes of a row at a time."""
    return gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [0, 4], [4, 0]] + [[32, 0]] * (rows // 128),
        [[0, 8], [0, 16], [0, 32], [1, 0], [2, 0]],
        [[8, 0], [16, 0]],
        [],
        [rows // 2, 64],
    )


@gluon.constexpr_function
def scales_layout(rows):
    """How it reads their scales, 16 rows a line: one or two bytes, of what a thread has of a row."""
    return gl.DistributedLinearLayout(
        [[0, 32]] + [[4, 0]] * (rows // 128),
        [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16]],
        [[1, 0], [2, 0]],
        [],
        [rows // 16, 64],
    )


@gluon.constexpr_function
def lanes_layout(rows):
    """The same words by [row // 2, row % 2, lane of four, register, half of it]."""
    return gl.DistributedLinearLayout(
        [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 2, 0], [4, 0, 0, 0, 0]] + [[32, 0, 0, 0, 0]] * (rows // 128),
        [[0, 0, 1, 0, 0], [0, 0, 2, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [2, 0, 0, 0, 0]],
        [[8, 0, 0, 0, 0], [16, 0, 0, 0, 0]],
        [],
        [rows // 2, 2, 4, 4, 2],
    )


@gluon.jit
def unpack_half(words, scales, HALF_OF_STEP: gl.constexpr, ROWS: gl.constexpr):
    """64 columns of ROWS rows as bfloat16: two quarters, of which one lane's columns have one scale.

    nvfp4: int16 scales, a byte for each half of the step; mxfp4: int8, for both.
    """
    byte = (scales.to(gl.int32) >> (8 if HALF_OF_STEP and scales.dtype == gl.int16 else 0)) & 0xFF
    bits = (byte << 4) + 0x7000 if scales.dtype == gl.int16 else byte << 7
    factor = bits.to(gl.int16).to(gl.bfloat16, bitcast=True)
    factor = gl.expand_dims(gl.expand_dims(factor, 3), 4)
    first: gl.constexpr = E2M1_QUARTER_2 if HALF_OF_STEP else E2M1_QUARTER_0
    second: gl.constexpr = E2M1_QUARTER_3 if HALF_OF_STEP else E2M1_QUARTER_1
    values0 = gl.inline_asm_elementwise(first, "=r,r", [words], dtype=gl.bfloat16, is_pure=True, pack=2) * factor
    values1 = gl.inline_asm_elementwise(second, "=r,r", [words], dtype=gl.bfloat16, is_pure=True, pack=2) * factor
    values = gl.permute(gl.join(values0, values1), (0, 1, 5, 3, 2, 4))
    return gl.reshape(values, (ROWS, HALF))


@gluon.jit
def copy_tiles(
    a_ptr, w_desc, scales_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_rows_w, num_steps,
    a_bufs, w_bufs, s_bufs, full, empty,
    LAYOUT: gl.constexpr, TOP_K: gl.constexpr, BLOCK_SIZE_M: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: words by the copy engine, their scales and tokens' rows from wherever these are."""
    copied: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    row = gl.arange(0, BLOCK_SIZE_M, layout=gl.SliceLayout(1, copied))
    column = gl.arange(0, HALF, layout=gl.SliceLayout(0, copied))
    scale = gl.arange(0, ROWS // 8, layout=gl.SliceLayout(1, copied))[:, None] * 64 + column[None, :]
    num_tiles_n, step = gl.cdiv(num_rows_w, 2 * ROWS), 0
    tile_n, block, expert, num_rows = load_tile(
        gl.program_id(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, LAYOUT, BLOCK_SIZE_M, 1
    )
    pair = load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, block, next_expert, next_rows = load_tile(
            tile + gl.num_programs(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
            LAYOUT, BLOCK_SIZE_M, 1,
        )  # fmt: skip
        next_pair = load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
        if num_rows > 0:
            is_row = row < num_rows
            token = gl.where(is_row, pair // TOP_K, 0).to(gl.int64)
            a_ptrs = a_ptr + token[:, None] * (num_steps * STEP) + column[None, :]
            first = expert * num_steps * num_rows_w + tile_n * 2 * ROWS
            left = (num_rows_w - tile_n * 2 * ROWS) * 4
            scale_ptrs = scales_ptr + first.to(gl.int64) * 4 + scale
            for _ in range(num_steps):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(stage), 2 * ROWS * 64)
                tma.async_copy_global_to_shared(w_desc, [first // 2, 0], full.index(stage), w_bufs.index(stage))
                async_copy.async_copy_global_to_shared(s_bufs.index(stage), scale_ptrs, mask=scale < left)
                async_copy.async_copy_global_to_shared(a_bufs.index(2 * stage), a_ptrs, mask=is_row[:, None])
                async_copy.async_copy_global_to_shared(a_bufs.index(2 * stage + 1), a_ptrs + HALF, mask=is_row[:, None])
                async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
                a_ptrs += STEP
                scale_ptrs += num_rows_w * 4
                first += num_rows_w
                step += 1
        tile_n, expert, num_rows, pair = next_n, next_expert, next_rows, next_pair


@gluon.jit
def multiply_tiles(
    factor_ptr, topk_weights_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_rows_w,
    num_steps, out_columns, a_bufs, w_bufs, s_bufs, full, empty,
    WARPGROUP: gl.constexpr, GATED: gl.constexpr, LAYOUT: gl.constexpr, BLOCK_SIZE_M: gl.constexpr,
    ROWS: gl.constexpr, BY_WARPGROUP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: ROWS rows of each tile."""
    summed: gl.constexpr = (
        gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_SIZE_M, 16])
        if BY_WARPGROUP
        else gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8])
    )
    left: gl.constexpr = gl.DotOperandLayout(0, summed, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, summed, 2)
    lanes: gl.constexpr = lanes_layout(ROWS)
    stored: gl.constexpr = gl.BlockedLayout([8, 1], [4 if GATED else 8, 8 if GATED else 4], [1, 4], [0, 1])
    OUT_ROWS: gl.constexpr = ROWS // 2 if GATED else ROWS
    row_w = gl.arange(0, ROWS, layout=gl.SliceLayout(1, summed)) + WARPGROUP * ROWS
    column = gl.arange(0, BLOCK_SIZE_M, layout=gl.SliceLayout(0, summed))
    stored_column = gl.arange(0, BLOCK_SIZE_M, layout=gl.SliceLayout(0, stored))
    stored_row = gl.arange(0, OUT_ROWS, layout=gl.SliceLayout(1, stored)) + WARPGROUP * OUT_ROWS
    num_tiles_n, step = gl.cdiv(num_rows_w, 2 * ROWS), 0
    num_out_rows = num_rows_w // 2 if GATED else num_rows_w
    tile_n, block, expert, num_rows = load_tile(
        gl.program_id(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, LAYOUT, BLOCK_SIZE_M, 1
    )
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, next_block, next_expert, next_rows = load_tile(
            tile + gl.num_programs(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
            LAYOUT, BLOCK_SIZE_M, 1,
        )  # fmt: skip
        if num_rows > 0:
            stored_pair = load_pairs(block, stored_column, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
            stored_pair = gl.where(stored_column < num_rows, stored_pair, 0).to(gl.int64)
            rows = tile_n * 2 * ROWS + row_w
            factor = gl.load(factor_ptr + expert * num_rows_w + rows, mask=rows < num_rows_w, other=0.0)
            if topk_weights_ptr is not None:
                pair = load_pairs(block, column, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
                weight = gl.load(topk_weights_ptr + pair, mask=column < num_rows, other=0.0)
            acc = gl.zeros([ROWS, BLOCK_SIZE_M], gl.float32, layout=summed)
            for _ in range(num_steps):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), step // STAGES & 1)
                if BY_WARPGROUP:
                    fence_async_shared()  # threads wrote what wgmma reads
                words = w_bufs.index(stage).slice(WARPGROUP * ROWS // 2, ROWS // 2, 0).load(words_layout(ROWS))
                scales = s_bufs.index(stage).slice(WARPGROUP * ROWS // 16, ROWS // 16, 0).load(scales_layout(ROWS))
                words = gl.convert_layout(gl.reshape(words, (ROWS // 2, 2, 4, 4, 2)), lanes)
                scales = gl.reshape(scales, (ROWS // 2, 2, 4))
                scales = gl.convert_layout(scales, gl.SliceLayout(3, gl.SliceLayout(4, lanes)))
                for half in gl.static_range(2):
                    w = unpack_half(words, scales, half, ROWS).to(a_bufs.dtype)
                    w = gl.convert_layout(w, left, assert_trivial=True)
                    a = a_bufs.index(2 * stage + half).permute((1, 0))
                    acc = warpgroup_mma(w, a, acc, is_async=True) if BY_WARPGROUP else mma_v2(w, a.load(right), acc)
                if BY_WARPGROUP:
                    acc = warpgroup_mma_wait(0, deps=(acc,))
                mbarrier.arrive(empty.index(stage), count=1)
                step += 1
            acc *= factor[:, None]
            if topk_weights_ptr is not None:
                acc *= weight[None, :]
            if GATED:  # eight rows of each in turn: a thread has both
                acc = gl.permute(gl.reshape(acc, (ROWS // 16, 2, 8, BLOCK_SIZE_M)), (0, 2, 3, 1))
                gate, up = gl.split(acc)
                acc = gl.reshape(gate * sigmoid(gate) * up, (OUT_ROWS, BLOCK_SIZE_M))
            out = gl.convert_layout(acc.to(out_ptr.dtype.element_ty), stored)
            n = tile_n * 2 * OUT_ROWS + stored_row
            mask = (n < num_out_rows)[:, None] & (stored_column < num_rows)[None, :]
            gl.store(out_ptr + stored_pair[None, :] * out_columns + n[:, None], out, mask)
        tile_n, block, expert, num_rows = next_n, next_block, next_expert, next_rows


@gluon.jit
def words_hopper_kernel(
    a_ptr,  # [rows, columns in whole steps] values, in order_columns; rows are pairs, or tokens with TOP_K pairs each
    w_desc,  # [E * steps * num_rows_w / 2, 64] int16 in tiles of ROWS x 64
    scales_ptr,  # [E, steps, num_rows_w, 4] int16 (nvfp4) or int8 (mxfp4)
    factor_ptr,  # [E, num_rows_w]
    topk_weights_ptr,  # [num_pairs] of what is multiplied, or None
    out_ptr,  # [num_pairs, out_columns] values; GATED: in order_columns
    pairs_ptr,
    experts_ptr,
    rows_ptr,
    rows_per_expert,
    num_blocks_ptr,  # [1], or None if it is max_blocks
    max_blocks,
    num_rows_w,
    num_steps,
    out_columns,
    GATED: gl.constexpr,
    LAYOUT: gl.constexpr,
    TOP_K: gl.constexpr,
    BLOCK_SIZE_M: gl.constexpr,
    ROWS: gl.constexpr,
    BY_WARPGROUP: gl.constexpr,
    STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,
    COPYING_REGISTERS: gl.constexpr,
):
    """out = a @ w.T; GATED: silu(a @ w_gate.T) * (a @ w_up.T), eight rows of each in turn in w."""
    num_blocks = max_blocks if num_blocks_ptr is None else gl.maximum(gl.load(num_blocks_ptr), 1)
    a_layout: gl.constexpr = gl.NVMMASharedLayout(128, 16)
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    a_bufs = gl.allocate_shared_memory(a_ptr.dtype.element_ty, [2 * STAGES, BLOCK_SIZE_M, HALF], a_layout)
    w_bufs = gl.allocate_shared_memory(gl.int16, [STAGES, ROWS, 64], w_desc.layout)
    s_bufs = gl.allocate_shared_memory(scales_ptr.dtype.element_ty, [STAGES, ROWS // 8, 64], plain)
    full, empty = make_barriers(1 + COPYING_THREADS, 2, STAGES)
    gl.warp_specialize(
        [
            (multiply_tiles, (
                factor_ptr, topk_weights_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks,
                num_rows_w, num_steps, out_columns, a_bufs, w_bufs, s_bufs, full, empty,
                0, GATED, LAYOUT, BLOCK_SIZE_M, ROWS, BY_WARPGROUP, STAGES,
            )),
            (multiply_tiles, (
                factor_ptr, topk_weights_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks,
                num_rows_w, num_steps, out_columns, a_bufs, w_bufs, s_bufs, full, empty,
                1, GATED, LAYOUT, BLOCK_SIZE_M, ROWS, BY_WARPGROUP, STAGES,
            )),
            (copy_tiles, (
                a_ptr, w_desc, scales_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_rows_w,
                num_steps, a_bufs, w_bufs, s_bufs, full, empty, LAYOUT, TOP_K, BLOCK_SIZE_M, ROWS, STAGES,
            )),
        ],
        [4, 4],
        [REGISTERS, COPYING_REGISTERS],
    )  # fmt: skip
