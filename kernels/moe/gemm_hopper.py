"""The gate-up GEMM of the block scheme for Hopper, in Gluon: warps that load, and warps that multiply and scale.

What gemm.py computes with SCALING "block". There every warp waits for its products, scales and adds them up, and the
tensor core waits meanwhile. Here a program is three groups of four warps that meet at barriers in shared memory: one
copies tiles into a ring of STAGES, two multiply, so that one's products run while the other adds. A program takes tile
after tile, so that the next one's loads run under the last one's stores. The down GEMM is down_hopper.py's.

A tile is BLOCK_SIZE_M rows by two blocks of 128 rows of a weight: gate and up rows of the same columns of the
intermediate, or 256 columns of the output. A stage holds 128 columns of all three, 48 KiB. Between the two GEMMs row i
of block b is row b * BLOCK_SIZE_M + i, which the copy engine reads as a tile.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from kernels.moe.activations import scale_of
from kernels.moe.blocks_hopper import add_up, load_pairs, load_tile, make_barriers, sigmoid

GROUP: gl.constexpr = gl.constexpr(128)
BLOCK_SIZE_M: gl.constexpr = gl.constexpr(128)
HALF_M: gl.constexpr = gl.constexpr(64)
"""What wgmma multiplies at least, and a warpgroup here."""
COPYING_THREADS: gl.constexpr = gl.constexpr(128)
SUMMED: gl.constexpr = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 32]))
"""How a warpgroup holds [64, 64] sums."""
LEFT: gl.constexpr = gl.constexpr(gl.DotOperandLayout(0, SUMMED, 4))
"""And rows that are multiplied: taken from registers, they need no fence after the threads that copied them."""


@gluon.jit
def make_ring(w_desc, COPIERS: gl.constexpr, STAGES: gl.constexpr):
    """Buffers of a tile's operands; barriers: full when all COPIERS have reported, the copy engine too, and empty."""
    a_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, BLOCK_SIZE_M, GROUP], w_desc.layout)
    w0_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, GROUP, GROUP], w_desc.layout)
    w1_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, GROUP, GROUP], w_desc.layout)
    full, empty = make_barriers(COPIERS, 2, STAGES)
    return a_bufs, w0_bufs, w1_bufs, full, empty


@gluon.jit
def multiply_half(a, w, half: gl.constexpr, acc, use_acc):
    """acc + a @ w.T of half of the rows of w, on its way."""
    return warpgroup_mma(a, w.slice(half * HALF_M, HALF_M, 0).permute((1, 0)), acc, use_acc=use_acc, is_async=True)


