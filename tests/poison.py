"""Memory that nobody wrote is NaN: who reads it, or leaves it where an output belongs, is found out."""

import torch


def poisoned_empty(*args, empty=torch.empty, **kwargs) -> torch.Tensor:
    """In place of torch.empty."""
    tensor = empty(*args, **kwargs)
    tensor.view(torch.uint8).fill_(0xFF)  # NaN in bfloat16, float16, float32, e4m3 and e8m0, -1 in int8 and int32
    return tensor
