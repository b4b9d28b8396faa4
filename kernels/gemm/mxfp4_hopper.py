"""The product of MXFP4 as FP8 for Hopper, in Gluon: weights stay 4 bits until they are in the registers of wgmma.

What mxfp4_fp8_gemm_kernel computes. A program is groups of four warps that meet at barriers in shared memory: one
copies FP8 tokens and words of weights into a ring of STAGES, two or four multiply. One that multiplies unpacks half of
a step while the tensor core works on the other half. A program takes tile after tile, so that the next one's loads run
under the last one's stores. Programs share tiles where that gives each as many steps (kernels/gemm/stream_k.py,
kernels/gemm/parts_hopper.py).

The product is computed transposed, weights on the left: a tile is 2 * ROWS output features by TOKENS tokens, a step 128
columns of both. Two groups share a tile by its features; of four, two take the even steps and two the odd ones, and
their sums are added up at the end: a step of few tokens is short, and its unpacking long.

With IS_EARLY it begins while the launch before still writes the tokens (programmatic dependent launch): weights are on
their way then.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.gemm.mxfp4_fp8_codes import UNPACK_WORD, shifted_tables
from kernels.gemm.parts_hopper import add_parts, store_part, trade_halves

STEP: gl.constexpr = gl.constexpr(128)
HALF_STEP: gl.constexpr = gl.constexpr(64)


@gluon.jit
def place_of_program(programs_per_tile):
    """Which share is a program's. Programs with the same part of their tiles are neighbours: they read the same tokens.

    What comes before a share in its tile is of programs of lower numbers, and who trades does so with a neighbour.
    There are no more programs than SMs, so that all run at once; where other work has SMs, the GPU was seen to start
    lower numbers before.
    """
    num_tiles = gl.num_programs(0) // programs_per_tile
    return gl.program_id(0) % num_tiles * programs_per_tile + gl.program_id(0) // num_tiles


@gluon.jit
def count_jobs(place, num_tiles, num_whole, steps_per_tile, share):
    """How many tiles a program takes part in: those that it computes alone, then those in its share of the others."""
    first = gl.minimum(place * share, (num_tiles - num_whole) * steps_per_tile)
    end = gl.minimum(first + share, (num_tiles - num_whole) * steps_per_tile)
    num_shared = gl.where(end > first, gl.cdiv(end, steps_per_tile) - first // steps_per_tile, 0)
    return num_whole // gl.num_programs(0) + num_shared


@gluon.jit
def find_job(job, place, num_tiles, num_whole, steps_per_tile, share):
    """A program's tile and its steps of it. Of its share it takes the last tile first.

    So the first steps of a tile are done early, and who does its last ones, and adds up, hardly waits.
    """
    first = place * share
    end = gl.minimum(first + share, (num_tiles - num_whole) * steps_per_tile)
    job_of_share = job - num_whole // gl.num_programs(0)
    shared = gl.cdiv(end, steps_per_tile) - 1 - job_of_share
    is_alone = job_of_share < 0
    tile = gl.where(is_alone, gl.program_id(0) + job * gl.num_programs(0), num_whole + shared)
    first_step = gl.where(is_alone, 0, gl.maximum(first - shared * steps_per_tile, 0))
    end_step = gl.where(is_alone, steps_per_tile, gl.minimum(end - shared * steps_per_tile, steps_per_tile))
    return tile, first_step, end_step


@gluon.jit
def find_traders(tile, place, num_whole, steps_per_tile, share):
    """First and last place of who shares a tile, and whether the last two trade halves of it, this one among them.

    They do if the last but one has no other tile: both come to its end at the same time then. That is asked only where
    no program has whole tiles.
    """
    first_step = (tile - num_whole) * steps_per_tile
    first_place, last_place = first_step // share, (first_step + steps_per_tile - 1) // share
    has_one_tile = (last_place > first_place) & ((last_place - 1) * share >= first_step)
    return first_place, last_place, has_one_tile & (place >= last_place - 1)


@gluon.jit
def tile_of(tile, num_tiles_m, num_tiles_n, GROUP_SIZE_M: gl.constexpr):
    """Where a tile is among tokens and output features. Tiles of the same weights follow each other."""
    first_m = tile // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    group_rows = gl.minimum(num_tiles_m - first_m, GROUP_SIZE_M)
    in_group = tile % (GROUP_SIZE_M * num_tiles_n)
    return first_m + in_group % group_rows, in_group // group_rows


@gluon.jit
def unpack_words(words, shift0, shift1):
    """e4m3 codes of the columns of either half of a step; words int8, shifts those of their groups."""
    low0, high0 = shifted_tables(shift0)
    low1, high1 = shifted_tables(shift1)
    return gl.inline_asm_elementwise(
        UNPACK_WORD, "=r,=r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r", [words, low0, high0, low1, high1],
        dtype=(gl.float8e4nv, gl.float8e4nv), is_pure=True, pack=4,
    )  # fmt: skip


@gluon.jit
def unpack_quarters(words, shifts, quarter: gl.constexpr):
    """e4m3 codes of columns 32 * quarter and 64 + 32 * quarter on, [ROWS, 32] each; words likewise, shifts [ROWS]."""
    shift0, shift1 = (shifts >> 8 * quarter) & 255, (shifts >> 16 + 8 * quarter) & 255
    return unpack_words(words, shift0[:, None], shift1[:, None])


@gluon.jit
def multiply_quarter(words, x, shifts, acc, quarter: gl.constexpr, LEFT: gl.constexpr):
    """acc + w @ x.T of columns 32 * quarter and 64 + 32 * quarter on, still under way."""
    a0, a1 = unpack_quarters(gl.convert_layout(words, LEFT, assert_trivial=True), shifts, quarter)
    acc = warpgroup_mma(a0, x.slice(32 * quarter, 32, 1).permute((1, 0)), acc, is_async=True)
    return warpgroup_mma(a1, x.slice(64 + 32 * quarter, 32, 1).permute((1, 0)), acc, is_async=True)


@gluon.jit
def copy_words(words_desc, k, N, tile_n, stage, ring, ROWS: gl.constexpr, TOKENS: gl.constexpr):
    """Begin to fill a stage, with the words of step k."""
    _, words_bufs, full, _ = ring
    mbarrier.expect(full.index(stage), TOKENS * STEP + 2 * ROWS * HALF_STEP)
    tma.async_copy_global_to_shared(
        words_desc, [k * N + tile_n * 2 * ROWS, 0], full.index(stage), words_bufs.index(stage)
    )


@gluon.jit
def copy(
    x_desc, words_desc, sizes, ring,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, GROUP_SIZE_M: gl.constexpr, STAGES: gl.constexpr, IS_EARLY: gl.constexpr,
):  # fmt: skip
    """Four warps, of which one thread asks the copy engine for everything."""
    _, N, _, num_tiles_m, num_tiles_n, place, num_whole, steps_per_tile, share = sizes
    x_bufs, _, full, empty = ring
    step, num_early, num_tiles = 0, 0, num_tiles_m * num_tiles_n
    if IS_EARLY:
        tile, first, end = find_job(0, place, num_tiles, num_whole, steps_per_tile, share)
        _, tile_n = tile_of(tile, num_tiles_m, num_tiles_n, GROUP_SIZE_M)
        num_early = gl.minimum(end - first, STAGES)
        for stage in range(num_early):
            copy_words(words_desc, first + stage, N, tile_n, stage, ring, ROWS, TOKENS)
        tl.extra.cuda.gdc_wait()  # for what the launch before writes; nobody reads any of it before a stage is full
    for job in range(count_jobs(place, num_tiles, num_whole, steps_per_tile, share)):
        tile, first, end = find_job(job, place, num_tiles, num_whole, steps_per_tile, share)
        tile_m, tile_n = tile_of(tile, num_tiles_m, num_tiles_n, GROUP_SIZE_M)
        for k in range(first, end):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
            if step >= num_early:
                copy_words(words_desc, k, N, tile_n, stage, ring, ROWS, TOKENS)
            tma.async_copy_global_to_shared(x_desc, [tile_m * TOKENS, k * STEP], full.index(stage), x_bufs.index(stage))
            step += 1


@gluon.jit
def store_wide_rows(
    values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, first_token, first_row, num_steps, M, N, K,
    ROWS: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """Write the tile's rows of tokens that FP8 cannot hold, one by one, without tensor cores: they are rare."""
    READ: gl.constexpr = gl.BlockedLayout([1, 16], [8, 4], [4, 1], [1, 0])
    row = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, READ))
    column = gl.arange(0, HALF_STEP, layout=gl.SliceLayout(0, READ))
    rows = gl.minimum(row, N - 1).to(gl.int64)
    for token in range(first_token, gl.minimum(first_token + TOKENS, M)):
        if gl.load(is_wide_ptr + token) != 0:
            acc = gl.zeros([ROWS], gl.float32, layout=gl.SliceLayout(1, READ))
            for step in range(gl.minimum(num_steps, gl.cdiv(K, STEP))):
                words = gl.load(words_ptr + ((step * N + rows) * HALF_STEP)[:, None] + column[None, :])
                shifts = gl.load(shifts_ptr + step * N + rows)[:, None] >> (column // 32 * 8)[None, :]
                codes = unpack_words(words, shifts & 15, (shifts >> 16) & 15)
                for half in gl.static_range(2):
                    columns = step * STEP + half * HALF_STEP + column
                    x = gl.load(values_ptr + gl.cast(token, gl.int64) * K + columns, mask=columns < K, other=0.0)
                    acc += gl.sum(codes[half].to(gl.float32) * x.to(gl.float32)[None, :], 1)
            acc *= gl.load(factor_ptr + rows)
            gl.store(out_ptr + gl.cast(token, gl.int64) * N + row, acc.to(out_ptr.dtype.element_ty), mask=row < N)


@gluon.jit
def store_tile(
    acc, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr,
    first_token, first_row, num_steps, M, N, K, ROWS: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """Scale sums [ROWS, TOKENS] and write them, transposed; rows that FP8 cannot hold are computed here."""
    SUMMED: gl.constexpr = acc.type.layout
    STORED: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // ROWS, ROWS // 8], [4, 1], [1, 0])
    token = first_token + gl.arange(0, TOKENS, layout=gl.SliceLayout(1, STORED))
    is_wide = gl.load(is_wide_ptr + gl.minimum(token, M - 1)) != 0  # first: it is there when it is asked for
    row_of_acc = gl.minimum(first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, SUMMED)), N - 1)
    token_of_acc = gl.minimum(first_token + gl.arange(0, TOKENS, layout=gl.SliceLayout(0, SUMMED)), M - 1)
    acc = acc * gl.load(x_scale_ptr + token_of_acc)[None, :] * gl.load(factor_ptr + row_of_acc)[:, None]
    out = gl.convert_layout(acc.to(out_ptr.dtype.element_ty).permute((1, 0)), STORED)
    column = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(0, STORED))
    out_ptrs = out_ptr + token.to(gl.int64)[:, None] * N + column[None, :]
    gl.store(out_ptrs, out, mask=((token < M) & (is_wide == 0))[:, None] & (column < N)[None, :])
    if gl.max(is_wide.to(gl.int32), 0) != 0:
        store_wide_rows(
            values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr,
            first_token, first_row, num_steps, M, N, K, ROWS, TOKENS,
        )  # fmt: skip


