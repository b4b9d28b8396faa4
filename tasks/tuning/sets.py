"""What a set of tuned configurations is for, what it was tuned with, and how it stands."""

from dataclasses import dataclass
from enum import StrEnum

from kernels.moe.vllm_config_files import ConfigKey


class SetState(StrEnum):
    """What is known of a set."""

    FRESH = "fresh"
    STALE = "stale"
    UNKNOWN = "unknown"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a set was tuned with, or would be tonight; None is what nobody noted."""

    source_sha256: str | None = None
    """Of the kernel's source; of a library's kernel its name and version instead."""
    triton_version: str | None = None
    space_sha256: str | None = None
    """Of the search space (Space.sha256)."""


@dataclass(frozen=True, slots=True, order=True)
class SetKey:
    """The identity of a set."""

    kernel: str
    provider: str
    num_experts: int
    """E of one rank; 0 of a linear layer."""
    intermediate_size: int
    """N of one rank; n of a linear layer."""
    hidden_size: int
    """K; k of a linear layer."""
    top_k: int
    """0 of a linear layer."""
    scheme: str
    block_shape: tuple[int, int]
    """Weights per scale, [rows, columns]; (0, 0) without blocks."""
    device_name: str
    """E.g. "NVIDIA H200"."""

    @property
    def label(self) -> str:
        """A short name for people."""
        sizes = f"N={self.intermediate_size},K={self.hidden_size}"
        if self.num_experts:
            sizes = f"E={self.num_experts},{sizes},top_k={self.top_k}"
        return f"{self.provider} of {self.kernel} {sizes} {self.scheme} on {self.device_name}"

    @property
    def config_key(self) -> ConfigKey:
        """What vLLM names the set's file after."""
        from kernels.moe.vllm_configs import config_key  # imports torch

        return config_key(self.num_experts, self.intermediate_size, self.scheme, self.device_name)
