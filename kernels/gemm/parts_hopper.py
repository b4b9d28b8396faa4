"""Sums of a tile that several programs share, in Gluon: written, added up, or traded between two programs.

Sums of a warpgroup lie in memory in the order of its threads, so that every thread reads back the places it has itself.
They are float32 and always added in the same order.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def by_threads(acc, ROWS: gl.constexpr, TOKENS: gl.constexpr):
    """Sums of a warpgroup in the order of its threads, four of each after the other: they are stored as they are."""
    lanes = acc.reshape([ROWS // 16, 2, 8, TOKENS // 8, 4, 2]).permute((3, 0, 2, 4, 1, 5))
    return lanes.reshape([ROWS * TOKENS])


@gluon.jit
def from_threads(sums, ROWS: gl.constexpr, TOKENS: gl.constexpr):
    """Sums by_threads again as wgmma has them."""
    SUMMED: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 32])
    lanes = sums.reshape([TOKENS // 8, ROWS // 16, 8, 4, 2, 2]).permute((1, 4, 2, 0, 3, 5))
    return gl.convert_layout(lanes.reshape([ROWS, TOKENS]), SUMMED, assert_trivial=True)


@gluon.jit
def report(arrived_ptr):
    """One thread of a warpgroup says that all of them have written their sums."""
    tl.debug_barrier()  # Gluon has it under another name in every version of Triton
    lane = gl.arange(0, 128, layout=gl.BlockedLayout([1], [32], [4], [0]))
    gl.atomic_add(arrived_ptr + 0 * lane, gl.full_like(lane, 1), mask=lane == 0, sem="release")


@gluon.jit
def wait_for(arrived_ptr):
    """Until a warpgroup of another program has reported."""
    zeros = gl.zeros([128], gl.int32, layout=gl.BlockedLayout([1], [32], [4], [0]))
    gl.inline_asm_elementwise(
        "{ .reg .pred p; again: ld.acquire.gpu.global.b32 $0, [$1]; setp.eq.s32 p, $0, 0; @p bra again; }",
        "=r,l", [arrived_ptr + zeros], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def store_part(acc, parts_ptr, arrived_ptr, place, half: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr):
    """Write sums of a tile's first steps for the program that does its last ones, or the two that trade."""
    sums = by_threads(acc, ROWS, TOKENS)
    part = (place * 2 + half).to(gl.int64)
    gl.store(parts_ptr + part * ROWS * TOKENS + gl.arange(0, ROWS * TOKENS, layout=sums.type.layout), sums)
    report(arrived_ptr + part)


@gluon.jit
def add_parts(
    acc, parts_ptr, arrived_ptr, first_place, place, half: gl.constexpr,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, TURN: gl.constexpr, TURNS: gl.constexpr,
):  # fmt: skip
    """acc and this turn's share of what programs from the first place to this have summed of the tile."""
    sums = by_threads(acc, ROWS, TOKENS)
    index = gl.arange(0, ROWS * TOKENS, layout=sums.type.layout)
    for other in range(first_place, place):
        part = (other * 2 + half).to(gl.int64)
        wait_for(arrived_ptr + part)
        is_mine = index // (ROWS * TOKENS // TURNS) == TURN
        sums += gl.load(parts_ptr + part * ROWS * TOKENS + index, mask=is_mine, other=0.0, cache_modifier=".cg")
    return from_threads(sums, ROWS, TOKENS)


@gluon.jit
def trade_halves(
    acc, parts_ptr, arrived_ptr, first_place, place, last_place, half: gl.constexpr,
    ROWS: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """All sums [ROWS, TOKENS / 2] of the half of a tile's tokens that is this program's, of the two at its end.

    Each writes its sums of the other's half and adds to its own what the other wrote, and half of what those before
    have summed: both read and write half as much as one that would add up everything, and at the same time.
    """
    NUMEL: gl.constexpr = ROWS * TOKENS // 2
    first, second = gl.split(acc.reshape([ROWS, 2, TOKENS // 2]).permute((0, 2, 1)))
    takes_first = place < last_place
    given = by_threads(gl.where(takes_first, second, first), ROWS, TOKENS // 2)
    sums = by_threads(gl.where(takes_first, first, second), ROWS, TOKENS // 2)
    index = gl.arange(0, NUMEL, layout=sums.type.layout)
    other = gl.where(takes_first, last_place, last_place - 1)
    num_parts = gl.num_programs(0) * 2
    mine, others = (num_parts + place * 2 + half).to(gl.int64), (num_parts + other * 2 + half).to(gl.int64)
    gl.store(parts_ptr + mine * (ROWS * TOKENS) + index, given)
    report(arrived_ptr + mine)
    for before in range(first_place, last_place - 1):
        part = (before * 2 + half).to(gl.int64)
        wait_for(arrived_ptr + part)
        offset = part * (ROWS * TOKENS) + gl.where(takes_first, 0, NUMEL)
        sums += gl.load(parts_ptr + offset + index, cache_modifier=".cg")
    wait_for(arrived_ptr + others)
    sums += gl.load(parts_ptr + others * (ROWS * TOKENS) + index, cache_modifier=".cg")
    return from_threads(sums, ROWS, TOKENS // 2)
