"""The rows of activations that FP8 cannot hold, after a product that left them wrong.

They are rare: the launch mostly reads a flag for each row, by as many programs as run at once, and ends.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton types the arguments of jit functions at the launch.

import torch
import triton
import triton.language as tl

from kernels.gemm.mxfp4_fp8_activations import Fp8Rows
from kernels.gemm.mxfp4_fp8_kernels import multiply_wide
from kernels.gemm.mxfp4_fp8_words import Fp8Words
from kernels.sms import count_sms

FLAGS_AT_ONCE = 4096
"""Of rows, that a program reads."""


@triton.jit
def wide_rows_kernel(
    values_ptr,  # [M, K] bfloat16, of rows that are wide
    is_wide_ptr,  # [M] int32
    words_ptr,  # this and the next two: see mxfp4_fp8_gemm_kernel
    shifts_ptr,
    factor_ptr,
    out_ptr,  # [M, N]
    M,
    N,
    K,
    EVEN_K: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    FLAGS: tl.constexpr,
):
    """out[row] = x[row] @ w.T where the row is wide: their tiles are dealt out to programs, which mostly find none."""
    num_tiles_n = tl.cdiv(N, BLOCK_SIZE_N)
    for first in range(0, M, FLAGS):
        offs_m = first + tl.arange(0, FLAGS)
        if tl.max(tl.load(is_wide_ptr + offs_m, mask=offs_m < M, other=0), 0) != 0:
            num_tiles = tl.cdiv(tl.minimum(FLAGS, M - first), BLOCK_SIZE_M) * num_tiles_n
            for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
                multiply_wide_tile(
                    values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr,
                    first + tile // num_tiles_n * BLOCK_SIZE_M, tile % num_tiles_n * BLOCK_SIZE_N, M, N, K,
                    EVEN_K, BLOCK_SIZE_M, BLOCK_SIZE_N,
                )  # fmt: skip


@triton.jit
def multiply_wide_tile(
    values_ptr, is_wide_ptr, words_ptr, shifts_ptr, factor_ptr, out_ptr, first_m, first_n, M, N, K,
    EVEN_K: tl.constexpr, BLOCK_SIZE_M: tl.constexpr, BLOCK_SIZE_N: tl.constexpr,
):  # fmt: skip
    """One tile of wide_rows_kernel."""
    offs_m, offs_n = first_m + tl.arange(0, BLOCK_SIZE_M), first_n + tl.arange(0, BLOCK_SIZE_N)
    is_wide = tl.load(is_wide_ptr + offs_m, mask=offs_m < M, other=0) != 0
    if tl.max(is_wide.to(tl.int32), 0) != 0:
        rows_x, rows_w = tl.where(is_wide, offs_m, 0).to(tl.int64), tl.where(offs_n < N, offs_n, 0).to(tl.int64)
        acc = multiply_wide(
            values_ptr, words_ptr, shifts_ptr, rows_x, rows_w, 0, tl.cdiv(K, 128), N, K,
            EVEN_K, BLOCK_SIZE_M, BLOCK_SIZE_N,
        )  # fmt: skip
        acc *= tl.load(factor_ptr + rows_w)[:, None]
        mask = is_wide[:, None] & (offs_n < N)[None, :]
        out_ptrs = out_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]
        tl.store(out_ptrs, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=mask)


def wide_rows_triton(x: Fp8Rows, w: Fp8Words, out: torch.Tensor) -> None:
    """Write x @ w.T to out [M, n] in rows of x that are wide."""
    (m, k), n = x.codes.shape, w.words.shape[1]
    wide_rows_kernel[(count_sms(out.device),)](
        x.values, x.is_wide, w.words, w.shifts, w.factor, out, m, n, k,
        EVEN_K=k % 128 == 0, BLOCK_SIZE_M=64, BLOCK_SIZE_N=128, FLAGS=FLAGS_AT_ONCE, num_warps=8,
    )  # fmt: skip
