"""Quantized weights of one layer, made where they are used; only a receipt leaves the worker."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from kernels.errors import OutOfMemoryError
from kernels.footprint import weights_footprint
from kernels.registry import find_kernel
from kernels.spec import Layer, Tensors
from kernels.timing.devices import synchronize
from tasks.records import WeightsReceipt

GIB = 2**30
PIECE_BYTES = 32 * 2**20
"""Of a tensor that one thread hashes."""
MOST_HASHERS = 16
"""Threads, each with a piece in memory."""


def hash_tensors(tensors: Tensors) -> str:
    """sha256 over name, dtype, shape and the sha256 of every piece of each tensor, in name order; "" for none.

    Pieces are copied and hashed side by side: one after the other takes longer than to generate them.
    """
    if not tensors:
        return ""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(MOST_HASHERS, os.cpu_count() or 1)) as hashers:
        for name in sorted(tensors):
            tensor = tensors[name].detach().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for piece in hashers.map(hash_bytes, torch.split(tensor.reshape(-1).view(torch.uint8), PIECE_BYTES)):
                digest.update(piece)
    return digest.hexdigest()


def hash_bytes(piece: torch.Tensor) -> bytes:
    """sha256 of bytes, wherever they are."""
    return hashlib.sha256(piece.cpu().numpy().data).digest()


def require_memory(layer: Layer, device: torch.device) -> None:
    """Refuse a layer that certainly does not fit, before anything of it is allocated.

    Raises:
        OutOfMemoryError: making the weights takes more memory than is free.
    """
    needed, free_bytes = weights_footprint(layer), free_memory(device)
    if needed.peak_bytes > free_bytes:
        raise OutOfMemoryError(
            f"the weights of {layer.key} are {needed.size_bytes / GIB:.2f} GiB and need {needed.peak_bytes / GIB:.2f} "
            f"GiB while they are made, {free_bytes / GIB:.2f} GiB are free on {device}: "
            "use a larger tp_size or ep_size, or a device with more memory"
        )


def require_free(size_bytes: int, device: torch.device, what: str) -> None:
    """Refuse what does not fit beside what is there, before it is allocated.

    Raises:
        OutOfMemoryError: less is free.
    """
    free_bytes = free_memory(device) if size_bytes else 0
    if size_bytes > free_bytes:
        raise OutOfMemoryError(
            f"{what} are {size_bytes / GIB:.2f} GiB, {free_bytes / GIB:.2f} GiB are free on {device}: "
            "use a larger tp_size or ep_size, or a device with more memory"
        )


def free_memory(device: torch.device, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that can be allocated on the device; on a CPU without swapping, as Linux estimates."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].removesuffix("kB")) * 1024


def generate_weights(layer: Layer, seed: int, device: torch.device, host_id: str) -> tuple[Tensors, WeightsReceipt]:
    """Generate a layer's weights from a seed.

    Returns:
        The tensors on `device`, and the receipt: the same layer, seed, device type and torch give the same sha256.
    Raises:
        OutOfMemoryError: they do not fit.
    """
    require_memory(layer, device)
    start = time.perf_counter()
    weights = find_kernel(layer.kernel).make_weights(layer, seed, device)
    synchronize(device)
    seconds = time.perf_counter() - start
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return weights, WeightsReceipt(layer.key, seed, hash_tensors(weights), size_bytes, seconds, host_id)
