"""4-bit weights in the layout that our Triton kernels read, repacked once when a layer is loaded.

The sum runs in steps of 128 columns. Of each row and step there are 32 words of 16 bits, all rows of a step one after
the other, so that a tile of rows is one stretch of memory. Word j holds the codes of columns j, 32 + j, 64 + j and
96 + j of the step: taken out by shifts, each quarter of a step lies in registers as wgmma takes its left operand, and
no value passes through shared memory. Codes of 4 bits and their scales need as many bytes as before.

    step  w1, 32 words of a row:     j = 0      1   ...   31
          quarter 0: columns             0      1         31
          quarter 1: columns            32     33         63
          quarter 2: columns            64     65         95
          quarter 3: columns            96     97        127

By lanes, word 8 t + i holds columns 32 t + i, 32 t + 8 + i, 32 t + 16 + i and 32 t + 24 + i. So the words that lane t
of four has of a row are 16 bytes in a piece, and its columns have two NVFP4 scales, or one MXFP4 scale, instead of all:
words_hopper.py reads them so, and multiplies columns in the order in which lanes come to have them. Bytes of scales are
then in the order of their groups.

In a word an e2m1 code stands where a bfloat16 has its sign and the top of its fraction: read as bfloat16 that is the
value times 2**-126. A product with a bfloat16 factor gives exact values: e2m1 has 2 bits of significand, an e4m3 scale
has 4. Scales are stored as a byte that becomes the factor by one shift and one addition:

    mxfp4  the exponent of a bfloat16, so that the largest group scale of a row is 2**126 and its values stay below 8
    nvfp4  5 bits of exponent and 3 of fraction, 2**21 above e4m3's: subnormal scales are normal there

What that takes out of the values is in `factor`, which multiplies whole sums. MXFP4 groups whose scale is below 2**-130
of their row's largest count as zero.
"""

import torch

from kernels.gemm.words import STEP, Words
from kernels.quantize.fp4 import E8M0_NAN, unpack_nibbles

QUARTER = STEP // 4
GROUP_SIZES = {"mxfp4": 32, "nvfp4": 16}
MOST_CODES = 2**26
"""That are repacked at once: each takes about 40 bytes meanwhile."""
LARGEST_BYTE = 253
"""Of an MXFP4 factor: the exponent of 2**126."""


def pack_words(weight_format: str, codes: torch.Tensor, scales: torch.Tensor, *, by_lanes: bool = False) -> Words:
    """Repack matrices; columns are padded with zeros to whole steps.

    Args:
        weight_format: "mxfp4" or "nvfp4".
        codes: [E, R, k / 2] uint8 (e2m1), the first of two codes in the low nibble.
        scales: [E, R, k / group] uint8 (e8m0) or float8_e4m3fn that is not negative.
        by_lanes: which columns a word holds.
    Returns:
        Words that take as many bytes.
    """
    num_experts, num_rows, row_bytes = codes.shape
    most_rows = max(MOST_CODES // (2 * row_bytes), 1)
    parts = [
        _pack_rows(weight_format, *rows, by_lanes)
        for rows in zip(codes.flatten(0, 1).split(most_rows), scales.flatten(0, 1).split(most_rows), strict=True)
    ]
    words, words_scales, factor = (
        torch.cat(part).unflatten(0, (num_experts, num_rows)) for part in zip(*parts, strict=True)
    )
    return Words(words.transpose(1, 2).contiguous(), words_scales.transpose(1, 2).contiguous(), factor)


def _pack_rows(
    weight_format: str, codes: torch.Tensor, scales: torch.Tensor, by_lanes: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words [rows, steps, 32], scales [rows, steps] and factors [rows] of codes [rows, k / 2]."""
    steps = -(-2 * codes.shape[1] // STEP)
    groups = STEP // GROUP_SIZES[weight_format]
    nibbles = unpack_nibbles(codes)
    if weight_format == "mxfp4":
        scale_bytes, is_zero, factor = _mxfp4_bytes(scales)
    else:
        scale_bytes, is_zero = _e4m3_bytes(scales)
        factor = torch.full((len(codes),), 2.0**8, device=codes.device)
    nibbles = torch.where(is_zero.repeat_interleave(GROUP_SIZES[weight_format], 1), 0, nibbles)
    nibbles = _pad(nibbles, steps * STEP)
    if by_lanes:  # [R, steps, lane, quarter, word]
        nibbles = nibbles.unflatten(1, (steps, 4, 4, 8)).transpose(2, 3).flatten(1)
    quarters = nibbles.to(torch.int32).unflatten(1, (steps, 4, QUARTER)).unbind(2)  # [R, steps, 32]
    words = sum((_place_e2m1(codes, quarter) for quarter, codes in enumerate(quarters)), torch.zeros_like(quarters[0]))
    scale_bytes = _pad(scale_bytes, steps * groups).unflatten(1, (steps, groups))
    if weight_format == "nvfp4" and not by_lanes:  # two groups of a quarter lie 16 bits apart
        scale_bytes = scale_bytes.unflatten(2, (2, 2, 2)).transpose(3, 4).flatten(2)
    words_scales = scale_bytes.contiguous().view(torch.int32 if groups == 4 else torch.int64)[:, :, 0]
    return words.to(torch.int16), words_scales, factor


def _pad(x: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, columns - x.shape[1]))


def _place_e2m1(codes: torch.Tensor, quarter: int) -> torch.Tensor:
    """Shifted left by 0, 3, 6 sign and magnitude are at bit 15 and at bits 8 to 6; the last fills what is left."""
    sign, magnitude = codes >> 3 << 15, (codes & 7) << 6
    if quarter < 3:
        return (sign | magnitude) >> 3 * quarter
    return sign >> 1 | (magnitude & 0x100) << 5 | (magnitude & 0xC0) << 4


def _mxfp4_bytes(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exponents of the factors, which groups' codes must be 0, and 2 ** (largest - 127) by row."""
    is_nan = scales == E8M0_NAN  # the factor is infinity, and times 0 it is NaN
    largest = torch.where(is_nan, 0, scales).amax(1).to(torch.int32)
    relative = (scales.to(torch.int32) + LARGEST_BYTE - largest[:, None]).clamp(min=0)
    factor = torch.ldexp(torch.ones(largest.shape, device=scales.device), largest - 127)
    return torch.where(is_nan, 255, relative).to(torch.uint8), is_nan, factor


def _e4m3_bytes(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """5 bits of exponent (biased) and 3 of fraction, and which groups' codes must be 0."""
    values = scales.float()
    fraction, exponent = torch.frexp(torch.where(values.isfinite(), values, 1.0))  # fraction in [0.5, 1)
    byte = (exponent.to(torch.int32) - 1 + 21 << 3) + ((fraction * 16).to(torch.int32) - 8)
    is_zero = values == 0
    byte = torch.where(is_zero, 0, torch.where(values.isnan(), 255, byte))
    return byte.to(torch.uint8), is_zero
