"""4-bit weights in words: repacked and unpacked again in a Triton kernel, every code under every scale is exact."""

import pytest
import torch
import triton
import triton.language as tl

from kernels.gemm.w4_tile import unpack_quarter
from kernels.gemm.w4_words import GROUP_SIZES, pack_words
from kernels.gemm.words import STEP, interleave_gate_up
from kernels.quantize.fp4 import dequantize_mxfp4, nvfp4_values

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")  # numpy's, in the interpreter
ALL_BYTES = torch.arange(256, dtype=torch.uint8)
VALUES = {"mxfp4": dequantize_mxfp4, "nvfp4": nvfp4_values}


@triton.jit
def unpack_kernel(words_ptr, scales_ptr, out_ptr, FORMAT: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    words = tl.load(words_ptr + row[:, None] * 32 + tl.arange(0, 32)[None, :])
    scales = tl.load(scales_ptr + row)
    for quarter in tl.static_range(4):
        columns = quarter * 32 + tl.arange(0, 32)
        values = unpack_quarter(words, scales, quarter, FORMAT, ROWS)
        tl.store(out_ptr + row[:, None] * 128 + columns[None, :], values)


def unpack(weight_format: str, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The values of one matrix, through its words."""
    packed = pack_words(weight_format, codes[None], scales[None])
    _, steps, rows, _ = packed.words.shape
    out = torch.empty(steps, rows, STEP, dtype=torch.bfloat16)
    unpack_kernel[(steps * rows // 16,)](packed.words, packed.scales, out, FORMAT=weight_format, ROWS=16)
    return out.float().transpose(0, 1).flatten(1)[:, : 2 * codes.shape[1]] * packed.factor[0][:, None]


def assert_exact(weight_format: str, codes: torch.Tensor, scales: torch.Tensor) -> None:
    expected, output = VALUES[weight_format](codes, scales), unpack(weight_format, codes, scales)
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output.nan_to_num(posinf=1, neginf=-1), expected.nan_to_num(posinf=1, neginf=-1))


@pytest.mark.parametrize("weight_format", GROUP_SIZES)
def test_every_byte_in_every_place_under_every_scale_is_exact(weight_format: str) -> None:
    columns = 2 * STEP
    groups = columns // GROUP_SIZES[weight_format]
    codes = torch.stack([ALL_BYTES.roll(shift)[: columns // 2] for shift in range(256)])
    scales = ALL_BYTES[:, None].repeat(1, groups)
    if weight_format != "mxfp4":
        scales = torch.where(scales > 127, scales - 128, scales).view(torch.float8_e4m3fn)  # scales are not negative
    assert_exact(weight_format, codes, scales)


def test_scales_of_a_row_differ_as_the_groups_do() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 256, (32, STEP), dtype=torch.uint8, generator=generator)
    for weight_format, low, high in (("mxfp4", 60, 180), ("nvfp4", 0, 127)):
        shape = (32, 2 * STEP // GROUP_SIZES[weight_format])
        scales = torch.randint(low, high, shape, dtype=torch.uint8, generator=generator)
        assert_exact(weight_format, codes, scales if weight_format == "mxfp4" else scales.view(torch.float8_e4m3fn))


def test_nan_scales_stay_visible() -> None:
    codes = torch.zeros(16, STEP // 2, dtype=torch.uint8)
    codes[:, 0] = 0x71
    for weight_format, nan in (("mxfp4", 255), ("nvfp4", 0x7F)):
        scales = torch.full((16, STEP // GROUP_SIZES[weight_format]), 56 if nan == 0x7F else 127, dtype=torch.uint8)
        scales[3, 1] = nan
        assert_exact(weight_format, codes, scales if nan == 255 else scales.view(torch.float8_e4m3fn))


@pytest.mark.parametrize("columns", [32, 96, 160, 224])
def test_columns_are_padded_to_whole_steps(columns: int) -> None:
    codes = ALL_BYTES[: columns // 2].repeat(16, 1)
    assert_exact("mxfp4", codes, torch.full((16, columns // 32), 120, dtype=torch.uint8))
    packed = pack_words("mxfp4", codes[None], torch.full((1, 16, columns // 32), 120, dtype=torch.uint8))
    assert packed.words.shape == (1, -(-columns // STEP), 16, 32)


def test_words_and_scales_take_the_bytes_of_codes_and_scales() -> None:
    codes = torch.zeros(2, 64, 256, dtype=torch.uint8)
    for weight_format, group in GROUP_SIZES.items():
        scales = torch.ones(2, 64, 512 // group).to(torch.float8_e4m3fn)
        scales = scales.view(torch.uint8) if weight_format == "mxfp4" else scales
        packed = pack_words(weight_format, codes, scales)
        assert (packed.words.nbytes, packed.scales.nbytes) == (codes.nbytes, scales.nbytes)


def test_gate_and_up_rows_take_turns() -> None:
    assert interleave_gate_up(torch.arange(8).view(1, 8)).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]
