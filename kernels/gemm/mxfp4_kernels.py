"""The Triton kernels of the MXFP4 linear layer: round activations, the matrix product, the sum over its splits.

Rounded activations are written as the 16-bit values that their codes stand for: an e2m1 value times a power of two is
exact in bfloat16, and the product (kernels/gemm/w4_tile.py) multiplies on 16-bit tensor cores, on every architecture.
So only the order of the float32 sum is not the reference's.

NaN and infinity stay in their row: each row of x has its own products, and a group of 32 that holds one gets the NaN
scale, which makes its row of the output NaN.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

from kernels.gemm.tiles import rows_of_tile, store_tile
from kernels.gemm.w4_tile import QUARTER, multiply_words

GROUP_SIZE: tl.constexpr = tl.constexpr(32)


@triton.jit
def e2m1_values(codes):
    """kernels.quantize.fp4.e2m1_values of codes 0..15: a float32's bits, but for the bias of the exponent."""
    bits = (codes & 8).to(tl.int32) << 28 | (codes & 7).to(tl.int32) << 22
    return bits.to(tl.float32, bitcast=True) * 8.507059173023462e37  # 2**(127 - 1); 0.5 is subnormal in both


@triton.jit
def e2m1_codes(values):
    """The codes of e2m1 values, int32: what e2m1_values does, back."""
    bits = (values * 2.0**-126).to(tl.int32, bitcast=True)
    return (bits >> 28) & 8 | (bits >> 22) & 7


@triton.jit
def e8m0_values(scales):
    """kernels.quantize.fp4.e8m0_values: a float32's exponent as it is, but for NaN and the subnormal 2**-127."""
    code = scales.to(tl.int32)
    bits = tl.where(code == 255, 0x7FC00000, tl.where(code == 0, 0x00400000, code << 23))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def e8m0_inverses(scales):
    """2**(127 - scales) of e8m0 codes, int32, that are not NaN's."""
    return ((254 - scales) << 23).to(tl.float32, bitcast=True)


@triton.jit
def hadamard_sums(x, HADAMARD_SIZE: tl.constexpr):
    """rotate_hadamard of groups x [GROUPS, HADAMARD_SIZE] times the root of HADAMARD_SIZE, float32.

    The signs of the matrix are exact in 16 bits, so the rotation is a small product on tensor cores.
    """
    row = tl.arange(0, HADAMARD_SIZE)
    parity = row[:, None] & row[None, :]  # H[i, j] = (-1) ** (number of bits set in i & j)
    parity ^= parity >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    signs = tl.where(parity & 1 == 1, -1.0, 1.0).to(x.dtype)  # [HADAMARD_SIZE, HADAMARD_SIZE]
    return tl.dot(x, signs)


@triton.jit
def nearest_e2m1(x):
    """The nearest e2m1 value, ties to even, of x that is not NaN; what is above 6 saturates."""
    return nearest_in_units(x, tl.full(x.shape, 0x3F800000, tl.int32))


@triton.jit
def nearest_in_units(x, unit):
    """nearest_e2m1 of x / unit, times unit: a power of two, given by its bits."""
    largest = 6.0 * unit.to(tl.float32, bitcast=True)
    return round_in_units(tl.minimum(tl.maximum(x, -largest), largest), unit)


@triton.jit
def round_in_units(x, unit):
    """nearest_in_units of x that is 6 units at most.

    A binade's values are half of it apart, but below 1 as below 2: added to 1.5 * 2**22 of it, x has no bits to spare.
    """
    binade = tl.maximum(x.to(tl.int32, bitcast=True) & 0x7F800000, unit).to(tl.float32, bitcast=True)
    return x + binade * 6291456.0 - binade * 6291456.0


@triton.jit
def group_scales(x, FACTOR: tl.constexpr):
    """The e8m0 codes, int32, of quantize_mxfp4 of FACTOR * x [GROUPS, 32]."""
    # As integers, magnitudes of floats are in order and NaN is the largest: a maximum of floats would drop it.
    magnitude = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1).to(tl.float32, bitcast=True)
    exponent = (magnitude * FACTOR).to(tl.int32, bitcast=True) >> 23
    return tl.where(exponent == 255, 255, tl.maximum(exponent - 2, 0))


@triton.jit
def round_groups(x):
    """quantize_mxfp4 of x [GROUPS, 32]: e2m1 values, and e8m0 codes [GROUPS] int32."""
    scale = group_scales(x, 1.0)
    inverse = e8m0_inverses(scale)
    scaled = tl.where((scale == 255)[:, None], 0.0, x * inverse[:, None])
    return nearest_e2m1(scaled), scale


