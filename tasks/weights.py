"""Quantized weights of one layer, made where they are used; only a receipt leaves the worker."""

import hashlib
import time

import torch

from kernels.registry import find_kernel
from kernels.spec import Layer, Tensors
from kernels.timing import synchronize
from tasks.records import WeightsReceipt


def hash_tensors(tensors: Tensors) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, in name order; "" for none."""
    if not tensors:
        return ""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def generate_weights(layer: Layer, seed: int, device: torch.device, host_id: str) -> tuple[Tensors, WeightsReceipt]:
    """Generate a layer's weights from a seed.

    Returns:
        The tensors on `device`, and the receipt: the same layer, seed, device type and torch give the same sha256.
    """
    start = time.perf_counter()
    weights = find_kernel(layer.kernel).make_weights(layer, seed, device)
    synchronize(device)
    seconds = time.perf_counter() - start
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return weights, WeightsReceipt(layer.key, seed, hash_tensors(weights), size_bytes, seconds, host_id)
