"""The down GEMM of the block scheme for Hopper, in Gluon: as the gate-up GEMM of gemm_hopper.py, on rows of blocks.

Its tiles are short, two steps if N is 256. So what a tile begins with, its first scales, is loaded before the sums of
the one before are stored, and of a block that has no more than 64 rows no more are copied.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma_wait

from kernels.moe.blocks_hopper import add_up, load_pairs, load_tile
from kernels.moe.gemm_hopper import BLOCK_SIZE_M, GROUP, HALF_M, LEFT, SUMMED, make_ring, multiply_both, multiply_half

TILE_N: gl.constexpr = gl.constexpr(256)
"""Columns of the output of a tile."""


@gluon.jit
def copy_down(
    a_desc, w_desc, experts_ptr, rows_ptr, rows_per_expert, num_blocks, N, K, a_bufs, w0_bufs, w1_bufs, full, empty,
    LAYOUT: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps, of which one thread asks the copy engine for everything."""
    a_halves = a_bufs._reinterpret(a_desc.dtype, [2 * STAGES, HALF_M, GROUP], a_desc.layout)
    num_tiles_n, step = gl.cdiv(K, TILE_N), 0
    tile_n, block, expert, num_rows = load_tile(
        gl.program_id(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
        LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
    )  # fmt: skip
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, next_block, next_expert, next_rows = load_tile(
            tile + gl.num_programs(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
            LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
        )  # fmt: skip
        if num_rows > 0:
            a_row, w_row = block * BLOCK_SIZE_M, expert * K + tile_n * TILE_N
            is_long = num_rows > HALF_M
            for n in range(0, N, GROUP):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(stage), (2 * GROUP + HALF_M) * GROUP, pred=num_rows <= HALF_M)
                mbarrier.expect(full.index(stage), (2 * GROUP + BLOCK_SIZE_M) * GROUP, pred=is_long)
                tma.async_copy_global_to_shared(w_desc, [w_row, n], full.index(stage), w0_bufs.index(stage))
                tma.async_copy_global_to_shared(w_desc, [w_row + GROUP, n], full.index(stage), w1_bufs.index(stage))
                tma.async_copy_global_to_shared(a_desc, [a_row, n], full.index(stage), a_halves.index(2 * stage))
                tma.async_copy_global_to_shared(
                    a_desc, [a_row + HALF_M, n], full.index(stage), a_halves.index(2 * stage + 1), pred=is_long
                )
                step += 1
        tile_n, block, expert, num_rows = next_n, next_block, next_expert, next_rows


@gluon.jit
def store_down(acc, pair, out_ptr, columns, K, stored: gl.constexpr):
    """out[pair] = acc, [64, 64] of a block's rows; pairs are -1 past the last."""
    pair = gl.convert_layout(pair, gl.SliceLayout(1, stored))[:, None]
    out_ptrs = out_ptr + pair.to(gl.int64) * K + columns[None, :]
    acc = gl.convert_layout(acc.to(out_ptr.dtype.element_ty), stored)
    gl.store(out_ptrs, acc, mask=(pair >= 0) & (columns < K)[None, :])


@gluon.jit
def load_first_scales(
    tile_n, block, expert, num_rows, half_row, a_scale_ptr, w_scale_ptr, groups, k_groups, WARPGROUP: gl.constexpr
):
    """Where a warpgroup's scales of a tile are, of its rows and both its blocks of weights, and the first of them."""
    row = half_row + gl.where(num_rows > HALF_M, WARPGROUP * HALF_M, 0)
    a_scale_ptrs = a_scale_ptr + (block.to(gl.int64) * BLOCK_SIZE_M + row) * groups
    expert = gl.where(num_rows > 0, expert, 0)  # undefined if there is no block at all
    w_scale_ptr += expert.to(gl.int64) * k_groups * groups
    w0_scale_ptr = w_scale_ptr + 2 * tile_n * groups
    w1_scale_ptr = w_scale_ptr + gl.minimum(2 * tile_n + 1, k_groups - 1) * groups
    return a_scale_ptrs, w0_scale_ptr, w1_scale_ptr, gl.load(a_scale_ptrs), gl.load(w0_scale_ptr), gl.load(w1_scale_ptr)


@gluon.jit
def multiply_down(
    a_scale_ptr, w_scale_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert,
    num_blocks, N, K, a_bufs, w0_bufs, w1_bufs, full, empty,
    WARPGROUP: gl.constexpr, LAYOUT: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: 64 rows of each tile, or of a tile that has no more, half of its columns."""
    stored: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    half_row = gl.arange(0, HALF_M, layout=gl.SliceLayout(1, SUMMED))
    column = gl.arange(0, HALF_M, layout=gl.SliceLayout(0, stored))
    zeros = gl.zeros([HALF_M, HALF_M], gl.float32, layout=SUMMED)
    num_tiles_n, groups, k_groups, step = gl.cdiv(K, TILE_N), N // GROUP, K // GROUP, 0
    tile_n, block, expert, num_rows = load_tile(
        gl.program_id(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
        LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
    )  # fmt: skip
    a_scale_ptrs, w0_scale_ptr, w1_scale_ptr, a_scale, w0_scale, w1_scale = load_first_scales(
        tile_n, block, expert, num_rows, half_row, a_scale_ptr, w_scale_ptr, groups, k_groups, WARPGROUP
    )
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, next_block, next_expert, next_rows = load_tile(
            tile + gl.num_programs(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
            LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
        )  # fmt: skip
        row = half_row + gl.where(num_rows > HALF_M, WARPGROUP * HALF_M, 0)
        pair = load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
        pair = gl.where(row < num_rows, pair, -1)
        if num_rows > HALF_M:
            acc0, acc1, acc2, acc3, step = multiply_both(
                a_scale, w0_scale, w1_scale, a_scale_ptrs, w0_scale_ptr, w1_scale_ptr, groups, step,
                WARPGROUP * HALF_M, a_bufs, w0_bufs, w1_bufs, full, empty, STAGES,
            )  # fmt: skip
            a_scale_ptrs, w0_scale_ptr, w1_scale_ptr, a_scale, w0_scale, w1_scale = load_first_scales(
                next_n, next_block, next_expert, next_rows, half_row, a_scale_ptr, w_scale_ptr, groups, k_groups,
                WARPGROUP,
            )  # fmt: skip
            store_down(acc0, pair, out_ptr, tile_n * TILE_N + column, K, stored)
            store_down(acc1, pair, out_ptr, tile_n * TILE_N + column + HALF_M, K, stored)
            store_down(acc2, pair, out_ptr, tile_n * TILE_N + column + GROUP, K, stored)
            store_down(acc3, pair, out_ptr, tile_n * TILE_N + column + GROUP + HALF_M, K, stored)
        else:
            w_bufs = w1_bufs if WARPGROUP else w0_bufs
            w_scale_ptrs = w1_scale_ptr if WARPGROUP else w0_scale_ptr
            acc0, acc1, p0, p1 = zeros, zeros, zeros, zeros
            never = groups < 0
            scale = a_scale * (w1_scale if WARPGROUP else w0_scale)
            for group in range(gl.where(num_rows > 0, groups, 0)):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), step // STAGES & 1)
                a = a_bufs.index(stage).slice(0, HALF_M, 0).load(LEFT)
                w = w_bufs.index(stage)
                c0 = multiply_half(a, w, 0, p0, never)
                c1 = multiply_half(a, w, 1, p1, never)
                ahead = gl.minimum(group + 1, groups - 1)
                next_scale = gl.load(a_scale_ptrs + ahead) * gl.load(w_scale_ptrs + ahead)
                p0 = warpgroup_mma_wait(1, deps=(c0,))
                acc0 = add_up(acc0, p0, scale)
                p1 = warpgroup_mma_wait(0, deps=(c1,))
                mbarrier.arrive(empty.index(stage), count=1)
                acc1 = add_up(acc1, p1, scale)
                scale = next_scale
                step += 1
            a_scale_ptrs, w0_scale_ptr, w1_scale_ptr, a_scale, w0_scale, w1_scale = load_first_scales(
                next_n, next_block, next_expert, next_rows, half_row, a_scale_ptr, w_scale_ptr, groups, k_groups,
                WARPGROUP,
            )  # fmt: skip
            columns = column + WARPGROUP * GROUP
            store_down(acc0, pair, out_ptr, tile_n * TILE_N + columns, K, stored)
            store_down(acc1, pair, out_ptr, tile_n * TILE_N + columns + HALF_M, K, stored)
        tile_n, block, expert, num_rows = next_n, next_block, next_expert, next_rows


@gluon.jit
def moe_down_hopper_kernel(
    a_desc,  # [num_blocks * BLOCK_SIZE_M, N] float8_e4m3fn in tiles of 64 x 128
    a_scale_ptr,  # [num_blocks * BLOCK_SIZE_M, N / 128]
    w_desc,  # [E * K, N] float8_e4m3fn in tiles of 128 x 128
    w_scale_ptr,  # [E, K / 128, N / 128]
    out_ptr,  # [num_pairs, K] values
    pairs_ptr,
    experts_ptr,
    rows_ptr,
    rows_per_expert,
    num_blocks_ptr,  # [1], or None if it is max_blocks
    max_blocks,
    N,
    K,
    LAYOUT: gl.constexpr,
    GROUP_SIZE_M: gl.constexpr,
    STAGES: gl.constexpr,
):
    """out[pair] = a[row of the pair] @ w.T."""
    num_blocks = max_blocks if num_blocks_ptr is None else gl.maximum(gl.load(num_blocks_ptr), 1)
    a_bufs, w0_bufs, w1_bufs, full, empty = make_ring(w_desc, 1, STAGES)
    gl.warp_specialize(
        [
            (multiply_down, (
                a_scale_ptr, w_scale_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert,
                num_blocks, N, K, a_bufs, w0_bufs, w1_bufs, full, empty, 0, LAYOUT, GROUP_SIZE_M, STAGES,
            )),
            (multiply_down, (
                a_scale_ptr, w_scale_ptr, out_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert,
                num_blocks, N, K, a_bufs, w0_bufs, w1_bufs, full, empty, 1, LAYOUT, GROUP_SIZE_M, STAGES,
            )),
            (copy_down, (
                a_desc, w_desc, experts_ptr, rows_ptr, rows_per_expert, num_blocks, N, K,
                a_bufs, w0_bufs, w1_bufs, full, empty, LAYOUT, GROUP_SIZE_M, STAGES,
            )),
        ],
        [4, 4],
        [232, 40],
    )  # fmt: skip
