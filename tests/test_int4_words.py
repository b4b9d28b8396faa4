"""INT4 weights in words: repacked, unpacked to e4m3 and multiplied in Triton kernels; offsets go."""

import pytest
import torch
import triton
import triton.language as tl

from kernels.gemm.int4_tile import multiply_int4, unpack_int4
from kernels.gemm.int4_words import OFFSETS, pack_int4
from kernels.gemm.words import STEP
from kernels.moe.activations import quantize_rows_and_sum
from kernels.moe.routing import Routing
from kernels.quantize.fp4 import pack_nibbles
from kernels.quantize.fp8 import quantize_fp8_row
from kernels.quantize.integer import int4_fp8_values, int4_values

FACTORS = (-OFFSETS[0], -OFFSETS[1])


@triton.jit
def unpack_kernel(words_ptr, out_ptr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 64)
    words = tl.load(words_ptr + row[:, None] * 64 + column[None, :])
    for half in tl.static_range(2):
        values = unpack_int4(words, half).to(tl.float32)
        tl.store(out_ptr + row[:, None] * 128 + half * 64 + column[None, :], values)


@triton.jit
def multiply_kernel(
    a_ptr, sums_ptr, words_ptr, scales_ptr, out_ptr, first_step, end_step, K,
    ROWS: tl.constexpr, STEPS: tl.constexpr, BLOCK_SIZE_M: tl.constexpr,
):  # fmt: skip
    row, token = tl.arange(0, ROWS), tl.arange(0, BLOCK_SIZE_M)
    acc = multiply_int4(
        a_ptr + token[:, None] * K, sums_ptr + token[:, None] * STEPS, words_ptr + row[:, None] * 64, scales_ptr + row,
        first_step, end_step, ROWS, ROWS, STEPS, BLOCK_SIZE_M,
    )  # fmt: skip
    tl.store(out_ptr + row[:, None] * BLOCK_SIZE_M + token[None, :], acc)


def random_matrix(rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, generator=generator)
    scales = torch.rand(rows, k // STEP, generator=generator) * 56
    return codes, scales.to(torch.float8_e4m3fn)


def test_every_code_in_every_place_is_exact_but_for_its_offset() -> None:
    nibbles = torch.stack(
        [torch.arange(16, dtype=torch.uint8).repeat(2 * STEP // 16).roll(place) for place in range(16)]
    )
    codes = pack_nibbles(nibbles)
    packed = pack_int4(codes[None], torch.ones(1, 16, 2).to(torch.float8_e4m3fn))
    out = torch.empty(2, 16, STEP)
    unpack_kernel[(2,)](packed.words, out, ROWS=16)
    values = out.transpose(0, 1).flatten(1) - torch.tensor(OFFSETS).repeat(STEP)
    assert torch.equal(values * packed.factor[0][:, None], int4_values(codes).float())


@pytest.mark.parametrize("steps", [(0, 3), (0, 1), (1, 3), (2, 2)])
def test_products_are_those_of_the_codes_and_their_scales(steps: tuple[int, int]) -> None:
    k = 3 * STEP
    codes, scales = random_matrix(32, k)
    packed = pack_int4(codes[None], scales[None])
    x = (torch.randn(16, k, generator=torch.Generator().manual_seed(0)) + 1).to(torch.bfloat16)
    a, _, sums = quantize_rows_and_sum(x, Routing(num_rows=16, top_k=1), FACTORS, 16)
    out = torch.empty(32, 16)
    multiply_kernel[(1,)](
        a, sums, packed.words, packed.scales, out, *steps, k, ROWS=32, STEPS=sums.shape[1], BLOCK_SIZE_M=16
    )
    columns = slice(steps[0] * STEP, steps[1] * STEP)
    expected = int4_fp8_values(codes, scales)[:, columns].double() @ a.double()[:, columns].T
    error = (out * packed.factor[0][:, None] - expected).norm() / expected.norm().clamp(min=1)
    assert error < 1e-3, "float16 keeps 11 bits of the sums"


def test_rows_are_quantized_as_ever_and_zeros_follow_their_sums() -> None:
    x = torch.randn(5, 3 * STEP, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    codes, scales, sums = quantize_rows_and_sum(x, Routing(num_rows=5, top_k=1), FACTORS, 16)
    expected_codes, expected_scales = quantize_fp8_row(x)
    assert torch.equal(codes.float(), expected_codes.float())
    assert torch.equal(scales, expected_scales[:, 0])
    expected = -(codes.double().unflatten(1, (3, STEP)) * torch.tensor(OFFSETS).repeat(STEP // 2)).sum(2)
    torch.testing.assert_close(sums[:, :3].double(), expected, rtol=2**-11, atol=2**-24)
    assert sums.shape == (5, 16)
    assert not sums[:, 3:].any()


def test_words_and_scales_take_the_bytes_of_codes_and_scales() -> None:
    codes, scales = random_matrix(64, 512)
    packed = pack_int4(codes[None], scales[None])
    assert packed.scales is not None
    assert (packed.words.nbytes, packed.scales.nbytes) == (codes.nbytes, scales.nbytes)
