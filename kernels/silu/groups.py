"""The groups of columns that share a scale: what each scheme of silu_mul_fp8 says of them, how outputs are laid out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kernels.quantize.fp8 import FP8_DTYPE
from kernels.spec import Case


@dataclass(frozen=True, slots=True)
class GroupScheme:
    """How one scheme scales the columns of a row."""

    group_size: int
    """Columns that share a scale."""
    ue8m0: bool
    """Whether the scales are rounded up to powers of two."""


SCHEMES: Mapping[str, GroupScheme] = {
    "fp8_group128": GroupScheme(128, ue8m0=False),
    "fp8_group64": GroupScheme(64, ue8m0=False),
    "fp8_group256": GroupScheme(256, ue8m0=False),
    "fp8_group128_ue8m0": GroupScheme(128, ue8m0=True),
    "fp8_group64_ue8m0": GroupScheme(64, ue8m0=True),
    "fp8_group256_ue8m0": GroupScheme(256, ue8m0=True),
}


def scheme_of(case: Case) -> GroupScheme:
    """The groups of the case's scheme."""
    return SCHEMES[case.layer.scheme]


def empty_outputs(y: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unwritten codes [E, T, H] and scales [E, T, H / group_size], column-major per expert, as DeepGEMM reads them.

    Scales are float32 in every scheme, UE8M0 too: powers of two that vLLM calls FLOAT32_CEIL_UE8M0.
    """
    num_experts, max_tokens, columns = y.shape
    num_groups = columns // 2 // group_size
    codes = torch.empty(num_experts, max_tokens, columns // 2, dtype=FP8_DTYPE, device=y.device)
    scales = torch.empty(num_experts, num_groups, max_tokens, dtype=torch.float32, device=y.device).transpose(1, 2)
    return codes, scales
