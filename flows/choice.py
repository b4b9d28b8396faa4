"""Which suite to run on what: the answer to "auto"."""

from dataclasses import dataclass

import pynvml

from tasks.entries import Suite
from tasks.errors import UsageError
from tasks.suites import find_suite

DEVICES = ("auto", "cuda", "cpu")


@dataclass(frozen=True, slots=True)
class Choice:
    """A suite and the device type it runs on."""

    suite: Suite
    device_type: str
    """"cuda" or "cpu"."""


def has_gpu() -> bool:
    """Whether this machine's driver sees an NVIDIA GPU; never initializes CUDA."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    try:
        return bool(pynvml.nvmlDeviceGetCount() > 0)
    finally:
        pynvml.nvmlShutdown()


def choose_suite(suite: str, device: str, address: str) -> Choice:
    """Resolve "auto": a GPU (or a cluster, at an address) runs nightly, a machine without one runs smoke on its CPU.

    Raises:
        UsageError, UnknownNameError: no such device or suite, or a GPU is needed and there is none.
    """
    if device not in DEVICES:
        raise UsageError(f"--device {device!r} is not one of {', '.join(DEVICES)}")
    gpu = bool(address) or has_gpu()
    device_type = device if device != "auto" else ("cuda" if gpu else "cpu")
    chosen = find_suite(suite if suite != "auto" else ("nightly" if device_type == "cuda" else "smoke"))
    if chosen.min_device == "cuda" and device_type == "cpu":
        raise UsageError(f"suite {chosen.name} needs a CUDA GPU, this is a CPU; run --suite smoke, or check nvidia-smi")
    if device_type == "cuda" and not gpu:
        raise UsageError("--device cuda: no CUDA GPU here; run --device cpu, give --address, or check nvidia-smi")
    return Choice(chosen, device_type)
