"""What providers ask before they say that they can run: the device's capability, an installed package."""

import importlib.util

from kernels.spec import Device

NO_VLLM = "needs the vllm package, which is not installed"


def missing_gpu(device: Device) -> str | None:
    """Why the device is not a GPU."""
    return None if device.type == "cuda" else f"needs a CUDA GPU (this is {device.type})"


def missing_capability(device: Device, least: tuple[int, int]) -> str | None:
    """Why the device is not a GPU, or older than the least capability; None if it will do."""
    if device.type == "cuda" and device.capability < least:
        return f"needs sm_{least[0]}{least[1]} (this is {device.arch})"
    return missing_gpu(device)


def missing_family(device: Device, *majors: int, because: str = "") -> str | None:
    """Why the device is not a GPU, or of none of these families; None if it will do.

    Args:
        majors: of the capabilities, e.g. 10, 12; a newer family will not do.
        because: what only these families have, for the reason.
    """
    if device.type == "cuda" and device.capability[0] not in majors:
        names = " or ".join(f"sm_{major}0" for major in majors)
        return f"needs {names}{because and f', {because}'} (this is {device.arch})"
    return missing_gpu(device)


def missing_vllm() -> str | None:
    """Why vLLM cannot be imported; its folder is looked for, importing it takes seconds."""
    return NO_VLLM if importlib.util.find_spec("vllm") is None else None
