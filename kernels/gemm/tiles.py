"""Which tile of a product a Triton program computes, and where its result goes."""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import triton
import triton.language as tl


@triton.jit
def tile_of_program(num_tiles_m, num_tiles_n, GROUP_SIZE_M: tl.constexpr):
    """Walk GROUP_SIZE_M tiles of tokens down before one across: tiles of the same weights find them in L2."""
    pid = tl.program_id(0)
    first_m = pid // (GROUP_SIZE_M * num_tiles_n) * GROUP_SIZE_M
    group_rows = tl.minimum(num_tiles_m - first_m, GROUP_SIZE_M)
    in_group = pid % (GROUP_SIZE_M * num_tiles_n)
    return first_m + in_group % group_rows, in_group // group_rows


@triton.jit
def rows_of_tile(
    M, N, EVEN_N: tl.constexpr, BLOCK_SIZE_M: tl.constexpr, BLOCK_SIZE_N: tl.constexpr, GROUP_SIZE_M: tl.constexpr
):
    """Tokens and output features of a linear layer's tile, and the rows to read for them: row 0 past the end."""
    pid_m, pid_n = tile_of_program(tl.cdiv(M, BLOCK_SIZE_M), tl.cdiv(N, BLOCK_SIZE_N), GROUP_SIZE_M)
    offs_m = pid_m * BLOCK_SIZE_M + tl.arange(0, BLOCK_SIZE_M)
    offs_n = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    rows_x = tl.where(offs_m < M, offs_m, 0).to(tl.int64)
    rows_w = (offs_n if EVEN_N else tl.where(offs_n < N, offs_n, 0)).to(tl.int64)
    return offs_m, offs_n, rows_x, rows_w


@triton.jit
def store_tile(acc, out_ptr, split, offs_m, offs_n, M, N):
    """out [splits, M, N] of a split = acc.T, where it has such rows and columns; acc [BLOCK_SIZE_N, BLOCK_SIZE_M]."""
    out_ptrs = out_ptr + (split * M + offs_m.to(tl.int64))[:, None] * N + offs_n[None, :]
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptrs, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=mask)
