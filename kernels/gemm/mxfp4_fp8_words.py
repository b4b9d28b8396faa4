"""MXFP4 weights in the layout that the products of MXFP4 as FP8 read, repacked once when a layer is loaded."""

from dataclasses import dataclass

import torch

from kernels.errors import ConfigError
from kernels.gemm.mxfp4_fp8_codes import LARGEST_SHIFT, LEAST_SHIFT
from kernels.gemm.once import OncePerTensor
from kernels.quantize.fp4 import E8M0_NAN, MXFP4_GROUP_SIZE, e8m0_values

WIDEST_SPAN_OF_WEIGHTS = LARGEST_SHIFT.value - LEAST_SHIFT.value
"""Of a row's scales, in powers of two."""


@dataclass(frozen=True, slots=True)
class Fp8Words:
    """MXFP4 weights as the FP8 kernel reads them: codes stay 4 bits, scales become shifts of exponents.

    Of each row and step of 128 columns there are 64 bytes, all rows of a step one after the other. Four bytes hold
    columns c to c + 3 of the step's first half, and those of its second half: magnitudes in three bits of the nibbles
    of two bytes each, as prmt takes selectors; the sign of byte i's column of either half in bit 7 or 3 of byte i.
    """

    words: torch.Tensor
    """[steps, N, 64] int8."""
    shifts: torch.Tensor
    """[steps, N] int32: a byte for each group of 32, 0 to 11."""
    factor: torch.Tensor
    """[N] float32: of whole sums, a power of two."""


PACKED = OncePerTensor[Fp8Words]()
"""By the codes of a matrix, its words."""


def place_signs(words: torch.Tensor) -> torch.Tensor:
    """Of words int32 of eight e2m1 codes: the sign of code i to bit 8 i + 7, that of code 4 + i to bit 8 i + 3."""
    signs = torch.zeros_like(words)
    for i in range(4):
        signs |= ((words >> 4 * i + 3) & 1) << 8 * i + 7 | ((words >> 4 * i + 19) & 1) << 8 * i + 3
    return words & 0x77777777 | signs


def pack_fp8_words(codes: torch.Tensor, scales: torch.Tensor) -> Fp8Words:
    """Repack weights; columns are padded with zeros to whole steps.

    Args:
        codes: [N, k / 2] uint8, the first of two e2m1 codes in the low nibble.
        scales: [N, k / 32] uint8, e8m0.
    Raises:
        ConfigError: a row's scales span too much for one power of two beside FP8.
    """
    steps = -(-codes.shape[1] // 64)
    is_nan = scales == E8M0_NAN
    is_used = ((codes.unflatten(1, (-1, MXFP4_GROUP_SIZE // 2)) & 0x77) != 0).any(2) & ~is_nan
    largest = torch.where(is_used, scales, 0).amax(1)
    below = torch.where(is_used, largest[:, None].int() - scales, 0)
    span = 0 if below.is_meta else int(below.max())  # who compiles ahead has shapes and no values
    if span > WIDEST_SPAN_OF_WEIGHTS:
        raise ConfigError(
            f"a row of the weights has scales that span {span} powers of two, "
            f"{WIDEST_SPAN_OF_WEIGHTS} at most fit beside FP8: use triton"
        )
    padded = torch.nn.functional.pad(codes, (0, 64 * steps - codes.shape[1]))
    halves = padded.unflatten(1, (steps, 2, 16, 2))  # [N, steps, half, four columns, two bytes of two nibbles]
    words = place_signs(halves.transpose(2, 3).flatten(2).transpose(0, 1).contiguous().view(torch.int32)).view(
        torch.int8
    )
    shifts = (WIDEST_SPAN_OF_WEIGHTS - below).to(torch.uint8)
    shifts = torch.nn.functional.pad(shifts, (0, 4 * steps - shifts.shape[1])).view(torch.int32)
    factor = e8m0_values(largest) * 2.0**-LARGEST_SHIFT.value
    return Fp8Words(words, shifts.T.contiguous(), torch.where(is_nan.any(1), torch.nan, factor))
