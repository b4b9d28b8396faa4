"""How many streaming multiprocessors there are: what a persistent kernel launches programs for."""

import torch

DEFAULT_NUM_SMS = 132
"""Of an H200 and an H100 SXM: what is compiled for where there is no GPU."""


def count_sms(device: torch.device) -> int:
    """Streaming multiprocessors of the device; DEFAULT_NUM_SMS where it is not a GPU (interpreted or only compiled)."""
    if device.type != "cuda":
        return DEFAULT_NUM_SMS
    return torch.cuda.get_device_properties(device).multi_processor_count
