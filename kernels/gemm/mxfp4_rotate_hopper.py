"""Rotate and round activations to FP8 on Hopper, in Gluon: a row is read once and stays in shared memory.

What rotate_to_fp8_kernel computes. A row's codes want its largest scale, so it is rotated twice: for that and for them.
The copy engine brings it part by part; several programs share an SM, so that some rows come while others are rounded.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma

from kernels.gemm.mxfp4_fp8_codes import LARGEST_SHIFT, WIDEST_SPAN, power_of_two
from kernels.gemm.mxfp4_fp8_kernels import NUM_ARRIVED, nearest_at_once
from kernels.gemm.mxfp4_kernels import GROUP_SIZE, group_scales, nearest_in_units

LINES: gl.constexpr = gl.constexpr(128)
"""Hadamard groups of a part of a row: two warpgroups multiply 64 each."""


@gluon.jit
def make_signs(dtype: gl.constexpr, SIZE: gl.constexpr):
    """The Hadamard matrix without its factor, in shared memory; its columns in an order that gives a thread of
    the product's result neighbours: 2 j + 8 n + i of the result, i < 2 and j < 4, is SIZE / 4 j + 2 n + i.
    """
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 4], [32 * 4 // SIZE, SIZE // 4], [8, 1], [1, 0])
    row = gl.arange(0, SIZE, layout=gl.SliceLayout(1, LAYOUT))
    n = gl.arange(0, SIZE, layout=gl.SliceLayout(0, LAYOUT))
    column = (n // 2 % 4) * (SIZE // 4) + n // 8 * 2 + n % 2
    parity = row[:, None] & column[None, :]
    parity ^= parity >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    signs = gl.where(parity & 1 == 1, -1.0, 1.0).to(dtype)
    return gl.allocate_shared_memory(
        dtype, [SIZE, SIZE], gl.NVMMASharedLayout.get_default_for([SIZE, SIZE], dtype), signs
    )


@gluon.constexpr_function
def groups_layout(size):
    """Groups of 32 as threads have them, size / 4 neighbours of a row each."""

    def place(row, column):
        return [row * (size // 32) + column // 32, column % 32]

    registers = [place(0, 2**i) for i in range((size // 4).bit_length() - 1)]
    lanes = [place(0, size // 4), place(0, size // 2), place(1, 0), place(2, 0), place(4, 0)]
    return gl.DistributedLinearLayout(
        [*registers, place(8, 0)], lanes, [place(16, 0), place(32, 0), place(64, 0)], [], [128 * (size // 32), 32]
    )


@gluon.jit
def rotate_part(x, signs, SIZE: gl.constexpr):
    """Groups of 32 of x @ signs [LINES, SIZE], float32, their columns in order."""
    SUMMED: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, SIZE, 16])
    sums = warpgroup_mma(x, signs, gl.zeros([LINES, SIZE], gl.float32, layout=SUMMED), use_acc=False)
    sums = sums.reshape([LINES, SIZE // 8, 4, 2]).permute((0, 2, 1, 3))
    return gl.convert_layout(sums.reshape([LINES * (SIZE // GROUP_SIZE), GROUP_SIZE]), groups_layout(SIZE))


@gluon.jit
def scales_of(sums, group, num_groups, RSQRT_SIZE: gl.constexpr):
    """group_scales; 0 past the row's end."""
    return gl.where(group < num_groups, group_scales(sums, RSQRT_SIZE), 0)


@gluon.jit
def rotate_to_fp8_hopper_kernel(
    x_desc,  # [M * K / HADAMARD_SIZE, HADAMARD_SIZE] values in tiles of LINES
    codes_ptr,  # [M, K] float8_e4m3fn
    scale_ptr,  # [M] float32, a power of two
    values_ptr,  # [M, K] bfloat16, written where is_wide
    is_wide_ptr,  # [M] int32
    arrived_ptr,  # [NUM_ARRIVED] int32, zeroed
    K,
    RSQRT_SIZE: gl.constexpr,
    PARTS: gl.constexpr,
):
    """codes * scale = dequantize_mxfp4(*quantize_mxfp4(rotate_hadamard(x))), of a row."""
    SIZE: gl.constexpr = x_desc.block_shape[1]
    GROUPS: gl.constexpr = LINES * (SIZE // GROUP_SIZE)
    LAYOUT: gl.constexpr = groups_layout(SIZE)
    row, num_groups = gl.program_id(0), K // GROUP_SIZE
    x_bufs = gl.allocate_shared_memory(x_desc.dtype, [PARTS, LINES, SIZE], x_desc.layout)
    scale_bufs = gl.allocate_shared_memory(gl.int32, [PARTS, GROUPS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    full = gl.allocate_shared_memory(gl.int64, [PARTS, 1], mbarrier.MBarrierLayout())
    for part in gl.static_range(PARTS):
        mbarrier.init(full.index(part), count=1)
    for part in gl.static_range(PARTS):
        mbarrier.expect(full.index(part), x_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(
            x_desc, [row * (K // SIZE) + part * LINES, 0], full.index(part), x_bufs.index(part)
        )
    signs = make_signs(x_desc.dtype, SIZE)
    fence_async_shared()
    group = gl.arange(0, GROUPS, layout=gl.SliceLayout(1, LAYOUT))
    largest, least = gl.zeros_like(group), gl.full_like(group, 255)
    for part in range(PARTS):
        mbarrier.wait(full.index(part), 0)
        scale = scales_of(rotate_part(x_bufs.index(part), signs, SIZE), part * GROUPS + group, num_groups, RSQRT_SIZE)
        scale_bufs.index(part).store(scale)
        largest, least = gl.maximum(largest, scale), gl.minimum(least, gl.where(scale > 0, scale, 255))
    largest, least = gl.max(largest, 0), gl.min(least, 0)
    row_scale = gl.maximum(largest, LARGEST_SHIFT) - LARGEST_SHIFT
    is_wide = (largest < 255) & (least < largest - WIDEST_SPAN)
    gl.store(scale_ptr + row, gl.where(largest == 255, float("nan"), power_of_two(row_scale - 127)))
    gl.store(is_wide_ptr + row, is_wide.to(gl.int32))
    if row == 0:
        index = gl.arange(0, NUM_ARRIVED, layout=gl.BlockedLayout([1], [32], [8], [0]))
        gl.store(arrived_ptr + index, gl.zeros_like(index))
    factor = power_of_two(127 - row_scale) * RSQRT_SIZE
    column = group[:, None] * GROUP_SIZE + gl.arange(0, GROUP_SIZE, layout=gl.SliceLayout(0, LAYOUT))[None, :]
    for part in range(PARTS):
        sums = rotate_part(x_bufs.index(part), signs, SIZE)
        scale = scale_bufs.index(part).load(gl.SliceLayout(1, LAYOUT))
        unit = gl.maximum(127 + scale - row_scale, 1) << 23  # bits of 2**shift
        codes = nearest_at_once(sums * factor, unit[:, None]).to(gl.float8e4nv)
        exists = (part * GROUPS + group < num_groups)[:, None]
        offset = row.to(gl.int64) * K + part * GROUPS * GROUP_SIZE
        gl.store(codes_ptr + offset + column, codes, mask=exists)
        if is_wide:
            one = gl.full_like(unit, 0x3F800000)[:, None]
            e2m1 = nearest_in_units(sums * RSQRT_SIZE * power_of_two(127 - scale)[:, None], one)
            values = (e2m1 * power_of_two(scale - 127)[:, None]).to(gl.bfloat16)
            gl.store(values_ptr + offset + column, values, mask=exists)
