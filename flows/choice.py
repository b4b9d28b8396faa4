"""Which suite to run on what: the answer to "auto"."""

import os
import re
from dataclasses import dataclass

from tasks.entries import Suite
from tasks.errors import UsageError
from tasks.nvml import has_gpu
from tasks.suites import find_suite

DEVICES = ("auto", "cuda", "cpu")
ADDRESS = re.compile(r"auto|(ray://)?[^/]+:\d+")


@dataclass(frozen=True, slots=True)
class Choice:
    """A suite, the device type it runs on, and where."""

    suite: Suite
    device_type: str
    """"cuda" or "cpu"."""
    address: str = ""
    """Of a running Ray cluster; "" starts one on this machine."""


def choose_suite(suite: str, device: str, address: str) -> Choice:
    """Resolve "auto": a GPU (or a cluster, at an address) runs nightly, a machine without one runs smoke on its CPU.

    Raises:
        UsageError, UnknownNameError: no such device or suite, or a GPU is needed and there is none.
    """
    device_type, address = choose_device(device, address)
    chosen = find_suite(suite if suite != "auto" else ("nightly" if device_type == "cuda" else "smoke"))
    if chosen.min_device == "cuda" and device_type == "cpu":
        raise UsageError(f"suite {chosen.name} needs a CUDA GPU, this is a CPU; run --suite smoke, or check nvidia-smi")
    return Choice(chosen, device_type, address)


def choose_device(device: str, address: str) -> tuple[str, str]:
    """The device type and the cluster's address.

    Raises:
        UsageError: no such device, or a GPU is needed and there is none.
    """
    if device not in DEVICES:
        raise UsageError(f"--device {device!r} is not one of {', '.join(DEVICES)}")
    address = read_address(address)
    gpu = bool(address) or has_gpu()
    device_type = device if device != "auto" else ("cuda" if gpu else "cpu")
    if device_type == "cuda" and not gpu:
        raise UsageError(
            "--device cuda: NVML tells of no GPU here; run --device cpu, give --address, or check nvidia-smi"
        )
    return device_type, address


def read_address(address: str) -> str:
    """The cluster that was asked for: by the option, else by RAY_ADDRESS; "" is none, which Ray also calls "local".

    Raises:
        UsageError: it is not an address.
    """
    asked = address or os.environ.get("RAY_ADDRESS", "")
    if asked in ("", "local"):
        return ""
    if not ADDRESS.fullmatch(asked):
        source = "--address" if address else "RAY_ADDRESS"
        raise UsageError(f"{source} {asked!r} is not host:port, ray://host:port, auto or local")
    return asked
