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
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.language.nvidia.ampere import async_copy

GROUP: gl.constexpr = gl.constexpr(128)
BLOCK_SIZE_M: gl.constexpr = gl.constexpr(128)
ROWS_OF_A_WARPGROUP: gl.constexpr = gl.constexpr(64)
COPIES_IN_FLIGHT: gl.constexpr = gl.constexpr(2)


@gluon.jit
def find_tile(tile, num_blocks, num_tiles_n, GROUP_SIZE_M: gl.constexpr):
    """Walk GROUP_SIZE_M blocks down before one tile across: tiles of the same weights find them in L2."""
    first_m = tile // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    rows_of_group = gl.minimum(num_blocks - first_m, GROUP_SIZE_M)
    in_group = tile % (GROUP_SIZE_M * num_tiles_n)
    return first_m + in_group % rows_of_group, in_group // rows_of_group


@gluon.jit
def find_block(block, experts_ptr, rows_ptr, rows_per_expert, LAYOUT: gl.constexpr):
    """The expert of a block, its first row in the batched format, how many it has."""
    if LAYOUT == "batched":
        blocks_per_expert = gl.cdiv(rows_per_expert, BLOCK_SIZE_M)
        expert = block // blocks_per_expert
        first = block % blocks_per_expert * BLOCK_SIZE_M
        num_rows = gl.minimum(gl.maximum(gl.load(rows_ptr + expert) - first, 0), BLOCK_SIZE_M)
        first += expert * rows_per_expert
    else:
        expert = gl.load(experts_ptr + block)
        first = 0
        num_rows = gl.load(rows_ptr + block)
    return expert, first, num_rows


@gluon.jit
def find_pairs(block, first, row, num_rows, pairs_ptr, LAYOUT: gl.constexpr):
    """Pairs of a block's rows; past the last an arbitrary one."""
    if LAYOUT == "batched":
        pair = first + gl.where(row < num_rows, row, 0)
    else:
        pair = gl.load(pairs_ptr + block * BLOCK_SIZE_M + row, mask=row < num_rows, other=0)
    return pair.to(gl.int64)


