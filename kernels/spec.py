"""What a file in kernels/ declares: which sizes it takes, its inputs, its reference, its providers and its cost.

Layer  one kernel x one layer shape x one quantization scheme: what weights are generated for
Case   a layer x a number of tokens x options: what a provider is checked and timed on
Kernel the declaration at the end of each kernel file; kernels/registry.py finds it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernels.errors import RegistryError

if TYPE_CHECKING:  # the command line names cases and layers without waiting for torch
    import torch

Tensors = dict[str, "torch.Tensor"]
Outputs = tuple["torch.Tensor", ...]


@dataclass(frozen=True, slots=True)
class Device:
    """Where a provider would run: what it may ask before it says that it can."""

    type: str
    """"cuda" or "cpu", as in torch.device."""
    name: str
    """Marketing name, e.g. "NVIDIA H200"; part of a series' identity."""
    capability: tuple[int, int] = (0, 0)
    """CUDA compute capability, (0, 0) on a CPU."""

    @property
    def arch(self) -> str:
        """The field's name of the architecture: "sm_90", or "cpu"."""
        return f"sm_{self.capability[0]}{self.capability[1]}" if self.type == "cuda" else self.type


@dataclass(frozen=True, slots=True)
class Layer:
    """One kernel on one layer of one model under one quantization scheme, as one rank sees it."""

    kernel: str
    """Name of the kernel, the same as its file."""
    model: str
    """Short model name, e.g. "Qwen3-30B-A3B", or "grid" for sizes that belong to no model."""
    tp_size: int
    """Tensor-parallel ranks the layer is split over."""
    ep_size: int
    """Expert-parallel ranks the experts are split over; 1 without expert parallelism."""
    scheme: str
    """Quantization scheme, one of Kernel.schemes."""
    dtype: str
    """Activation dtype, e.g. "bfloat16"."""
    sizes: Mapping[str, int] = field(hash=False)
    """Sizes per rank by name, exactly Kernel.size_names."""
    module: str = ""
    """vLLM's name of the linear layer, e.g. "qkv_proj", where a model has several of the kernel; else ""."""

    @property
    def key(self) -> str:
        """The identity of the layer, readable and stable across runs."""
        model = f"{self.model}.{self.module}" if self.module else self.model
        sizes = ",".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"{self.kernel}/{model}/tp{self.tp_size}/ep{self.ep_size}/{self.scheme}/{self.dtype}/{sizes}"

    @property
    def label(self) -> str:
        """A short name for people: model, module and parallelism."""
        if self.model == "grid":
            return "grid"
        parts = (self.model, self.module, f"TP{self.tp_size}", f"EP{self.ep_size}" if self.ep_size > 1 else "")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Case:
    """A layer at one number of tokens: what every provider is checked and timed on."""

    layer: Layer
    num_tokens: int
    """Tokens of the batch (M); for batched activation formats the most tokens one expert may hold (T)."""
    options: Mapping[str, str] = field(hash=False, default_factory=dict)
    """Options that are not at their default, e.g. {"token_strategy": "max_t"}; a new option leaves old keys alone."""

    @property
    def key(self) -> str:
        """The identity of the case, readable and stable across runs."""
        options = "".join(f"/{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.layer.key}/num_tokens={self.num_tokens}{options}"

    @property
    def label(self) -> str:
        """A short name for people: model, scheme, tokens and options."""
        return " ".join((self.layer.label, self.layer.scheme, f"M={self.num_tokens}", *self.option_labels))

    @property
    def option_labels(self) -> tuple[str, ...]:
        """What a person reads of the options."""
        return tuple(label_option(name, value) for name, value in sorted(self.options.items()))


@dataclass(frozen=True, slots=True)
class Launch:
    """A provider made ready for one case: everything one-off is done, `run` is what gets timed."""

    run: Callable[[], Outputs]
    """Launches the kernel once; allocates its outputs, never synchronizes, so that a CUDA graph can capture it."""
    config: Mapping[str, object] = field(default_factory=dict)
    """Launch configuration that was chosen (block sizes, warps, stages, where from)."""


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One Triton kernel as compiled for one architecture."""

    name: str
    """Name of the jit function."""
    arch: str
    """Architecture, e.g. "sm_90"."""
    num_warps: int
    """Warps per program."""
    registers: int
    """Registers per thread."""
    spill_bytes: int
    """Local memory per thread: what did not fit into the registers."""
    shared_bytes: int
    """Shared memory per program."""
    sha256: str
    """Digest of the machine code, without debug information (kernels/launches.py)."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One implementation of a kernel."""

    prepare: Callable[[Case, Tensors, Tensors], Launch]
    """(case, weights, inputs) -> Launch; may repack weights, pick a config, compile."""
    unsupported: Callable[[Case, Device], str | None]
    """Why this provider cannot run the case on the device ("needs sm_100 (this is sm_90)"), or None if it can."""
    tolerance: Mapping[str, Tolerance] = field(hash=False, default_factory=dict)
    """By scheme, how far it may be from the reference where it computes another function on purpose, and why."""
    prepare_with: Callable[[Case, Tensors, Tensors, Mapping[str, object]], Launch] | None = None
    """As `prepare`, with the `config` of an earlier Launch or of a tuner; None if it takes none. Raises ConfigError."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a provider may be from the reference, and why that far."""

    relative_error: float
    """Most ||output - reference|| / ||reference|| (Frobenius) that passes."""
    element_error: float
    """An element is close when |output - reference| <= element_error * (|reference| + rms(reference))."""
    share_close: float
    """Least share of elements that must be close."""
    reason: str
    """Where the two figures come from, in one sentence."""


def label_option(name: str, value: str) -> str:
    """What a person reads of an option: its value, or its name where it is switched on."""
    return name if value == "true" else value


def first_output(case: Case, inputs: Tensors, outputs: Outputs) -> torch.Tensor:
    """The usual `decode`: the kernel has one output and it is compared as it is, in float32."""
    return outputs[0].float()


def count_no_weights(layer: Layer) -> int:
    """The usual `num_weights` of a kernel without weights."""
    return 0


def accept_layer(layer: Layer) -> None:
    """The usual `check_layer`: every size will do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The declaration at the end of kernels/<name>.py; everything the system knows about a kernel."""

    name: str
    """The same as the file's."""
    title: str
    """One line for people."""
    schemes: tuple[str, ...]
    """Quantization schemes it can generate weights for; the first is the default."""
    size_names: tuple[str, ...]
    """The sizes a Layer of this kernel has, in the order its key spells them."""
    make_weights: Callable[[Layer, int, torch.device], Tensors]
    """(layer, seed, device) -> tensors shared by every case of the layer; {} if there are none."""
    make_inputs: Callable[[Case, Tensors, int, torch.device], Tensors]
    """(case, weights, seed, device) -> tensors of this case."""
    reference: Callable[[Case, Tensors, Tensors], torch.Tensor]
    """(case, weights, inputs) -> float32 result in plain torch, float32 accumulation."""
    providers: Mapping[str, Provider]
    baseline: str
    """The provider that speed-ups are told against."""
    tolerance: Mapping[str, Tolerance]
    """By scheme."""
    flops: Callable[[Case, Tensors], int]
    """(case, inputs) -> floating-point operations the result needs (a multiply-add is two)."""
    bytes_moved: Callable[[Case, Tensors], int]
    """(case, inputs) -> least bytes through device memory: every input read once, every output written once."""
    gemm_dtype: Mapping[str, str] = field(default_factory=dict)
    """By scheme, the torch dtype that our kernel multiplies on tensor cores, whose measured rate bounds it; or {}."""
    decode: Callable[[Case, Tensors, Outputs], torch.Tensor] = first_output
    """(case, inputs, outputs of a provider) -> what is compared with the reference."""
    num_weights: Callable[[Layer], int] = count_no_weights
    """Weights of the layer before quantization: what a format saves is told against 16 bits each."""
    check_layer: Callable[[Layer], None] = accept_layer
    """Raises ShapeError when the layer's sizes do not fit its scheme."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values each option of a case may take; the first is the default."""

    def tolerance_of(self, provider: str, scheme: str) -> Tolerance:
        """What the provider's output is judged by."""
        return self.providers[provider].tolerance.get(scheme, self.tolerance[scheme])

    def __post_init__(self) -> None:
        if self.baseline not in self.providers:
            known = ", ".join(self.providers)
            raise RegistryError(f"kernel {self.name}: baseline {self.baseline!r} is not one of its providers ({known})")
        if not self.schemes or not self.size_names:
            raise RegistryError(f"kernel {self.name}: schemes and size_names must name at least one each")
        if set(self.tolerance) != set(self.schemes):
            raise RegistryError(
                f"kernel {self.name}: tolerance must have exactly its schemes ({', '.join(self.schemes)})"
            )
