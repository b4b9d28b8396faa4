"""The Triton kernels of the MXFP4 linear layer: rotate and quantize, the matrix product, the sum over its splits.

The product unpacks e2m1 codes to 16 bits in registers and multiplies on 16-bit tensor cores, on every architecture: an
e2m1 value times a power of two is exact in bfloat16, so only the order of the float32 sum is not the reference's.
It is computed transposed, weights on the left: there wgmma takes them from registers, where unpacking leaves them, and
the tokens' side may be as narrow as 16.

NaN and infinity stay in their row: each row of x has its own products, and a group of 32 that holds one gets the NaN
scale, which makes its row of the output NaN.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl

GROUP_SIZE: tl.constexpr = tl.constexpr(32)


@triton.jit
def e2m1_values(codes):
    """kernels.quantize.fp4.e2m1_values of codes 0..15: a float32's bits, but for the bias of the exponent."""
    bits = (codes & 8).to(tl.int32) << 28 | (codes & 7).to(tl.int32) << 22
    return bits.to(tl.float32, bitcast=True) * 8.507059173023462e37  # 2**(127 - 1); 0.5 is subnormal in both


@triton.jit
def e8m0_values(scales):
    """kernels.quantize.fp4.e8m0_values: a float32's exponent as it is, but for NaN and the subnormal 2**-127."""
    code = scales.to(tl.int32)
    bits = tl.where(code == 255, 0x7FC00000, tl.where(code == 0, 0x00400000, code << 23))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def unpack_mxfp4(codes, scales, dtype: tl.constexpr):
    """The values [ROWS, K] of codes [ROWS, K / 2] with scales [ROWS, K / 32]."""
    values = tl.join(e2m1_values(codes & 15), e2m1_values(codes >> 4))  # [ROWS, K / 2, 2]
    groups = tl.reshape(values, (codes.shape[0], scales.shape[1], GROUP_SIZE)) * e8m0_values(scales)[:, :, None]
    return tl.reshape(groups.to(dtype), (codes.shape[0], 2 * codes.shape[1]))


@triton.jit
def round_to_e2m1(x):
    """kernels.quantize.fp4.round_to_e2m1; x is not NaN."""
    magnitude = tl.abs(x)
    code = (magnitude > 0.25).to(tl.uint8) + (magnitude >= 0.75).to(tl.uint8) + (magnitude > 1.25).to(tl.uint8)
    code += (magnitude >= 1.75).to(tl.uint8) + (magnitude > 2.5).to(tl.uint8) + (magnitude >= 3.5).to(tl.uint8)
    code += (magnitude > 5.0).to(tl.uint8)
    return code | ((x.to(tl.int32, bitcast=True) >> 28) & 8).to(tl.uint8)


