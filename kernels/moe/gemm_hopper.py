"""The GEMMs of the block scheme for Hopper, in Gluon: warps that load, and warps that multiply and scale.

What gemm.py computes with SCALING "block", SWAP_AB off. There every warp waits for its products, scales and adds them
up, and the tensor core waits meanwhile. Here a program is three groups of four warps that meet at barriers in shared
memory: one copies tiles into a ring of STAGES, two multiply 64 rows each, so that one's products run while the other
adds. A program takes tile after tile, so that the next one's loads run under the last one's stores.

A tile is BLOCK_SIZE_M tokens by two blocks of 128 rows of a weight: gate and up rows of the same columns of the
intermediate, or 256 columns of the output. A stage holds 128 columns of all three, 48 KiB.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

GROUP: gl.constexpr = gl.constexpr(128)
BLOCK_SIZE_M: gl.constexpr = gl.constexpr(128)
ROWS_OF_A_WARPGROUP: gl.constexpr = gl.constexpr(64)
COPYING_THREADS: gl.constexpr = gl.constexpr(128)


@gluon.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) but for the last bits, in four instructions instead of twenty."""
    return gl.inline_asm_elementwise(
        "mul.f32 $0, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 $0, $0; add.f32 $0, $0, 0f3F800000; rcp.approx.ftz.f32 $0, $0;",
        "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def load_tile(
    tile, row, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
    LAYOUT: gl.constexpr, GROUP_SIZE_M: gl.constexpr,
):  # fmt: skip
    """What a tile is of: its column, its expert, how many rows it has, and the pairs of some of its rows.

    Past the last tile it is any tile, so that all of it can be loaded before it is known to be needed.
    """
    tile = gl.minimum(tile, num_blocks * num_tiles_n - 1)
    first_block = tile // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    blocks_of_group = gl.minimum(num_blocks - first_block, GROUP_SIZE_M)
    in_group = tile % (GROUP_SIZE_M * num_tiles_n)
    block, tile_n = first_block + in_group % blocks_of_group, in_group // blocks_of_group
    if LAYOUT == "batched":
        blocks_per_expert = gl.cdiv(rows_per_expert, BLOCK_SIZE_M)
        expert, first = block // blocks_per_expert, block % blocks_per_expert * BLOCK_SIZE_M
        num_rows = gl.minimum(gl.load(rows_ptr + expert) - first, BLOCK_SIZE_M)
        pair = expert * rows_per_expert + gl.minimum(first + row, rows_per_expert - 1)
    else:
        expert = gl.load(experts_ptr + block)
        num_rows = gl.load(rows_ptr + block)
        pair = gl.load(pairs_ptr + block * BLOCK_SIZE_M + row)
    return tile_n, expert, num_rows, pair


