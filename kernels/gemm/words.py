"""What every layout of repacked weights has in common: the record, and where it is kept."""

from dataclasses import dataclass

import torch

from kernels.gemm.once import OncePerTensor

STEP = 128
"""Columns of a step of the sum; matrices are padded to whole ones."""


@dataclass(frozen=True, slots=True)
class Words:
    """Matrices of weights as the kernels read them: all rows of a step lie one after the other."""

    words: torch.Tensor
    """[E, steps, R, 32] int16 (mxfp4, nvfp4), [E, steps, R, 64] uint8 (int4) or int16 (int8)."""
    scales: torch.Tensor | None
    """[E, steps, R] int32 (mxfp4: four bytes, the first is low), int64 (nvfp4: eight), float8_e4m3fn (int4) or
    float32 (int8 with a scale per step); None if a row has one scale."""
    factor: torch.Tensor
    """[E, R] float32: of whole sums."""

    @property
    def num_rows(self) -> int:
        return self.words.shape[2]


PACKED = OncePerTensor[Words]()
"""By the codes of matrices, their words."""
PACKED_BY_LANES = OncePerTensor[Words]()
"""The same, each lane's columns side by side: another order, so that `triton` and `triton-gluon` of FP4 experts, which
are timed in turn, have a copy each, of 6070 MiB for DeepSeek-R1-FP4 on one GPU."""


def interleave_gate_up(w1: torch.Tensor) -> torch.Tensor:
    """[E, 2 N, ...] with gate rows before up rows, as rows of both in turn."""
    rows: torch.Tensor = w1.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return rows


def gate_up_by_lanes(w1: torch.Tensor) -> torch.Tensor:
    """[E, 2 N, columns] with gate rows before up rows, as eight of each in turn; zeros pad N to whole steps.

    Both are in the order in which lanes multiply the columns of w2.
    """
    gate_and_up = w1.view(torch.uint8).unflatten(1, (2, -1))
    padded = torch.nn.functional.pad(gate_and_up, (0, 0, 0, -gate_and_up.shape[2] % STEP))
    ordered = padded.unflatten(2, (-1, 4, 16, 2)).transpose(3, 4).flatten(2, 5)
    rows: torch.Tensor = ordered.unflatten(2, (-1, 8)).transpose(1, 2).flatten(1, 3)
    return rows.view(w1.dtype)
