"""INT8 weights in words: repacked, unpacked again and multiplied in Triton kernels; every code is exact."""

import pytest
import torch
import triton
import triton.language as tl

from kernels.gemm.w8_tile import multiply_int8, unpack_half
from kernels.gemm.w8_words import HALF, pack_int8
from kernels.gemm.words import STEP

CODES = torch.arange(-128, 128).to(torch.int8)


@triton.jit
def unpack_kernel(words_ptr, out_ptr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 64)
    words = tl.load(words_ptr + row[:, None] * 64 + column[None, :])
    for half in tl.static_range(2):
        values = unpack_half(words, half, out_ptr.dtype.element_ty)
        tl.store(out_ptr + row[:, None] * 128 + half * 64 + column[None, :], values)


@triton.jit
def multiply_kernel(
    a_ptr, words_ptr, scales_ptr, out_ptr, K, ROWS: tl.constexpr, EVEN_K: tl.constexpr, BLOCK_SIZE_M: tl.constexpr
):
    row, token = tl.arange(0, ROWS), tl.arange(0, BLOCK_SIZE_M)
    scale_ptrs = None if scales_ptr is None else scales_ptr + row
    acc = multiply_int8(
        a_ptr + token[:, None] * K,
        words_ptr + row[:, None] * 64,
        scale_ptrs,
        0,
        tl.cdiv(K, 128),
        ROWS,
        K,
        ROWS,
        EVEN_K,
        BLOCK_SIZE_M,
    )
    tl.store(out_ptr + row[:, None] * BLOCK_SIZE_M + token[None, :], acc)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [2 * STEP, 144, 32])
def test_every_code_in_every_place_is_exact(columns: int, dtype: torch.dtype) -> None:
    codes = torch.stack([CODES.roll(shift)[:columns] for shift in range(256)])
    packed = pack_int8(codes[None], torch.ones(1, 256, 1))
    _, steps, rows, words = packed.words.shape
    assert (steps, rows, words) == (-(-columns // STEP), 256, HALF)
    out = torch.empty(steps, rows, STEP, dtype=dtype)
    unpack_kernel[(steps * rows // 16,)](packed.words, out, ROWS=16)
    values = out.float().transpose(0, 1).flatten(1) * packed.factor[0][:, None]
    assert torch.equal(values[:, :columns], codes.float())
    assert (values[:, columns:] == 0).all()


@pytest.mark.parametrize("k", [256, 144])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_scales_of_rows_and_of_steps_go_into_the_sums(is_grouped: bool, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (32, k), dtype=torch.int8, generator=generator)
    scales = torch.rand(32, -(-k // STEP) if is_grouped else 1, generator=generator)
    a = torch.randn(16, k, generator=generator).to(torch.bfloat16)
    packed = pack_int8(codes[None], scales[None])
    assert (packed.scales is None) != is_grouped
    out = torch.empty(32, 16)
    multiply_kernel[(1,)](
        a, packed.words, packed.scales, out, k, ROWS=32, EVEN_K=k % STEP == 0, BLOCK_SIZE_M=16
    )  # fmt: skip
    weights = codes.double() * scales.double().repeat_interleave(STEP if is_grouped else k, 1)[:, :k]
    torch.testing.assert_close((out * packed.factor[0][:, None]).double(), weights @ a.double().T, rtol=1e-5, atol=1e-3)


def test_words_take_the_bytes_of_codes() -> None:
    codes = torch.zeros(2, 64, 512, dtype=torch.int8)
    packed = pack_int8(codes, torch.ones(2, 64, 4))
    assert packed.words.nbytes == codes.nbytes
    assert packed.scales is not None
    assert packed.scales.shape == (2, 4, 64)
