"""The product of MXFP4 as FP8 for few tokens on Hopper, in Gluon: a program keeps its tokens in shared memory.

What mxfp4_fp8_gemm_kernel computes, without a sum over splits: a tile is 64 output features by all of k. Four warps ask
the copy engine for words and shifts, in a ring of STAGES; four groups of four warps take every fourth step of 128
columns each, and add up their sums at the end. Few tokens fit as a whole beside the ring: they are loaded once for all
tiles of a program. One token is rotated and rounded here as well, by each group its own steps, while the ring fills.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    mma_v2,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.gemm.mxfp4_hopper import HALF_STEP, STEP, multiply_rows, multiply_wide_rows, unpack_quarters

TURNS: gl.constexpr = gl.constexpr(4)
ROWS: gl.constexpr = gl.constexpr(64)
STEPS_OF_PART: gl.constexpr = gl.constexpr(16)
"""That a group rotates at most."""


@gluon.jit
def copy(
    x_desc, words_desc, shifts_desc, num_tiles, N, rounds, x_bufs, words_bufs, shifts_bufs, has_x, full, empty,
    ROTATE: gl.constexpr, TOKENS: gl.constexpr, PART: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps, of which one thread asks the copy engine for everything."""
    if not ROTATE:
        for i in range(rounds):
            mbarrier.expect(has_x, TURNS * TOKENS * STEP)
            for turn in gl.static_range(TURNS):
                tma.async_copy_global_to_shared(
                    x_desc, [0, (i * TURNS + turn) * STEP], has_x, x_bufs.index(turn * PART + i)
                )
    fill = 0
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        for i in range(rounds):
            stage = fill % STAGES
            mbarrier.wait(empty.index(stage), (fill // STAGES & 1) ^ 1)
            mbarrier.expect(full.index(stage), TURNS * ROWS * (HALF_STEP + 4))
            for turn in gl.static_range(TURNS):
                row = (i * TURNS + turn) * N + tile * ROWS
                place = stage * TURNS + turn
                tma.async_copy_global_to_shared(words_desc, [row, 0], full.index(stage), words_bufs.index(place))
                tma.async_copy_global_to_shared(shifts_desc, [row], full.index(stage), shifts_bufs.index(place))
            fill += 1


@gluon.jit
def power_of_two(exponent):
    """2**exponent as float32, for exponents from -149 to 127."""
    code = exponent + 127
    bits = gl.where(code > 0, gl.maximum(code, 1) << 23, 0x00400000 >> gl.minimum(gl.maximum(-code, 0), 22))
    return bits.to(gl.float32, bitcast=True)


@gluon.jit
def rotate_steps(
    x_ptr, values_ptr, x_rows, K, RSQRT_SIZE: gl.constexpr, TURN: gl.constexpr
):
    """Rotate and round a group's steps of one token as rotate_to_fp8_kernel does; codes go to x_rows.

    Returns:
        Their scale, and whether FP8 cannot hold them: values_ptr has them then.
    """
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, SUMS, 2)
    RIGHT: gl.constexpr = gl.DotOperandLayout(1, SUMS, 2)
    GROUPS: gl.constexpr = 4 * STEPS_OF_PART
    group = gl.arange(0, GROUPS, layout=gl.SliceLayout(1, LEFT))
    first = (group // 4 * TURNS + TURN) * STEP + group % 4 * 32
    column = first[:, None] + gl.arange(0, 32, layout=gl.SliceLayout(0, LEFT))[None, :]
    x = gl.load(x_ptr + column, mask=column < K, other=0.0)
    i = gl.arange(0, 32, layout=gl.SliceLayout(1, RIGHT))[:, None]
    j = gl.arange(0, 32, layout=gl.SliceLayout(0, RIGHT))[None, :]
    low = i & 7 & j
    parity = low ^ (low >> 1) ^ (low >> 2) ^ (i >> 3 & j >> 3) ^ (i >> 4 & j >> 4)
    signs = gl.where(parity & 1 == 1, -1.0, 1.0).to(x.dtype)
    sums = mma_v2(x, signs, gl.zeros([GROUPS, 32], gl.float32, layout=SUMS))
    magnitude = gl.max(sums.to(gl.int32, bitcast=True) & 0x7FFFFFFF, 1).to(gl.float32, bitcast=True)
    exponent = (magnitude * RSQRT_SIZE).to(gl.int32, bitcast=True) >> 23
    scale = gl.where(exponent == 255, 255, gl.maximum(exponent - 2, 0))
    largest, least = gl.max(scale, 0), gl.min(gl.where(scale > 0, scale, 255), 0)
    part_scale = gl.maximum(largest, 6) - 6
    is_wide = (largest < 255) & (least < largest - 14)
    unit_bits = gl.maximum(127 + scale - part_scale, 1)[:, None] << 23
    codes = nearest_in_units(sums * (power_of_two(127 - part_scale) * RSQRT_SIZE), unit_bits)
    x_rows.store(gl.reshape(codes.to(gl.float8e4nv), [STEPS_OF_PART, STEP]))
    if is_wide:
        values = nearest_in_units(sums * RSQRT_SIZE, gl.maximum(scale, 1)[:, None] << 23)
        stored = gl.convert_layout(column, SUMS)
        gl.store(values_ptr + stored, values.to(gl.bfloat16), mask=stored < K)
    fence_async_shared()
    gl.thread_barrier()
    return gl.where(largest == 255, float("nan"), power_of_two(part_scale - 127)), is_wide


@gluon.jit
def nearest_in_units(x, unit_bits):
    """kernels.gemm.mxfp4_kernels.nearest_in_units."""
    unit = unit_bits.to(gl.float32, bitcast=True)
    x = gl.minimum(gl.maximum(x, -6.0 * unit), 6.0 * unit)
    binade = gl.maximum(x.to(gl.int32, bitcast=True) & 0x7F800000, unit_bits).to(gl.float32, bitcast=True)
    return x + binade * 6291456.0 - binade * 6291456.0


@gluon.jit
def multiply_quarter(words, x, shifts, acc, is_first: gl.constexpr, quarter: gl.constexpr, LEFT: gl.constexpr):
    """acc + w @ x.T of columns 32 * quarter and 64 + 32 * quarter on, still under way."""
    a0, a1 = unpack_quarters(gl.convert_layout(words, LEFT, assert_trivial=True), shifts, quarter)
    acc = warpgroup_mma(
        a0, x.slice(32 * quarter, 32, 1).permute((1, 0)), acc, use_acc=not is_first, is_async=True
    )
    return warpgroup_mma(a1, x.slice(64 + 32 * quarter, 32, 1).permute((1, 0)), acc, is_async=True)


@gluon.jit
def multiply(
    x_ptr, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, M, N, K, num_tiles, rounds,
    x_bufs, words_bufs, shifts_bufs, has_x, full, empty, sums_bufs, has_sums, no_sums,
    TURN: gl.constexpr, ROTATE: gl.constexpr, RSQRT_SIZE: gl.constexpr, TOKENS: gl.constexpr, PART: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Four warps: every fourth step of each tile."""
    SUMMED: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 32])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, SUMMED, 4)
    STORED: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    if ROTATE:
        x_rows = x_bufs._reinterpret(
            gl.float8e4nv, [TURNS, STEPS_OF_PART, TOKENS * STEP], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
        )
        part_scale, part_is_wide = rotate_steps(
            x_ptr, values_ptr, x_rows.index(TURN).slice(0, STEP, 1), K, RSQRT_SIZE, TURN
        )
    else:
        mbarrier.wait(has_x, 0)
    fill, tile_parity = 0, 0
    zeros = gl.zeros([ROWS, TOKENS], gl.float32, layout=SUMMED)
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        acc = zeros
        for i in range(rounds):
            stage = fill % STAGES
            place = stage * TURNS + TURN
            x = x_bufs.index(TURN * PART + i)
            mbarrier.wait(full.index(stage), fill // STAGES & 1)
            words = words_bufs.index(place).load(LEFT)
            shifts = shifts_bufs.index(place).load(gl.SliceLayout(1, LEFT))
            words0, words1 = gl.split(words.reshape([ROWS, 2, 32]).permute((0, 2, 1)))
            part = multiply_quarter(words0, x, shifts, zeros, True, 0, LEFT)
            part = multiply_quarter(words1, x, shifts, part, False, 1, LEFT)
            mbarrier.arrive(empty.index(stage), count=1)
            acc += warpgroup_mma_wait(0, deps=(part,))
            fill += 1
        first_row = tile * ROWS
        if ROTATE:
            acc *= part_scale
            if part_is_wide:
                sums = multiply_rows(
                    values_ptr, words_ptr, shifts_ptr, first_row, TURN, TURNS * rounds, TURNS, N, K, ROWS
                )
                acc = zeros + gl.convert_layout(sums, gl.SliceLayout(1, SUMMED))[:, None]
        if TURN > 0:
            mbarrier.wait(no_sums, tile_parity ^ 1)
            sums_bufs.index(TURN - 1).store(acc)
            mbarrier.arrive(has_sums, count=1)
        else:
            mbarrier.wait(has_sums, tile_parity)
            for turn in gl.static_range(TURNS - 1):
                acc += sums_bufs.index(turn).load(SUMMED)
            mbarrier.arrive(no_sums, count=1)
            row = gl.minimum(first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, SUMMED)), N - 1)
            acc *= gl.load(factor_ptr + row)[:, None]
            if not ROTATE:
                token = gl.minimum(gl.arange(0, TOKENS, layout=gl.SliceLayout(0, SUMMED)), M - 1)
                acc *= gl.load(x_scale_ptr + token)[None, :]
            acc = gl.convert_layout(acc.to(out_ptr.dtype.element_ty).permute((1, 0)), STORED)
            column = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(0, STORED))
            token = gl.arange(0, TOKENS, layout=gl.SliceLayout(1, STORED))
            mask = (token < M)[:, None] & (column < N)[None, :]
            out_ptrs = out_ptr + token[:, None] * N + column[None, :]
            if ROTATE:
                gl.store(out_ptrs, acc, mask=mask)
            else:
                is_wide = gl.load(is_wide_ptr + gl.minimum(token, M - 1)) != 0
                gl.store(out_ptrs, acc, mask=mask & (is_wide == 0)[:, None])
                if gl.max(is_wide.to(gl.int32), 0) != 0:
                    multiply_wide_rows(
                        values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, 0, first_row,
                        0, TURNS * rounds, M, N, K, ROWS, TOKENS,
                    )  # fmt: skip
        tile_parity ^= 1


@gluon.jit
def mxfp4_resident_gemm_kernel(
    x_ptr,  # [K] bfloat16 or float16, of ROTATE
    x_desc,  # [M, K] float8_e4m3fn in tiles of TOKENS x 128, of not ROTATE
    x_scale_ptr,  # [M] float32, likewise
    values_ptr,  # [M, K] bfloat16, of rows that are wide; written if ROTATE
    is_wide_ptr,  # [M] int32, of not ROTATE
    words_desc,  # [K / 128 * N, 64] int8 in tiles of 64 x 64
    words_ptr,  # the same
    shifts_desc,  # [K / 128 * N] int32 in tiles of 64
    shifts_ptr,  # the same
    factor_ptr,  # [N] float32
    out_ptr,  # [M, N]
    M,
    N,
    K,
    RSQRT_SIZE: gl.constexpr,
    TOKENS: gl.constexpr,
    PART: gl.constexpr,
    STAGES: gl.constexpr,
):
    """out = x @ w.T; PART steps of a group. ROTATE: x is one token as it is."""
    ROTATE: gl.constexpr = x_desc is None
    X_LAYOUT: gl.constexpr = gl.NVMMASharedLayout(128, 8)
    x_bufs = gl.allocate_shared_memory(gl.float8e4nv, [TURNS * PART, TOKENS, STEP], X_LAYOUT)
    words_bufs = gl.allocate_shared_memory(gl.int8, [STAGES * TURNS, ROWS, HALF_STEP], words_desc.layout)
    shifts_bufs = gl.allocate_shared_memory(gl.int32, [STAGES * TURNS, ROWS], shifts_desc.layout)
    sums_bufs = gl.allocate_shared_memory(
        gl.float32, [TURNS - 1, ROWS, TOKENS], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    )
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    has_x = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    has_sums = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    no_sums = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=TURNS)
    mbarrier.init(has_x, count=PART)
    mbarrier.init(has_sums, count=TURNS - 1)
    mbarrier.init(no_sums, count=1)
    num_tiles, rounds = gl.cdiv(N, ROWS), gl.cdiv(K, STEP * TURNS)
    gl.warp_specialize(
        [
            (multiply, (
                x_ptr, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, M, N, K,
                num_tiles, rounds, x_bufs, words_bufs, shifts_bufs, has_x, full, empty, sums_bufs, has_sums, no_sums,
                0, ROTATE, RSQRT_SIZE, TOKENS, PART, STAGES,
            )),
            (multiply, (
                x_ptr, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, M, N, K,
                num_tiles, rounds, x_bufs, words_bufs, shifts_bufs, has_x, full, empty, sums_bufs, has_sums, no_sums,
                1, ROTATE, RSQRT_SIZE, TOKENS, PART, STAGES,
            )),
            (multiply, (
                x_ptr, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, M, N, K,
                num_tiles, rounds, x_bufs, words_bufs, shifts_bufs, has_x, full, empty, sums_bufs, has_sums, no_sums,
                2, ROTATE, RSQRT_SIZE, TOKENS, PART, STAGES,
            )),
            (multiply, (
                x_ptr, x_scale_ptr, values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, M, N, K,
                num_tiles, rounds, x_bufs, words_bufs, shifts_bufs, has_x, full, empty, sums_bufs, has_sums, no_sums,
                3, ROTATE, RSQRT_SIZE, TOKENS, PART, STAGES,
            )),
            (copy, (
                x_desc, words_desc, shifts_desc, num_tiles, N, rounds, x_bufs, words_bufs, shifts_bufs, has_x, full,
                empty, ROTATE, TOKENS, PART, STAGES,
            )),
        ],
        [4, 4, 4, 4],
        [112, 112, 112, 24],
    )  # fmt: skip
