"""What a suite is made of: kernels on the layers of models, and on grids of sizes; the schemes there are to name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Options = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """One kernel of a model's layer, with what to run it on."""

    kernel: str
    schemes: tuple[str, ...]
    """Quantization schemes; () is the kernel's default."""
    batch_sizes: tuple[int, ...]
    """Numbers of tokens: M, or T of batched activation formats."""
    options: Options = field(hash=False, default_factory=dict)
    """Values of each case option to run; an option left out runs at the kernel's default."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model under one parallelism and the kernels to run on its layer."""

    model: str
    """A vendored name."""
    tp_size: int
    kernels: tuple[KernelEntry, ...]
    enable_expert_parallel: bool = False
    """Split the experts over the tp_size ranks instead of their columns."""


@dataclass(frozen=True, slots=True)
class GridEntry:
    """A kernel on sizes that belong to no model."""

    kernel: str
    sizes: Mapping[str, int] = field(hash=False)
    """Exactly the kernel's size_names."""
    batch_sizes: tuple[int, ...]
    options: Options = field(hash=False, default_factory=dict)
    schemes: tuple[str, ...] = ()
    """Quantization schemes; () is the kernel's default."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of measurements."""

    name: str
    description: str
    """One line for people."""
    entries: tuple[ModelEntry | GridEntry, ...]
    min_device: Literal["cpu", "cuda"]
    """The least device it is meant for."""
    timers: tuple[str, ...] = ()
    """Names of the timers of its cases (kernels/timing/timers.py); () is the first of the device."""
    tuning_seconds: float = 0.0
    """Of searching new configurations for stale sets in a run of the whole suite; 0 only lists them."""


SCHEMES_OF_MOE_KERNELS: Mapping[str, tuple[str, ...]] = {
    "fused_moe": (
        "unquantized",
        "fp8_w8a8",
        "fp8_w8a8_block128",
        "fp8_w8a8_channel",
        "int8_w8a16",
        "int8_w8a16_group128",
        "int8_w8a8",
    ),
    "w4a8_moe": ("int4_w4a8_fp8",),
    "nvfp4_moe": ("nvfp4_w4a16", "nvfp4_w4a4"),
    "mxfp4_moe": ("mxfp4_w4a16", "mxfp4_w4a4"),
}
HADAMARD_SCHEMES = ("mxfp4_w4a4_hadamard32", "mxfp4_w4a4_hadamard64", "mxfp4_w4a4_hadamard128")
SILU_SCHEMES = (
    "fp8_group128",
    "fp8_group64",
    "fp8_group256",
    "fp8_group128_ue8m0",
    "fp8_group64_ue8m0",
    "fp8_group256_ue8m0",
)
SILU_SIZES = ((8, 1024, 7168), (32, 1024, 7168), (256, 1024, 7168), (256, 64, 2048), (9, 64, 7168))
"""Experts, most tokens of each and columns: wide and narrow, few and many."""

STANDARD: Options = {}
BATCHED: Options = {"activation_format": ("batched",)}
ROUTER_WEIGHT_ON_INPUT: Options = {"apply_router_weight_on_input": ("true",)}
BOTH_ACTIVATIONS: Options = {"activations": ("dynamic", "prequantized")}


def silu_grid(
    num_experts: int, intermediate_size: int, batch_sizes: tuple[int, ...], *strategies: str, schemes: tuple[str, ...]
) -> GridEntry:
    """silu_mul_fp8 on batched experts with the given token strategies."""
    sizes = {"num_experts": num_experts, "intermediate_size": intermediate_size}
    return GridEntry("silu_mul_fp8", sizes, batch_sizes, {"token_strategy": strategies}, schemes)