@gluon.jit
def copy_tiles(
    a_ptr, w_desc, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, w_rows, k,
    a_bufs, w0_bufs, w1_bufs, full, empty,
    LAYOUT: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: weights by the copy engine, tokens row by row from wherever they are."""
    copied: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    row = gl.arange(0, BLOCK_SIZE_M, layout=gl.SliceLayout(1, copied))
    column = gl.arange(0, GROUP, layout=gl.SliceLayout(0, copied))
    step = 0
    tile_n, expert, num_rows, pair = load_tile(
        gl.program_id(0), row, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
        LAYOUT, GROUP_SIZE_M,
    )  # fmt: skip
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, next_expert, next_rows, next_pair = load_tile(
            tile + gl.num_programs(0), row, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks,
            num_tiles_n, LAYOUT, GROUP_SIZE_M,
        )  # fmt: skip
        if num_rows > 0:
            is_row = row < num_rows
            token = gl.where(is_row, pair // TOP_K, 0).to(gl.int64)
            a_ptrs = a_ptr + token[:, None] * k + column[None, :]
            w_row0 = expert * w_rows + tile_n * (GROUP if GATED else 2 * GROUP)
            w_row1 = w_row0 + (w_rows // 2 if GATED else GROUP)
            for offset in range(0, k, GROUP):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(stage), 2 * GROUP * GROUP)
                tma.async_copy_global_to_shared(w_desc, [w_row0, offset], full.index(stage), w0_bufs.index(stage))
                tma.async_copy_global_to_shared(w_desc, [w_row1, offset], full.index(stage), w1_bufs.index(stage))
                async_copy.async_copy_global_to_shared(a_bufs.index(stage), a_ptrs, mask=is_row[:, None])
                async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
                a_ptrs += GROUP
                step += 1
        tile_n, expert, num_rows, pair = next_n, next_expert, next_rows, next_pair


@gluon.jit
def multiply_tiles(
    a_scale_ptr, w_scale_ptr, topk_weights_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr,
    rows_per_expert, num_blocks, num_tiles_n, w_rows, k,
    a_bufs, w0_bufs, w1_bufs, full, empty,
    WARPGROUP: gl.constexpr, LAYOUT: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr,
    GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: 64 rows of each tile, the sum of each 128 columns by the tensor core, sums of these in float32."""
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    stored: gl.constexpr = gl.BlockedLayout([1, 16 if GATED else 8], [4, 8] if GATED else [2, 16], [4, 1], [1, 0])
    first_row: gl.constexpr = WARPGROUP * ROWS_OF_A_WARPGROUP
    row = gl.arange(0, ROWS_OF_A_WARPGROUP, layout=gl.SliceLayout(1, summed)) + first_row
    column = gl.arange(0, GROUP, layout=gl.SliceLayout(0, stored))
    zeros = gl.zeros([ROWS_OF_A_WARPGROUP, GROUP], gl.float32, layout=summed)
    groups, w_groups = k // GROUP, w_rows // GROUP
    step = 0
    tile_n, expert, num_rows, pair = load_tile(
        gl.program_id(0), row, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n,
        LAYOUT, GROUP_SIZE_M,
    )  # fmt: skip
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        next_n, next_expert, next_rows, next_pair = load_tile(
            tile + gl.num_programs(0), row, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks,
            num_tiles_n, LAYOUT, GROUP_SIZE_M,
        )  # fmt: skip
        if num_rows > first_row:
            is_row = row < num_rows
            pair = gl.where(is_row, pair, 0)
            a_scale_ptrs = a_scale_ptr + (pair // TOP_K).to(gl.int64) * groups
            group0 = tile_n if GATED else 2 * tile_n
            group1 = group0 + w_groups // 2 if GATED else gl.minimum(group0 + 1, w_groups - 1)
            w0_scale_ptr = w_scale_ptr + (expert * w_groups + group0).to(gl.int64) * groups
            w1_scale_ptr = w_scale_ptr + (expert * w_groups + group1).to(gl.int64) * groups
            sum0, sum1 = zeros, zeros
            a_scale, w0_scale, w1_scale = gl.load(a_scale_ptrs), gl.load(w0_scale_ptr), gl.load(w1_scale_ptr)
            for group in range(groups):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), step // STAGES & 1)
                fence_async_shared()  # wgmma reads what threads wrote
                a = a_bufs.index(stage).slice(first_row, ROWS_OF_A_WARPGROUP, 0)
                product = warpgroup_mma(a, w0_bufs.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
                scale0, scale1 = a_scale * w0_scale, a_scale * w1_scale
                ahead = gl.minimum(group + 1, groups - 1)  # its loads run behind the products
                a_scale = gl.load(a_scale_ptrs + ahead)
                w0_scale, w1_scale = gl.load(w0_scale_ptr + ahead), gl.load(w1_scale_ptr + ahead)
                sum0 += warpgroup_mma_wait(0, deps=(product,)) * scale0[:, None]
                product = warpgroup_mma(a, w1_bufs.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
                product = warpgroup_mma_wait(0, deps=(product,))
                mbarrier.arrive(empty.index(stage), count=1)
                sum1 += product * scale1[:, None]
                step += 1
            rows_out = gl.convert_layout(gl.where(is_row, pair, -1), gl.SliceLayout(1, stored))[:, None]
            if GATED:
                h = sum0 * sigmoid(sum0) * sum1
                h_scale = gl.maximum(gl.max(gl.abs(h), 1), 1e-10) / 448.0
                gl.store(out_scale_ptr + pair.to(gl.int64) * (w_groups // 2) + tile_n, h_scale, mask=is_row)
                codes = (h * (1.0 / h_scale)[:, None]).to(out_ptr.dtype.element_ty)  # saturates
                out_ptrs = out_ptr + rows_out.to(gl.int64) * (w_rows // 2) + (tile_n * GROUP + column)[None, :]
                gl.store(out_ptrs, gl.convert_layout(codes, stored), mask=rows_out >= 0)
            else:
                if topk_weights_ptr is not None:
                    weight = gl.load(topk_weights_ptr + pair, mask=is_row, other=0.0)[:, None]
                    sum0 *= weight
                    sum1 *= weight
                dtype: gl.constexpr = out_ptr.dtype.element_ty
                columns_out = (tile_n * 2 * GROUP + column)[None, :]
                out_ptrs = out_ptr + rows_out.to(gl.int64) * w_rows + columns_out
                gl.store(out_ptrs, gl.convert_layout(sum0.to(dtype), stored), mask=rows_out >= 0)
                mask = (rows_out >= 0) & (columns_out + GROUP < w_rows)
                gl.store(out_ptrs + GROUP, gl.convert_layout(sum1.to(dtype), stored), mask=mask)
        elif num_rows > 0:  # too few rows for these warps, but the ring turns for all
            for _ in range(groups):
                mbarrier.wait(full.index(step % STAGES), step // STAGES & 1)
                mbarrier.arrive(empty.index(step % STAGES), count=1)
                step += 1
        tile_n, expert, num_rows, pair = next_n, next_expert, next_rows, next_pair


@gluon.jit
def moe_block_kernel(
    a_ptr,  # [rows, k] float8_e4m3fn; rows are pairs, or tokens that have top_k pairs each
    a_scale_ptr,  # [rows, k / 128]
    w_desc,  # [E * w_rows, k] float8_e4m3fn, in tiles of 128 x 128
    w_scale_ptr,  # [E, w_rows / 128, k / 128]
    topk_weights_ptr,  # [num_pairs] if the output is weighted, else None
    out_ptr,  # GATED: [num_pairs, w_rows / 2] float8_e4m3fn; else [num_pairs, w_rows] values
    out_scale_ptr,  # GATED: [num_pairs, w_rows / 256]; else None
    pairs_ptr,
    experts_ptr,
    rows_ptr,
    num_blocks,
    rows_per_expert,
    w_rows,
    k,
    LAYOUT: gl.constexpr,
    GATED: gl.constexpr,
    TOP_K: gl.constexpr,
    GROUP_SIZE_M: gl.constexpr,
    STAGES: gl.constexpr,
):
    """GATED: out = q(silu(a @ w[:half].T) * (a @ w[half:].T)), w_rows = 2 N; else out = topk_weight * (a @ w.T)."""
    tiled: gl.constexpr = w_desc.layout
    a_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, BLOCK_SIZE_M, GROUP], tiled)
    w0_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, GROUP, GROUP], tiled)
    w1_bufs = gl.allocate_shared_memory(w_desc.dtype, [STAGES, GROUP, GROUP], tiled)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1 + COPYING_THREADS)  # the copy engine's bytes, the tokens' rows
        mbarrier.init(empty.index(stage), count=2)  # two warpgroups
    num_tiles_n = gl.cdiv(w_rows, 2 * GROUP)
    gl.warp_specialize(
        [
            (multiply_tiles, (
                a_scale_ptr, w_scale_ptr, topk_weights_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr,
                rows_per_expert, num_blocks, num_tiles_n, w_rows, k,
                a_bufs, w0_bufs, w1_bufs, full, empty, 0, LAYOUT, GATED, TOP_K, GROUP_SIZE_M, STAGES,
            )),
            (multiply_tiles, (
                a_scale_ptr, w_scale_ptr, topk_weights_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr,
                rows_per_expert, num_blocks, num_tiles_n, w_rows, k,
                a_bufs, w0_bufs, w1_bufs, full, empty, 1, LAYOUT, GATED, TOP_K, GROUP_SIZE_M, STAGES,
            )),
            (copy_tiles, (
                a_ptr, w_desc, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, w_rows, k,
                a_bufs, w0_bufs, w1_bufs, full, empty, LAYOUT, GATED, TOP_K, GROUP_SIZE_M, STAGES,
            )),
        ],
        [4, 4],
        [232, 40],
    )  # fmt: skip
