"""INT4 weights in the layout that our kernels for FP8 tensor cores read, repacked once when a layer is loaded.

As kernels/gemm/w4_words.py has it, but of each row and step of 128 columns there are 64 bytes: byte i holds columns i
(low nibble) and 64 + i (high). A number from 0 to 15 in a byte, read as e4m3, is that number times 2**-9, subnormal or
not, so unpacking takes a mask, and of high nibbles a shift. What is multiplied by a column's activations is

    even columns    (code + 8) * 2**-9    nibble code + 8
    odd columns    -(7 - code) * 2**-9    nibble 7 - code; the sign comes with the mask

which is code * 2**-9 and an offset in [8, -7] * 2**-9. Whoever quantizes a row of activations also writes, for each
128 of its columns, minus the sum of offset times code (OFFSETS): added to the product of the 128 columns, it is what is
left of the weights. Two signs, because the tensor core keeps about 14 bits of a sum: with one, activations that have a
mean, which weights have not, would make sums so large that 5 % of the result were lost (simulated: positive
activations, K = 4096); with two it is below 0.2 %. The 2**9 is in `factor`, which multiplies whole sums.
"""

import torch

from kernels.gemm.words import STEP, Words
from kernels.quantize.fp4 import unpack_nibbles

OFFSETS = (8 * 2.0**-9, -7 * 2.0**-9)
"""Of even and odd columns."""


def pack_int4(codes: torch.Tensor, scales: torch.Tensor) -> Words:
    """Repack matrices.

    Args:
        codes: [E, R, k / 2] uint8, int4 in two's complement, the first of two codes in the low nibble; k is a multiple
            of 128.
        scales: [E, R, k / 128] float8_e4m3fn.
    Returns:
        Words that take as many bytes.
    """
    num_experts, num_rows, row_bytes = codes.shape
    steps = 2 * row_bytes // STEP
    words = torch.empty(num_experts, steps, num_rows, STEP // 2, dtype=torch.uint8, device=codes.device)
    flips = torch.tensor([8, 7], dtype=torch.uint8, device=codes.device).repeat(row_bytes)  # of two's complement
    for expert, matrix in enumerate(codes):
        low, high = (unpack_nibbles(matrix) ^ flips).unflatten(1, (steps, 2, STEP // 2)).unbind(2)
        words[expert] = (low | high << 4).transpose(0, 1)
    factor = torch.full((num_experts, num_rows), 2.0**9, device=codes.device)
    return Words(words, scales.transpose(1, 2).contiguous(), factor)
