"""What a device is and does to memory: its name, its L2, waiting for it, poisoned memory."""

import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kernels.spec import Device

POISON_BYTE = 0xFF
SMALL_BLOCK_BYTES = 1 << 20
MAX_SMALL_BLOCKS = 32


def synchronize(device: torch.device) -> None:
    """Wait until everything launched on the device has finished; a failed launch raises here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(device: torch.device) -> Device:
    """What a torch device is: its marketing name and compute capability."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return Device("cuda", torch.cuda.get_device_name(device), capability)
    return Device(device.type, f"cpu: {cpu_name()}")


def l2_bytes(device: torch.device) -> int:
    """Size of a GPU's L2 cache."""
    size: int = torch.cuda.get_device_properties(device).L2_cache_size
    return size


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name; the machine type ("aarch64") where Linux names none."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next(names, "") or platform.machine()


def poison_memory(size_bytes: int, device: torch.device) -> None:
    """Leave NaN (0xFF bytes, in float8, bfloat16 and float32) where the next outputs will be allocated.

    A kernel that leaves part of its output unwritten then shows NaN instead of an earlier provider's right answer.
    CUDA's caching allocator serves requests up to 1 MiB from a pool of their own, so that pool is poisoned as well. On
    a CPU this is best effort: the C library may hand freed memory back to the system.

    Args:
        size_bytes: at least the size of the outputs.
    """
    num_small = min(MAX_SMALL_BLOCKS, math.ceil(size_bytes / SMALL_BLOCK_BYTES))
    sizes = [size_bytes] + [SMALL_BLOCK_BYTES] * num_small
    blocks = [torch.empty(size, dtype=torch.uint8, device=device).fill_(POISON_BYTE) for size in sizes]
    del blocks


@contextmanager
def erasing(outputs: Sequence[torch.Tensor]) -> Iterator[None]:
    """Overwrite the outputs with NaN (0xFF bytes) after the block, wherever in their storage they lie.

    The allocator hands freed memory to whoever asks for the same size next: a provider that writes nothing would be
    served the right answer of the one before.
    """
    try:
        yield
    finally:
        for tensor in outputs:
            storage = tensor.untyped_storage()
            torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage).fill_(POISON_BYTE)
