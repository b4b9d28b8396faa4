"""What a run measures when the command line says nothing else: the suites, each a tuple of models and grids."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.errors import UnknownNameError

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


@dataclass(frozen=True, slots=True)
class GridEntry:
    """A kernel on sizes that belong to no model, in the kernel's default scheme."""

    kernel: str
    sizes: Mapping[str, int] = field(hash=False)
    """Exactly the kernel's size_names."""
    batch_sizes: tuple[int, ...]
    options: Options = field(hash=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of measurements."""

    name: str
    description: str
    """One line for people."""
    entries: tuple[ModelEntry | GridEntry, ...]
    min_device: Literal["cpu", "cuda"]
    """The least device it is meant for."""


_SMOKE = Suite(
    name="smoke",
    description="every stage on small batches, on a CPU in about two minutes",
    entries=(
        ModelEntry("Qwen3-30B-A3B", 8, (KernelEntry("fused_moe", ("fp8_w8a8",), (1, 4, 16)),)),
        ModelEntry(
            "Mixtral-8x7B",
            8,
            (
                KernelEntry("fused_moe", ("fp8_w8a8", "fp8_w8a8_block128"), (1, 4, 16)),
                KernelEntry("silu_mul_fp8", (), (16, 64), {"token_strategy": ("uniform", "first_t")}),
            ),
        ),
    ),
    min_device="cpu",
)

_NIGHTLY_BATCH_SIZES = (1, 16, 64, 256, 1024, 4096)
_SILU_GRID = ((8, 1024, 7168), (32, 1024, 7168), (256, 1024, 7168), (256, 64, 2048), (9, 64, 7168))  # E, T, H


def _nightly_model(model: str, tp_size: int, scheme: str) -> ModelEntry:
    return ModelEntry(model, tp_size, (KernelEntry("fused_moe", (scheme,), _NIGHTLY_BATCH_SIZES),))


def _silu_grid_entry(num_experts: int, num_tokens: int, intermediate_size: int) -> GridEntry:
    return GridEntry(
        kernel="silu_mul_fp8",
        sizes={"num_experts": num_experts, "intermediate_size": intermediate_size},
        batch_sizes=(num_tokens,),
        options={"token_strategy": ("uniform", "max_t", "first_t")},
    )


_NIGHTLY = Suite(
    name="nightly",
    description="three models and the silu_mul_fp8 grid on an H200",
    entries=(
        _nightly_model("Mixtral-8x7B", 2, "fp8_w8a8"),
        _nightly_model("DeepSeek-V3", 8, "fp8_w8a8_block128"),
        _nightly_model("Qwen3-30B-A3B", 1, "fp8_w8a8_block128"),
        *(_silu_grid_entry(*sizes) for sizes in _SILU_GRID),
    ),
    min_device="cuda",
)

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (_SMOKE, _NIGHTLY)}


def find_suite(name: str) -> Suite:
    """The suite of that name."""
    if name not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    return SUITES[name]