@triton.jit
def rotate_and_round(x, HADAMARD_SIZE: tl.constexpr, RSQRT_SIZE: tl.constexpr, GROUPS: tl.constexpr):
    """dequantize_mxfp4(*quantize_mxfp4(rotate_hadamard(x))) of groups x [GROUPS, HADAMARD_SIZE]."""
    rotated = hadamard_sums(x, HADAMARD_SIZE) * RSQRT_SIZE
    e2m1, scale = round_groups(tl.reshape(rotated, (GROUPS * (HADAMARD_SIZE // GROUP_SIZE), GROUP_SIZE)))
    return tl.reshape(e2m1 * e8m0_values(scale)[:, None], (GROUPS, HADAMARD_SIZE))


@triton.jit
def rotate_round_kernel(
    x_ptr,  # [num_groups, HADAMARD_SIZE] values
    out_ptr,  # [num_groups, HADAMARD_SIZE] bfloat16
    num_groups,
    HADAMARD_SIZE: tl.constexpr,
    RSQRT_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """out = dequantize_mxfp4(*quantize_mxfp4(rotate_hadamard(x))), GROUPS Hadamard groups a program."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    offs = group[:, None] * HADAMARD_SIZE + tl.arange(0, HADAMARD_SIZE)[None, :]
    valid = group[:, None] < num_groups
    x = tl.load(x_ptr + offs, mask=valid, other=0.0)
    values = rotate_and_round(x, HADAMARD_SIZE, RSQRT_SIZE, GROUPS)
    tl.store(out_ptr + offs, values.to(tl.bfloat16), mask=valid)


@triton.jit
def unpack_rows_kernel(
    codes_ptr,  # [numel / 2]
    scale_ptr,  # [numel / 32]
    out_ptr,  # [numel] bfloat16
    numel,
    BLOCK_SIZE: tl.constexpr,
):
    """out = dequantize_mxfp4(codes, scale)."""
    byte = tl.program_id(0) * (BLOCK_SIZE // 2) + tl.arange(0, BLOCK_SIZE // 2)
    codes = tl.load(codes_ptr + byte, mask=byte < numel // 2, other=0)
    group = tl.program_id(0) * (BLOCK_SIZE // GROUP_SIZE) + tl.arange(0, BLOCK_SIZE // GROUP_SIZE)
    scales = e8m0_values(tl.load(scale_ptr + group, mask=group < numel // GROUP_SIZE, other=0))
    pairs = tl.join(e2m1_values(codes & 15), e2m1_values(codes >> 4))  # [BLOCK_SIZE / 2, 2]
    values = tl.reshape(pairs, (BLOCK_SIZE // GROUP_SIZE, GROUP_SIZE)) * scales[:, None]
    offs = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    tl.store(out_ptr + offs, tl.reshape(values, (BLOCK_SIZE,)).to(tl.bfloat16), mask=offs < numel)


@triton.jit
def mxfp4_gemm_kernel(
    x_ptr,  # [M, K] values
    words_ptr,  # [K / 128, N, 32]
    scales_ptr,  # [K / 128, N]
    factor_ptr,  # [N]
    out_ptr,  # [SPLIT_K, M, N]
    M,
    N,
    K,
    steps_per_split,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[split] = x @ w.T over the split's share of the columns, one tile a program."""
    offs_m, offs_n, rows_x, rows_w = rows_of_tile(M, N, EVEN_N, BLOCK_SIZE_M, BLOCK_SIZE_N, GROUP_SIZE_M)
    first_step = tl.program_id(1) * steps_per_split
    end_step = tl.minimum(first_step + steps_per_split, tl.cdiv(K, 128))
    acc = multiply_words(
        x_ptr + rows_x[:, None] * K, words_ptr + rows_w[:, None] * QUARTER, scales_ptr + rows_w,
        first_step, end_step, N, K, BLOCK_SIZE_N, "mxfp4", EVEN_K, BLOCK_SIZE_M,
    )  # fmt: skip
    acc *= tl.load(factor_ptr + rows_w)[:, None]
    store_tile(acc, out_ptr, tl.program_id(1), offs_m, offs_n, M, N)


@triton.jit
def sum_splits_kernel(x_ptr, out_ptr, numel, SPLIT_K: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """out = sum of x [SPLIT_K, numel] over the splits, in float32 and always in the same order."""
    offs = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    total = tl.zeros((BLOCK_SIZE,), dtype=tl.float32)
    for split in tl.static_range(SPLIT_K):
        total += tl.load(x_ptr + split * numel + offs, mask=offs < numel, other=0.0)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=offs < numel)
