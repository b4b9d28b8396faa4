"""What the persistent GEMMs of the MoE for Hopper share: barriers, tiles and their rows, a sum, a fast sigmoid."""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier


@gluon.jit
def make_barriers(FILLERS: gl.constexpr, EMPTIERS: gl.constexpr, STAGES: gl.constexpr):
    """Of each stage one that is full when all FILLERS have reported, the copy engine too, and one that is empty."""
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=FILLERS)
        mbarrier.init(empty.index(stage), count=EMPTIERS)
    return full, empty


@gluon.jit
def add_up(acc, product, scale):
    """acc + product * scale of each row, where it stands: compilers would add later, and keep the product till then."""
    product, scale = gl.broadcast(product, scale[:, None])
    return gl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", [product, scale, acc], dtype=gl.float32, is_pure=False, pack=1
    )


@gluon.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) but for the last bits, in four instructions instead of twenty."""
    return gl.inline_asm_elementwise(
        "mul.f32 $0, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 $0, $0; add.f32 $0, $0, 0f3F800000; rcp.approx.ftz.f32 $0, $0;",
        "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def load_tile(
    tile, experts_ptr, rows_ptr, rows_per_expert, num_blocks, num_tiles_n, LAYOUT: gl.constexpr,
    BLOCK_SIZE_M: gl.constexpr, GROUP_SIZE_M: gl.constexpr,
):  # fmt: skip
    """What a tile is of: its column, its block, and that one's expert and number of rows.

    Past the last tile it is that one, so that all of it can be loaded before it is known to be needed.
    """
    tile = gl.minimum(tile, num_blocks * num_tiles_n - 1)
    first_block = tile // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    blocks_of_group = gl.minimum(num_blocks - first_block, GROUP_SIZE_M)
    in_group = tile % (GROUP_SIZE_M * num_tiles_n)
    block, tile_n = first_block + in_group % blocks_of_group, in_group // blocks_of_group
    if LAYOUT == "batched":
        blocks_per_expert = gl.cdiv(rows_per_expert, BLOCK_SIZE_M)
        expert = block // blocks_per_expert
        num_rows = gl.load(rows_ptr + expert) - block % blocks_per_expert * BLOCK_SIZE_M
        num_rows = gl.minimum(num_rows, BLOCK_SIZE_M)
    else:
        expert = gl.load(experts_ptr + block)
        num_rows = gl.load(rows_ptr + block)
    return tile_n, block, expert, num_rows


@gluon.jit
def load_pairs(block, row, pairs_ptr, rows_per_expert, LAYOUT: gl.constexpr, BLOCK_SIZE_M: gl.constexpr):
    """Pairs of a block's rows; past its last row anything."""
    if LAYOUT == "batched":
        blocks_per_expert = gl.cdiv(rows_per_expert, BLOCK_SIZE_M)
        pair = block // blocks_per_expert * rows_per_expert + block % blocks_per_expert * BLOCK_SIZE_M + row
    else:
        pair = gl.load(pairs_ptr + block * BLOCK_SIZE_M + row)
    return pair