@gluon.jit
def multiply_both(
    a_scale, w0_scale, w1_scale, a_scale_ptrs, w0_scale_ptr, w1_scale_ptr, groups, step, first_row,
    a_bufs, w0_bufs, w1_bufs, full, empty, STAGES: gl.constexpr,
):  # fmt: skip
    """64 rows of a tile times both halves of both its blocks of weights, and the next step; its first scales are given.

    Sums over 128 columns are the tensor core's, sums of these float32. While a product is added to its sum the next one
    is on its way: products take turns in two sets of registers, p0 and p1.
    """
    p0 = gl.zeros([HALF_M, HALF_M], gl.float32, layout=SUMMED)
    p1, sum00, sum01, sum10, sum11 = p0, p0, p0, p0, p0
    never = groups < 0  # which ptxas does not know, so that a product takes the registers of the one it is given
    for group in range(groups):
        stage = step % STAGES
        mbarrier.wait(full.index(stage), step // STAGES & 1)
        a = a_bufs.index(stage).slice(first_row, HALF_M, 0).load(LEFT)
        w0, w1 = w0_bufs.index(stage), w1_bufs.index(stage)
        c0 = multiply_half(a, w0, 0, p0, never)
        c1 = multiply_half(a, w0, 1, p1, never)
        scale0, scale1 = a_scale * w0_scale, a_scale * w1_scale
        ahead = gl.minimum(group + 1, groups - 1)  # its loads run behind the products
        a_scale = gl.load(a_scale_ptrs + ahead)
        w0_scale, w1_scale = gl.load(w0_scale_ptr + ahead), gl.load(w1_scale_ptr + ahead)
        p0 = warpgroup_mma_wait(1, deps=(c0,))
        sum00 = add_up(sum00, p0, scale0)
        c0 = multiply_half(a, w1, 0, p0, never)
        p1 = warpgroup_mma_wait(1, deps=(c1,))
        sum01 = add_up(sum01, p1, scale0)
        c1 = multiply_half(a, w1, 1, p1, never)
        p0 = warpgroup_mma_wait(1, deps=(c0,))
        sum10 = add_up(sum10, p0, scale1)
        p1 = warpgroup_mma_wait(0, deps=(c1,))
        mbarrier.arrive(empty.index(stage), count=1)
        sum11 = add_up(sum11, p1, scale1)
        step += 1
    return sum00, sum01, sum10, sum11, step


@gluon.jit
def copy_gate_up(
    a_ptr, w_desc, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, N, K, a_bufs, w0_bufs, w1_bufs,
    full, empty, LAYOUT: gl.constexpr, TOP_K: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: weights by the copy engine, tokens row by row from wherever they are."""
    copied: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    row = gl.arange(0, BLOCK_SIZE_M, layout=gl.SliceLayout(1, copied))
    column = gl.arange(0, GROUP, layout=gl.SliceLayout(0, copied))
    num_tiles_n, step = N // GROUP, 0
    tile_n, block, expert, num_rows = load_tile(
        gl.program_id(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
        LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
    )  # fmt: skip
    pair = load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, block, next_expert, next_rows = load_tile(
            tile + gl.num_programs(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
            LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
        )  # fmt: skip
        next_pair = load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
        if num_rows > 0:
            is_row = row < num_rows
            token = gl.where(is_row, pair // TOP_K, 0).to(gl.int64)
            a_ptrs = a_ptr + token[:, None] * K + column[None, :]
            w_row = expert * 2 * N + tile_n * GROUP
            for k in range(0, K, 2 * GROUP):  # two steps at a time: neighbouring columns come from the same pages
                stage0, stage1, two = step % STAGES, (step + 1) % STAGES, k + GROUP < K
                mbarrier.wait(empty.index(stage0), (step // STAGES & 1) ^ 1)
                mbarrier.wait(empty.index(stage1), ((step + 1) // STAGES & 1) ^ 1, pred=two)
                mbarrier.expect(full.index(stage0), 2 * GROUP * GROUP)
                mbarrier.expect(full.index(stage1), 2 * GROUP * GROUP, pred=two)
                tma.async_copy_global_to_shared(w_desc, [w_row, k], full.index(stage0), w0_bufs.index(stage0))
                tma.async_copy_global_to_shared(
                    w_desc, [w_row, k + GROUP], full.index(stage1), w0_bufs.index(stage1), pred=two
                )
                tma.async_copy_global_to_shared(w_desc, [w_row + N, k], full.index(stage0), w1_bufs.index(stage0))
                tma.async_copy_global_to_shared(
                    w_desc, [w_row + N, k + GROUP], full.index(stage1), w1_bufs.index(stage1), pred=two
                )
                async_copy.async_copy_global_to_shared(a_bufs.index(stage0), a_ptrs, mask=is_row[:, None])
                async_copy.mbarrier_arrive(full.index(stage0), increment_count=False)
                if two:
                    async_copy.async_copy_global_to_shared(a_bufs.index(stage1), a_ptrs + GROUP, mask=is_row[:, None])
                    async_copy.mbarrier_arrive(full.index(stage1), increment_count=False)
                a_ptrs += 2 * GROUP
                step += gl.where(two, 2, 1)
        tile_n, expert, num_rows, pair = next_n, next_expert, next_rows, next_pair


@gluon.jit
def multiply_gate_up(
    a_scale_ptr, w_scale_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks,
    N, K, a_bufs, w0_bufs, w1_bufs, full, empty,
    WARPGROUP: gl.constexpr, LAYOUT: gl.constexpr, TOP_K: gl.constexpr, GROUP_SIZE_M: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: 64 rows of each tile."""
    stored: gl.constexpr = gl.BlockedLayout([1, 16], [8, 4], [4, 1], [1, 0])
    row = gl.arange(0, HALF_M, layout=gl.SliceLayout(1, SUMMED)) + WARPGROUP * HALF_M
    stored_row = gl.arange(0, HALF_M, layout=gl.SliceLayout(1, stored)) + WARPGROUP * HALF_M
    column = gl.arange(0, HALF_M, layout=gl.SliceLayout(0, stored))
    num_tiles_n, groups, step = N // GROUP, K // GROUP, 0
    tile_n, block, expert, num_rows = load_tile(
        gl.program_id(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
        LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
    )  # fmt: skip
    pair = load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, next_block, next_expert, next_rows = load_tile(
            tile + gl.num_programs(0), experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
            LAYOUT, BLOCK_SIZE_M, GROUP_SIZE_M,
        )  # fmt: skip
        next_pair = load_pairs(next_block, row, pairs_ptr, rows_per_expert, LAYOUT, BLOCK_SIZE_M)
        if num_rows > WARPGROUP * HALF_M:
            token = gl.where(row < num_rows, pair // TOP_K, 0).to(gl.int64)
            a_scale_ptrs = a_scale_ptr + token * groups
            gate_scale_ptr = w_scale_ptr + (expert * 2 * num_tiles_n + tile_n).to(gl.int64) * groups
            up_scale_ptr = gate_scale_ptr + num_tiles_n * groups
            gate0, gate1, up0, up1, step = multiply_both(
                gl.load(a_scale_ptrs), gl.load(gate_scale_ptr), gl.load(up_scale_ptr),
                a_scale_ptrs, gate_scale_ptr, up_scale_ptr, groups, step, WARPGROUP * HALF_M,
                a_bufs, w0_bufs, w1_bufs, full, empty, STAGES,
            )  # fmt: skip
            h0, h1 = gate0 * sigmoid(gate0) * up0, gate1 * sigmoid(gate1) * up1
            amax = gl.max(gl.maximum(gl.abs(h0), gl.abs(h1)), 1)
            scale = scale_of(amax)
            factor = (1.0 / scale)[:, None]
            h0 = (h0 * factor).to(out_ptr.dtype.element_ty)  # saturates
            h1 = (h1 * factor).to(out_ptr.dtype.element_ty)
            first = block.to(gl.int64) * BLOCK_SIZE_M
            gl.store(out_scale_ptr + (first + row) * num_tiles_n + tile_n, scale, mask=row < num_rows)
            out_ptrs = out_ptr + (first + stored_row)[:, None] * N + (tile_n * GROUP + column)[None, :]
            gl.store(out_ptrs, gl.convert_layout(h0, stored), mask=(stored_row < num_rows)[:, None])
            gl.store(out_ptrs + HALF_M, gl.convert_layout(h1, stored), mask=(stored_row < num_rows)[:, None])
        elif num_rows > 0:  # too few rows for these warps, but the ring turns for all
            for _ in range(groups):
                mbarrier.wait(full.index(step % STAGES), step // STAGES & 1)
                mbarrier.arrive(empty.index(step % STAGES), count=1)
                step += 1
        tile_n, block, expert, num_rows, pair = next_n, next_block, next_expert, next_rows, next_pair


@gluon.jit
def moe_gate_up_hopper_kernel(
    a_ptr,  # [rows, K] float8_e4m3fn; rows are pairs, or tokens that have TOP_K pairs each
    a_scale_ptr,  # [rows, K / 128]
    w_desc,  # [E * 2 N, K] float8_e4m3fn in tiles of 128 x 128: of each expert gate rows, then up rows
    w_scale_ptr,  # [E, 2 N / 128, K / 128]
    out_ptr,  # [num_blocks * BLOCK_SIZE_M, N] float8_e4m3fn
    out_scale_ptr,  # [num_blocks * BLOCK_SIZE_M, N / 128]
    pairs_ptr,
    experts_ptr,
    rows_ptr,
    rows_per_expert,
    num_blocks_ptr,  # [1], or None if it is max_blocks
    max_blocks,
    N,
    K,
    LAYOUT: gl.constexpr,
    TOP_K: gl.constexpr,
    GROUP_SIZE_M: gl.constexpr,
    STAGES: gl.constexpr,
):
    """out = q(silu(a @ w_gate.T) * (a @ w_up.T)), by the rows of the blocks."""
    gl.static_assert(STAGES > 1, "two steps are loaded at a time")
    num_blocks = max_blocks if num_blocks_ptr is None else gl.maximum(gl.load(num_blocks_ptr), 1)
    a_bufs, w0_bufs, w1_bufs, full, empty = make_ring(w_desc, 1 + COPYING_THREADS, STAGES)  # each reports its rows
    gl.warp_specialize(
        [
            (multiply_gate_up, (
                a_scale_ptr, w_scale_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert,
                num_blocks, N, K, a_bufs, w0_bufs, w1_bufs, full, empty, 0, LAYOUT, TOP_K, GROUP_SIZE_M, STAGES,
            )),
            (multiply_gate_up, (
                a_scale_ptr, w_scale_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert,
                num_blocks, N, K, a_bufs, w0_bufs, w1_bufs, full, empty, 1, LAYOUT, TOP_K, GROUP_SIZE_M, STAGES,
            )),
            (copy_gate_up, (
                a_ptr, w_desc, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, N, K,
                a_bufs, w0_bufs, w1_bufs, full, empty, LAYOUT, TOP_K, GROUP_SIZE_M, STAGES,
            )),
        ],
        [4, 4],
        [232, 40],
    )  # fmt: skip