@triton.jit
def rotate_quantize_kernel(
    x_ptr,  # [num_groups, HADAMARD_SIZE] values
    codes_ptr,  # [num_groups, HADAMARD_SIZE / 2]
    scale_ptr,  # [num_groups, HADAMARD_SIZE / 32]
    num_groups,
    HADAMARD_SIZE: tl.constexpr,
    RSQRT_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """codes, scales = quantize_mxfp4(rotate_hadamard(x)), GROUPS Hadamard groups a program.

    The signs of the matrix are exact in 16 bits, so the rotation is a small product on tensor cores, scaled after.
    """
    row = tl.arange(0, HADAMARD_SIZE)
    parity = row[:, None] & row[None, :]  # H[i, j] = (-1) ** (number of bits set in i & j)
    parity ^= parity >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    signs = tl.where(parity & 1 == 1, -1.0, 1.0).to(x_ptr.dtype.element_ty)  # [HADAMARD_SIZE, HADAMARD_SIZE]
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    valid = group[:, None] < num_groups
    x = tl.load(x_ptr + group[:, None] * HADAMARD_SIZE + row[None, :], mask=valid, other=0.0)
    rotated = tl.dot(x, signs) * RSQRT_SIZE  # [GROUPS, HADAMARD_SIZE]

    rotated = tl.reshape(rotated, (GROUPS, HADAMARD_SIZE // GROUP_SIZE, GROUP_SIZE))
    # As integers, magnitudes of floats are in order and NaN is the largest: a maximum of floats would drop it.
    exponent = tl.max(rotated.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 2) >> 23  # [GROUPS, HADAMARD_SIZE / 32]
    scale = tl.where(exponent == 255, 255, tl.maximum(exponent - 2, 0))
    inverse = ((254 - scale) << 23).to(tl.float32, bitcast=True)  # 2**(127 - scale)
    codes = round_to_e2m1(tl.where((scale == 255)[:, :, None], 0.0, rotated * inverse[:, :, None]))
    low, high = tl.split(tl.reshape(codes, (GROUPS, HADAMARD_SIZE // 2, 2)))

    byte = tl.arange(0, HADAMARD_SIZE // 2)
    tl.store(codes_ptr + group[:, None] * (HADAMARD_SIZE // 2) + byte[None, :], low | high << 4, mask=valid)
    column = tl.arange(0, HADAMARD_SIZE // GROUP_SIZE)
    scale_ptrs = scale_ptr + group[:, None] * (HADAMARD_SIZE // GROUP_SIZE) + column[None, :]
    tl.store(scale_ptrs, scale.to(tl.uint8), mask=valid)


@triton.jit
def load_mxfp4(
    ptr,
    scale_ptr,
    rows,
    step,
    row_bytes,
    row_groups,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    dtype: tl.constexpr,
):
    """One step of some rows: values [ROWS, BLOCK_SIZE_K], 0 past the end of a row."""
    byte = step * (BLOCK_SIZE_K // 2) + tl.arange(0, BLOCK_SIZE_K // 2)
    group = step * (BLOCK_SIZE_K // GROUP_SIZE) + tl.arange(0, BLOCK_SIZE_K // GROUP_SIZE)
    ptrs = ptr + rows[:, None] * row_bytes + byte[None, :]
    scale_ptrs = scale_ptr + rows[:, None] * row_groups + group[None, :]
    if EVEN_K:
        codes = tl.load(ptrs)
        scales = tl.load(scale_ptrs)
    else:
        codes = tl.load(ptrs, mask=byte[None, :] < row_bytes, other=0)
        scales = tl.load(scale_ptrs, mask=group[None, :] < row_groups, other=0)
    return unpack_mxfp4(codes, scales, dtype)


@triton.jit
def mxfp4_gemm_kernel(
    x_ptr,  # [M, K] values, or [M, K / 2] codes
    x_scale_ptr,  # [M, K / 32] with codes, else not read
    w_ptr,  # [N, K / 2] codes
    w_scale_ptr,  # [N, K / 32]
    out_ptr,  # [SPLIT_K, M, N]
    M,
    N,
    K,
    row_bytes,  # K / 2 and K / 32: as arguments, Triton knows what divides them
    row_groups,
    steps_per_split,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """out[split] = x @ w.T over the split's share of the columns, one tile a program."""
    num_tiles_m, num_tiles_n = tl.cdiv(M, BLOCK_SIZE_M), tl.cdiv(N, BLOCK_SIZE_N)
    pid = tl.program_id(0)
    first_m = pid // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M  # tiles of few rows of x that share w in L2
    group_rows = tl.minimum(num_tiles_m - first_m, GROUP_SIZE_M)
    pid_m = first_m + pid % (GROUP_SIZE_M * num_tiles_n) % group_rows
    pid_n = pid % (GROUP_SIZE_M * num_tiles_n) // group_rows

    offs_m = pid_m * BLOCK_SIZE_M + tl.arange(0, BLOCK_SIZE_M)
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    # Rows past the end read row 0 and are not stored.
    rows_x = tl.where(offs_m < M, offs_m, 0).to(tl.int64)
    rows_w = tl.where(offs_n < N, offs_n, 0).to(tl.int64)
    x_is_codes: tl.constexpr = x_ptr.dtype.element_ty == tl.uint8
    dtype: tl.constexpr = tl.bfloat16 if x_is_codes else x_ptr.dtype.element_ty
    first_step = tl.program_id(1) * steps_per_split
    end_step = tl.minimum(first_step + steps_per_split, tl.cdiv(K, BLOCK_SIZE_K))
    acc = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_M), dtype=tl.float32)
    for step in range(first_step, end_step):
        w = load_mxfp4(w_ptr, w_scale_ptr, rows_w, step, row_bytes, row_groups, EVEN_K, BLOCK_SIZE_K, dtype)
        if x_is_codes:
            x = load_mxfp4(x_ptr, x_scale_ptr, rows_x, step, row_bytes, row_groups, EVEN_K, BLOCK_SIZE_K, dtype)
        else:
            offs_k = step * BLOCK_SIZE_K + tl.arange(0, BLOCK_SIZE_K)
            ptrs = x_ptr + rows_x[:, None] * K + offs_k[None, :]
            x = tl.load(ptrs) if EVEN_K else tl.load(ptrs, mask=offs_k[None, :] < K, other=0.0)
        acc = tl.dot(w, tl.trans(x), acc)

    out_ptrs = out_ptr + (tl.program_id(1) * M + offs_m.to(tl.int64))[:, None] * N + offs_n[None, :]
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptrs, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_splits_kernel(x_ptr, out_ptr, numel, SPLIT_K: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """out = sum of x [SPLIT_K, numel] over the splits, in float32 and always in the same order."""
    offs = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    total = tl.zeros((BLOCK_SIZE,), dtype=tl.float32)
    for split in tl.static_range(SPLIT_K):
        total += tl.load(x_ptr + split * numel + offs, mask=offs < numel, other=0.0)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=offs < numel)