@gluon.jit
def multiply(
    tensors, sizes, ring, handover,
    WARPGROUP: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, GROUP_SIZE_M: gl.constexpr,
    TURNS: gl.constexpr, UNROLL: gl.constexpr, STAGES: gl.constexpr, PAIRS: gl.constexpr,
):  # fmt: skip
    """Four warps: ROWS output features of each tile, every TURNS-th step."""
    x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, parts_ptr, arrived_ptr = tensors
    M, N, K, num_tiles_m, num_tiles_n, place, num_whole, steps_per_tile, share = sizes
    x_bufs, words_bufs, full, empty = ring
    sums_bufs, has_sums, no_sums = handover
    SUMMED: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 32])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, SUMMED, 4)
    HALF: gl.constexpr = WARPGROUP % 2
    TURN: gl.constexpr = WARPGROUP // 2
    left_row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, LEFT))
    zeros = gl.zeros([ROWS, TOKENS], gl.float32, layout=SUMMED)
    step, tile_parity, num_tiles = TURN, 0, num_tiles_m * num_tiles_n
    last_step = gl.cdiv(K, STEP) - 1
    for job in range(count_jobs(place, num_tiles, num_whole, steps_per_tile, share)):
        tile, first, end = find_job(job, place, num_tiles, num_whole, steps_per_tile, share)
        tile_m, tile_n = tile_of(tile, num_tiles_m, num_tiles_n, GROUP_SIZE_M)
        first_token, first_row = tile_m * TOKENS, (2 * tile_n + HALF) * ROWS
        shift_ptrs = shifts_ptr + gl.minimum(first_row + left_row, N - 1)
        shifts = gl.load(shift_ptrs + gl.minimum(first + TURN, last_step) * N)
        acc = zeros
        for k in range(first + TURN, end, UNROLL * TURNS):
            for i in gl.static_range(UNROLL):
                stage = step % STAGES
                next_shifts = gl.load(shift_ptrs + gl.minimum(k + (i + 1) * TURNS, last_step) * N)
                mbarrier.wait(full.index(stage), step // STAGES & 1)
                words = words_bufs.index(stage).slice(HALF * ROWS, ROWS, 0).load(LEFT)
                words0, words1 = gl.split(words.reshape([ROWS, 2, 32]).permute((0, 2, 1)))
                acc = multiply_quarter(words0, x_bufs.index(stage), shifts, acc, 0, LEFT)
                if i > 0:
                    acc = warpgroup_mma_wait(2, deps=(acc,))  # what the last step began
                    mbarrier.arrive(empty.index((step + STAGES - TURNS) % STAGES), count=1)
                acc = multiply_quarter(words1, x_bufs.index(stage), shifts, acc, 1, LEFT)
                shifts = next_shifts
                step += TURNS
            acc = warpgroup_mma_wait(0, deps=(acc,))  # ptxas does not let products run into the next round
            mbarrier.arrive(empty.index((step + STAGES - TURNS) % STAGES), count=1)
        is_last = end == steps_per_tile
        first_place, last_place, trades = find_traders(tile, place, num_whole, steps_per_tile, share)
        if PAIRS == "all" or (PAIRS == "some" and trades):
            pass  # sums of all turns are traded below
        elif is_last & (first > 0):
            acc = add_parts(acc, parts_ptr, arrived_ptr, first_place, place, HALF, ROWS, TOKENS, TURN, TURNS)
        if TURN > 0:
            mbarrier.wait(no_sums.index(HALF), tile_parity ^ 1)
            sums_bufs.index(HALF).store(acc)
            mbarrier.arrive(has_sums.index(HALF), count=1)
        else:
            if TURNS > 1:
                mbarrier.wait(has_sums.index(HALF), tile_parity)
                acc += sums_bufs.index(HALF).load(SUMMED)
                mbarrier.arrive(no_sums.index(HALF), count=1)
            if PAIRS == "all" or (PAIRS == "some" and trades):
                store_tile(
                    trade_halves(acc, parts_ptr, arrived_ptr, first_place, place, last_place, HALF, ROWS, TOKENS),
                    x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr,
                    first_token + gl.where(place == last_place, TOKENS // 2, 0), first_row,
                    steps_per_tile, M, N, K, ROWS, TOKENS // 2,
                )  # fmt: skip
            elif is_last:
                store_tile(
                    acc, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr,
                    first_token, first_row, steps_per_tile, M, N, K, ROWS, TOKENS,
                )  # fmt: skip
            else:
                store_part(acc, parts_ptr, arrived_ptr, place, HALF, ROWS, TOKENS)
        tile_parity ^= 1


@gluon.jit(do_not_specialize=["num_whole", "steps_per_tile", "share", "programs_per_tile"])
def mxfp4_hopper_gemm_kernel(
    x_desc,  # [M, K] float8_e4m3fn in tiles of TOKENS x 128
    x_scale_ptr,  # [M] float32
    values_ptr,  # [M, K] bfloat16, of rows that are wide
    is_wide_ptr,  # [M] int32
    words_desc,  # [K / 128 * N, 64] int8 in tiles of 2 * ROWS x 64
    words_ptr,  # the same
    shifts_ptr,  # [K / 128, N] int32
    factor_ptr,  # [N] float32
    out_ptr,  # [M, N]
    parts_ptr,  # [2, programs, 2, ROWS, TOKENS] float32: sums of the first steps of a tile that several programs share;
    # then sums that are traded, of half of its tokens
    arrived_ptr,  # [2, programs, 2] int32, zeros: which warpgroups have written theirs
    M,
    N,
    K,
    num_whole,  # tiles that one program each computes, as many for every program; the others are shared
    steps_per_tile,  # a multiple of UNROLL * TURNS; the last ones may have no columns left
    share,  # steps of a program of the shared tiles, likewise a multiple
    programs_per_tile,  # of shared tiles whose programs have equal parts, else 1
    GROUP_SIZE_M: gl.constexpr,
    TURNS: gl.constexpr,
    UNROLL: gl.constexpr,
    STAGES: gl.constexpr,
    PAIRS: gl.constexpr,  # "all": every tile has two programs, which trade halves; "some": find_traders; or "none"
    IS_EARLY: gl.constexpr,
):
    """out = x @ w.T."""
    TOKENS: gl.constexpr = x_desc.block_shape[0]
    ROWS: gl.constexpr = words_desc.block_shape[0] // 2
    num_tiles_m, num_tiles_n = gl.cdiv(M, TOKENS), gl.cdiv(N, 2 * ROWS)
    x_bufs = gl.allocate_shared_memory(x_desc.dtype, [STAGES, TOKENS, STEP], x_desc.layout)
    words_bufs = gl.allocate_shared_memory(words_desc.dtype, [STAGES, 2 * ROWS, HALF_STEP], words_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    SUMS_OF_TURNS: gl.constexpr = [2, ROWS, TOKENS] if TURNS > 1 else [2, 1, 1]
    sums_bufs = gl.allocate_shared_memory(gl.float32, SUMS_OF_TURNS, gl.SwizzledSharedLayout(8, 1, 8, [1, 0]))
    has_sums = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    no_sums = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for half in gl.static_range(2):
        mbarrier.init(has_sums.index(half), count=1)
        mbarrier.init(no_sums.index(half), count=1)
    tensors = (x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, parts_ptr, arrived_ptr)
    place = gl.program_id(0) if PAIRS == "all" else place_of_program(programs_per_tile)
    sizes = (M, N, K, num_tiles_m, num_tiles_n, place, num_whole, steps_per_tile, share)
    ring = (x_bufs, words_bufs, full, empty)
    handover = (sums_bufs, has_sums, no_sums)
    if TURNS == 1:
        gl.warp_specialize(
            [
                (
                    multiply,
                    (tensors, sizes, ring, handover, 0, ROWS, TOKENS, GROUP_SIZE_M, TURNS, UNROLL, STAGES, PAIRS),
                ),
                (
                    multiply,
                    (tensors, sizes, ring, handover, 1, ROWS, TOKENS, GROUP_SIZE_M, TURNS, UNROLL, STAGES, PAIRS),
                ),
                (copy, (x_desc, words_desc, sizes, ring, ROWS, TOKENS, GROUP_SIZE_M, STAGES, IS_EARLY)),
            ],
            [4, 4],
            [240, 24],
        )
    else:
        gl.warp_specialize(
            [
                (
                    multiply,
                    (tensors, sizes, ring, handover, 0, ROWS, TOKENS, GROUP_SIZE_M, TURNS, UNROLL, STAGES, PAIRS),
                ),
                (
                    multiply,
                    (tensors, sizes, ring, handover, 1, ROWS, TOKENS, GROUP_SIZE_M, TURNS, UNROLL, STAGES, PAIRS),
                ),
                (
                    multiply,
                    (tensors, sizes, ring, handover, 2, ROWS, TOKENS, GROUP_SIZE_M, TURNS, UNROLL, STAGES, PAIRS),
                ),
                (
                    multiply,
                    (tensors, sizes, ring, handover, 3, ROWS, TOKENS, GROUP_SIZE_M, TURNS, UNROLL, STAGES, PAIRS),
                ),
                (copy, (x_desc, words_desc, sizes, ring, ROWS, TOKENS, GROUP_SIZE_M, STAGES, IS_EARLY)),
            ],
            [4, 4, 4, 4],
            [112, 112, 112, 24],
        )
