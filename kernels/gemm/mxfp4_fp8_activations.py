"""Activations in MXFP4 as rows of FP8: rotated and rounded, or unpacked if they are prequantized.

Rows are short enough for registers, or lie in shared memory (kernels/gemm/mxfp4_rotate_hopper.py).
"""

from dataclasses import dataclass

import torch
import triton

from kernels.gemm.descriptors import in_tiles
from kernels.gemm.mxfp4_fp8_kernels import NUM_ARRIVED, rotate_to_fp8_kernel, rows_to_fp8_kernel
from kernels.gemm.mxfp4_hopper import STEP
from kernels.gemm.mxfp4_rotate_hopper import LINES, rotate_to_fp8_hopper_kernel
from kernels.quantize.fp4 import MXFP4_GROUP_SIZE
from kernels.quantize.fp8 import FP8_DTYPE

REGISTERS = 96
"""Of a thread, where an SM has more than a few rows: it holds five of 8192 columns at a time then, else four."""
FEW_ROWS = 256
"""Up to so many, two for an SM, have a warp for 1024 columns of a row, more for 2048: others are rotated meanwhile."""
LEAST_GROUPS = 32
"""Of a program that unpacks prequantized rows: with fewer the four bytes that its assembly takes are of two threads."""
LONGEST_ROW = 8192
LONGEST_SHARED_ROW = 65536
LEAST_LONG_ROWS = 256
"""Rows between these lengths, if there are so many, are rotated in shared memory: in registers one fills an SM."""


@dataclass(frozen=True, slots=True)
class Fp8Rows:
    """Rows of MXFP4 as FP8 codes times a power of two, and those that this cannot hold."""

    codes: torch.Tensor
    """[M, k] float8_e4m3fn."""
    scale: torch.Tensor
    """[splits, M] float32."""
    values: torch.Tensor
    """[M, k] bfloat16, written where is_wide."""
    is_wide: torch.Tensor
    """[splits, M] int32."""
    arrived: torch.Tensor
    """[NUM_ARRIVED] int32, zeros."""
    is_early: bool = False
    """Whether the launch that reads them may begin before the one that writes them has ended."""


def empty_rows(m: int, k: int, splits: int, device: torch.device, *, is_early: bool = False) -> Fp8Rows:
    """Room for m rows of k columns, whose splits have scales of their own."""
    return Fp8Rows(
        codes=torch.empty(m, k, dtype=FP8_DTYPE, device=device),
        scale=torch.empty(splits, m, device=device),
        values=torch.empty(m, k, dtype=torch.bfloat16, device=device),
        is_wide=torch.empty(splits, m, dtype=torch.int32, device=device),
        arrived=torch.empty(NUM_ARRIVED.value, dtype=torch.int32, device=device),
        is_early=is_early,
    )


def size_of_split(k: int, splits: int) -> int:
    """Columns that a split of the sum has: whole steps."""
    columns: int = STEP.value * triton.cdiv(k, STEP.value * splits)
    return columns


def rotate_to_fp8(x: torch.Tensor, hadamard_size: int, splits: int = 1) -> Fp8Rows:
    """What quantize_mxfp4(rotate_hadamard(x, hadamard_size)) stands for; x [M, k] bfloat16 or float16, contiguous."""
    m, k = x.shape
    if splits == 1 and LONGEST_ROW < k <= LONGEST_SHARED_ROW and m >= LEAST_LONG_ROWS:
        return rotate_long_rows(x, hadamard_size)
    size = size_of_split(k, splits)
    rows = empty_rows(m, k, splits, x.device, is_early=k <= LONGEST_ROW)  # beside longer ones a product took longer
    groups = max(triton.next_power_of_2(size // hadamard_size), 16)
    columns_of_warp = 1024 if splits == 1 and m <= FEW_ROWS else 2048
    registers = REGISTERS if m > FEW_ROWS else None
    rotate_to_fp8_kernel[(m, splits)](
        x, rows.codes, rows.scale, rows.values, rows.is_wide, rows.arrived, k, size,
        HADAMARD_SIZE=hadamard_size, RSQRT_SIZE=hadamard_size**-0.5, GROUPS=groups,
        num_warps=min(max(groups * hadamard_size // columns_of_warp, 4), 16), maxnreg=registers,
    )  # fmt: skip
    return rows


def rotate_long_rows(x: torch.Tensor, hadamard_size: int) -> Fp8Rows:
    """The same, with rows in shared memory, not split."""
    m, k = x.shape
    rows = empty_rows(m, k, 1, x.device)
    rotate_to_fp8_hopper_kernel[(m,)](
        in_tiles(x.view(-1, hadamard_size), LINES.value, hadamard_size),
        rows.codes, rows.scale, rows.values, rows.is_wide, rows.arrived, k,
        RSQRT_SIZE=hadamard_size**-0.5, PARTS=triton.cdiv(k, LINES.value * hadamard_size), num_warps=8,
    )  # fmt: skip
    return rows


def rows_to_fp8(codes: torch.Tensor, scales: torch.Tensor, splits: int = 1) -> Fp8Rows:
    """What codes [M, k / 2] with scales [M, k / 32] stand for."""
    m, k = codes.shape[0], 2 * codes.shape[1]
    rows, size = empty_rows(m, k, splits, codes.device), size_of_split(k, splits)
    rows_to_fp8_kernel[(m, splits)](
        codes, scales, rows.codes, rows.scale, rows.values, rows.is_wide, rows.arrived, k, size,
        GROUPS=max(triton.next_power_of_2(size // MXFP4_GROUP_SIZE), LEAST_GROUPS),
    )  # fmt: skip
    return rows
