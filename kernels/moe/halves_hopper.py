"""Which halves of tiles a program of the INT4 GEMMs for Hopper takes, so that all programs have as much work.

A block is long if it has more rows than half of what it may have, else short: a tile of a long block is work for two
halves, of a short one for one. A column of tiles is, in Blocks.order, one of each long block and then one of each two
short blocks, each of which is a half; so tiles take as long as one another, and are dealt out in turn. The last round
has tiles for some of the programs: if for half of them at most, its tiles are dealt out by halves.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def count_tiles(num_blocks, num_long, num_tiles_n):
    """How many tiles a column of them has, how many there are, how many are dealt out whole, the first half to take."""
    column = num_long + (num_blocks - num_long + 1) // 2
    num_tiles = column * num_tiles_n
    num_whole = num_tiles // gl.num_programs(0) * gl.num_programs(0)
    num_whole = gl.where(2 * (num_tiles - num_whole) <= gl.num_programs(0), num_whole, num_tiles)
    first = gl.program_id(0) + gl.where(gl.program_id(0) < num_whole, gl.program_id(0), 2 * num_whole)
    return column, num_tiles, num_whole, first


@gluon.jit
def load_half(
    half, column, num_tiles, num_whole, experts_ptr, rows_ptr, order_ptr, rows_per_expert, num_blocks, num_long,
    num_tiles_n, LAYOUT: gl.constexpr, BLOCK_SIZE_M: gl.constexpr, GROUP_SIZE_M: gl.constexpr,
):  # fmt: skip
    """What a half of a tile is of: its column, block, expert, first row in the block and number of rows; the next half.

    The first half of a long block's tile that is taken whole has all its rows, and the second is left out. Past the
    last half it is of some tile, so that all of it can be loaded before it is known to be needed.
    """
    tile = gl.minimum(half // 2, num_tiles - 1)
    first_tile = tile // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    tiles_of_group = gl.minimum(column - first_tile, GROUP_SIZE_M)
    in_group = tile % (GROUP_SIZE_M * num_tiles_n)
    in_column, tile_n = first_tile + in_group % tiles_of_group, in_group // tiles_of_group
    is_long, is_whole = in_column < num_long, half < 2 * num_whole
    block = gl.where(is_long, in_column, 2 * in_column - num_long + half % 2)
    exists = block < num_blocks
    block = gl.minimum(block, num_blocks - 1)
    if LAYOUT == "batched":
        blocks_per_expert = gl.cdiv(rows_per_expert, BLOCK_SIZE_M)
        expert = block // blocks_per_expert
        num_rows = gl.load(rows_ptr + expert) - block % blocks_per_expert * BLOCK_SIZE_M
        num_rows = gl.minimum(num_rows, BLOCK_SIZE_M)
    else:
        block = gl.load(order_ptr + block)
        expert, num_rows = gl.load(experts_ptr + block), gl.load(rows_ptr + block)
    num_rows = gl.where(exists, num_rows, 0)
    HALF: gl.constexpr = BLOCK_SIZE_M // 2
    is_half = is_long & (half >= 2 * num_whole)
    first_row = gl.where(is_half, half % 2 * HALF, 0)
    num_rows = gl.minimum(num_rows - first_row, gl.where(is_half, HALF, BLOCK_SIZE_M))
    next_tile = tile + gl.num_programs(0)
    next_half = gl.where(next_tile < num_whole, 2 * next_tile, 2 * num_whole + gl.program_id(0))
    next_half = gl.where(is_long | (half % 2 == 1), next_half, half + 1)
    return tile_n, block, expert, first_row, num_rows, gl.where(is_whole, next_half, 2 * num_tiles)
