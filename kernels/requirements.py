"""What providers ask before they say that they can run: the device's capability, an installed package."""

import importlib.util

from kernels.spec import Device

NO_VLLM = "needs the vllm package, which is not installed"


def missing_capability(device: Device, *capabilities: tuple[int, int]) -> str | None:
    """Why the device is not a GPU, or older than the least capability; None if it will do.

    Args:
        capabilities: the least one; several mean those exact families, e.g. (10, 0), (12, 0).
    """
    if device.type != "cuda":
        return f"needs a CUDA GPU (this is {device.type})"
    if len(capabilities) == 1 and device.capability >= capabilities[0]:
        return None
    if len(capabilities) > 1 and device.capability[0] in {major for major, _ in capabilities}:
        return None
    names = " or ".join(f"sm_{major}{minor}" for major, minor in capabilities)
    return f"needs {names} (this is {device.arch})"


def missing_vllm() -> str | None:
    """Why vLLM cannot be imported; its folder is looked for, importing it takes seconds."""
    return NO_VLLM if importlib.util.find_spec("vllm") is None else None