@gluon.jit
def copy_tiles(
    a_ptr, w_desc, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, w_rows, k, top_k,
    a_bufs, w0_bufs, w1_bufs, full, empty,
    LAYOUT: gl.constexpr, GATED: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: weights by the copy engine, tokens row by row from wherever they are."""
    copied: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    row = gl.arange(0, BLOCK_SIZE_M, layout=gl.SliceLayout(1, copied))
    column = gl.arange(0, GROUP, layout=gl.SliceLayout(0, copied))
    step = 0
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        block, tile_n = find_tile(tile, num_blocks, num_tiles_n, GROUP_SIZE_M)
        expert, first, num_rows = find_block(block, experts_ptr, rows_ptr, rows_per_expert, LAYOUT)
        if num_rows > 0:
            token = find_pairs(block, first, row, num_rows, pairs_ptr, LAYOUT) // top_k
            a_ptrs = a_ptr + token[:, None] * k + column[None, :]
            mask = (row < num_rows)[:, None]
            w_row0 = expert * w_rows + tile_n * (GROUP if GATED else 2 * GROUP)
            w_row1 = w_row0 + (w_rows // 2 if GATED else GROUP)
            for offset in range(0, k, GROUP):
                stage = step % STAGES
                mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(stage), 2 * GROUP * GROUP)
                tma.async_copy_global_to_shared(w_desc, [w_row0, offset], full.index(stage), w0_bufs.index(stage))
                tma.async_copy_global_to_shared(w_desc, [w_row1, offset], full.index(stage), w1_bufs.index(stage))
                async_copy.async_copy_global_to_shared(a_bufs.index(stage), a_ptrs, mask=mask)
                async_copy.commit_group()
                async_copy.wait_group(COPIES_IN_FLIGHT)
                fence_async_shared()  # wgmma reads what these threads wrote
                landed = (step + STAGES - COPIES_IN_FLIGHT) % STAGES
                mbarrier.arrive(full.index(landed), count=1, pred=step >= COPIES_IN_FLIGHT)
                a_ptrs += GROUP
                step += 1
    async_copy.wait_group(0)
    fence_async_shared()
    for left in gl.static_range(COPIES_IN_FLIGHT, 0, -1):
        mbarrier.arrive(full.index((step + STAGES - left) % STAGES), count=1, pred=step >= left)


@gluon.jit
def multiply_tiles(
    a_scale_ptr, w_scale_ptr, topk_weights_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr,
    rows_per_expert, num_blocks, num_tiles_n, w_rows, k, top_k,
    a_bufs, w0_bufs, w1_bufs, full, empty,
    WARPGROUP: gl.constexpr, LAYOUT: gl.constexpr, GATED: gl.constexpr, GROUP_SIZE_M: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: 64 rows of each tile, in float32 beyond a group."""
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    stored: gl.constexpr = gl.BlockedLayout([1, 16 if GATED else 8], [4, 8] if GATED else [2, 16], [4, 1], [1, 0])
    row = gl.arange(0, ROWS_OF_A_WARPGROUP, layout=gl.SliceLayout(1, summed)) + WARPGROUP * ROWS_OF_A_WARPGROUP
    stored_row = gl.arange(0, ROWS_OF_A_WARPGROUP, layout=gl.SliceLayout(1, stored)) + WARPGROUP * ROWS_OF_A_WARPGROUP
    stored_column = gl.arange(0, GROUP, layout=gl.SliceLayout(0, stored))
    zeros = gl.zeros([ROWS_OF_A_WARPGROUP, GROUP], gl.float32, layout=summed)
    groups = k // GROUP
    step = 0
    for tile in range(gl.program_id(0), num_blocks * num_tiles_n, gl.num_programs(0)):
        block, tile_n = find_tile(tile, num_blocks, num_tiles_n, GROUP_SIZE_M)
        expert, first, num_rows = find_block(block, experts_ptr, rows_ptr, rows_per_expert, LAYOUT)
        if num_rows > WARPGROUP * ROWS_OF_A_WARPGROUP:
            pair = find_pairs(block, first, row, num_rows, pairs_ptr, LAYOUT)
            a_scale_ptrs = a_scale_ptr + pair // top_k * groups
            w_groups = w_rows // GROUP
            group0 = tile_n if GATED else 2 * tile_n
            group1 = group0 + w_groups // 2 if GATED else gl.minimum(group0 + 1, w_groups - 1)
            w0_scale_ptr = w_scale_ptr + (expert * w_groups + group0).to(gl.int64) * groups
            w1_scale_ptr = w_scale_ptr + (expert * w_groups + group1).to(gl.int64) * groups
            sum0, sum1 = zeros, zeros
            a_scale = gl.load(a_scale_ptrs)
            w0_scale, w1_scale = gl.load(w0_scale_ptr), gl.load(w1_scale_ptr)
            for group in range(groups):
                scale0, scale1 = a_scale * w0_scale, a_scale * w1_scale
                ahead = gl.minimum(group + 1, groups - 1)  # hides the loads behind the products
                a_scale = gl.load(a_scale_ptrs + ahead)
                w0_scale, w1_scale = gl.load(w0_scale_ptr + ahead), gl.load(w1_scale_ptr + ahead)
                stage = step % STAGES
                mbarrier.wait(full.index(stage), step // STAGES & 1)
                a = a_bufs.index(stage).slice(WARPGROUP * ROWS_OF_A_WARPGROUP, ROWS_OF_A_WARPGROUP, 0)
                product = warpgroup_mma(a, w0_bufs.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
                sum0 += warpgroup_mma_wait(0, deps=(product,)) * scale0[:, None]
                product = warpgroup_mma(a, w1_bufs.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
                product = warpgroup_mma_wait(0, deps=(product,))
                mbarrier.arrive(empty.index(stage), count=1)
                sum1 += product * scale1[:, None]
                step += 1
            stored_pair = find_pairs(block, first, stored_row, num_rows, pairs_ptr, LAYOUT)
            mask = (stored_row < num_rows)[:, None]
            if GATED:
                h = sum0 / (1.0 + gl.exp(-sum0)) * sum1
                h_scale = gl.maximum(gl.max(gl.abs(h), 1), 1e-10) / 448.0
                gl.store(out_scale_ptr + pair * (w_groups // 2) + tile_n, h_scale, mask=row < num_rows)
                codes = gl.minimum(gl.maximum(h / h_scale[:, None], -448.0), 448.0).to(out_ptr.dtype.element_ty)
                out_ptrs = out_ptr + stored_pair[:, None] * (w_rows // 2) + (tile_n * GROUP + stored_column)[None, :]
                gl.store(out_ptrs, gl.convert_layout(codes, stored), mask=mask)
            else:
                if topk_weights_ptr is not None:
                    weight = gl.load(topk_weights_ptr + pair, mask=row < num_rows, other=0.0)[:, None]
                    sum0 *= weight
                    sum1 *= weight
                dtype: gl.constexpr = out_ptr.dtype.element_ty
                column = tile_n * 2 * GROUP + stored_column
                out_ptrs = out_ptr + stored_pair[:, None] * w_rows + column[None, :]
                gl.store(out_ptrs, gl.convert_layout(sum0.to(dtype), stored), mask=mask)
                mask = mask & (column + GROUP < w_rows)[None, :]
                gl.store(out_ptrs + GROUP, gl.convert_layout(sum1.to(dtype), stored), mask=mask)
        elif num_rows > 0:  # a block of few rows: nothing for these warps, but the ring turns for all
            for group in range(groups):
                mbarrier.wait(full.index(step % STAGES), step // STAGES & 1)
                mbarrier.arrive(empty.index(step % STAGES), count=1)
                step += 1


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
    top_k,
    LAYOUT: gl.constexpr,
    GATED: gl.constexpr,
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
        mbarrier.init(full.index(stage), count=2)  # the copy engine's bytes, the tokens' rows
        mbarrier.init(empty.index(stage), count=2)  # two warpgroups
    num_tiles_n = gl.cdiv(w_rows, 2 * GROUP)
    gl.warp_specialize(
        [
            (multiply_tiles, (
                a_scale_ptr, w_scale_ptr, topk_weights_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr,
                rows_per_expert, num_blocks, num_tiles_n, w_rows, k, top_k,
                a_bufs, w0_bufs, w1_bufs, full, empty, 0, LAYOUT, GATED, GROUP_SIZE_M, STAGES,
            )),
            (multiply_tiles, (
                a_scale_ptr, w_scale_ptr, topk_weights_ptr, out_ptr, out_scale_ptr, pairs_ptr, experts_ptr, rows_ptr,
                rows_per_expert, num_blocks, num_tiles_n, w_rows, k, top_k,
                a_bufs, w0_bufs, w1_bufs, full, empty, 1, LAYOUT, GATED, GROUP_SIZE_M, STAGES,
            )),
            (copy_tiles, (
                a_ptr, w_desc, pairs_ptr, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, w_rows, k,
                top_k, a_bufs, w0_bufs, w1_bufs, full, empty, LAYOUT, GATED, GROUP_SIZE_M, STAGES,
            )),
        ],
        [4, 4],
        [232, 40],
    )  # fmt: skip
