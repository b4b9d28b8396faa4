"""What a GPU has of streaming multiprocessors, which a persistent kernel launches programs for, and of their memory."""

from typing import Any

import torch

DEFAULT_NUM_SMS = 132
"""Of an H200 and an H100 SXM: what is compiled for where there is no GPU."""
DEFAULT_SHARED_BYTES = 227 * 1024
"""Likewise."""


def count_sms(device: torch.device) -> int:
    """Streaming multiprocessors of the device; DEFAULT_NUM_SMS where it is not a GPU (interpreted or only compiled)."""
    if device.type != "cuda":
        return DEFAULT_NUM_SMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def count_shared_bytes(device: torch.device) -> int:
    """Most shared memory of a program; DEFAULT_SHARED_BYTES where the device is not a GPU."""
    if device.type != "cuda":
        return DEFAULT_SHARED_BYTES
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stubs lack this one
    return int(properties.shared_memory_per_block_optin)
