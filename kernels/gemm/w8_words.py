"""INT8 weights in the layout that our Triton kernels read, repacked once when a layer is loaded.

As kernels/gemm/w4_words.py has it, but of each row and step of 128 columns there are 64 words of 16 bits: word j holds
the codes of columns j (low) and 64 + j (high) plus 128.

Eight bits at the bottom of a bfloat16 or a float16 are the value times 2**-133 or 2**-24, subnormal or not. One byte
permutation of a register moves the codes of two columns there, and one multiply-add takes the 128 away:

    bfloat16  (code + 128) * 2**-133 * 2**124 - 1 / 4 = code / 512
    float16   (code + 128) * 2**-24  * 2**15  - 1 / 4 = code / 512

That is exact in both. The 512 is in `factor`, which multiplies whole sums, with the scale of a row that has one.
"""

import torch

from kernels.gemm.words import STEP, Words

HALF = STEP // 2
ZERO = 128
"""What is added to a code."""


def pack_int8(codes: torch.Tensor, scales: torch.Tensor) -> Words:
    """Repack matrices; columns are padded with zeros to whole steps.

    Args:
        codes: [E, R, k] int8.
        scales: [E, R, 1], or [E, R, k / 128] float32.
    Returns:
        Words that take as many bytes.
    """
    num_experts, num_rows, k = codes.shape
    steps = -(-k // STEP)
    words = torch.empty(num_experts, steps, num_rows, HALF, dtype=torch.int16, device=codes.device)
    for expert, matrix in enumerate(codes):
        padded = torch.nn.functional.pad(matrix.view(torch.uint8) ^ ZERO, (0, steps * STEP - k), value=ZERO)
        halves = padded.unflatten(1, (steps, 2, HALF)).permute(1, 0, 3, 2)  # [steps, R, 64, 2]
        words[expert] = halves.contiguous().view(torch.int16)[..., 0]
    factor = torch.full((num_experts, num_rows), 512.0, device=codes.device)
    if scales.shape[2] == 1:
        return Words(words, None, factor * scales[:, :, 0])
    return Words(words, scales.transpose(1, 2).contiguous(), factor)
