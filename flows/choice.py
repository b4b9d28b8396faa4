"""Which suite to run on what: the answer to "auto"."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tasks.errors import UsageError
from tasks.nvml import has_gpu
from tasks.planning.entries import Suite
from tasks.planning.suites import find_suite

SITE_URL = "KERNEL_NIGHTLY_SITE_URL"
DEVICES = ("auto", "cuda", "cpu")
MOST_LEAST_CHANGE = 10.0
ADDRESS = re.compile(r"auto|(ray://)?[^/]+:\d+")


@dataclass(frozen=True, slots=True)
class Choice:
    """A suite, the device type it runs on, and where."""

    suite: Suite
    device_type: str
    """"cuda" or "cpu"."""
    address: str = ""
    """Of a running Ray cluster; "" starts one on this machine."""
    site_url: str = ""
    """Where the site is served; "" is nowhere."""


def choose_suite(suite: str, device: str, address: str) -> Choice:
    """Resolve "auto": a GPU (or a cluster, at an address) runs nightly, a machine without one runs smoke on its CPU.

    Raises:
        UsageError, UnknownNameError: no such device or suite, or a GPU is needed and there is none.
    """
    device_type, address = choose_device(device, address)
    chosen = find_suite(suite if suite != "auto" else ("nightly" if device_type == "cuda" else "smoke"))
    if chosen.min_device == "cuda" and device_type == "cpu":
        raise UsageError(f"suite {chosen.name} needs a CUDA GPU, this is a CPU; run --suite smoke, or check nvidia-smi")
    return Choice(chosen, device_type, address, read_site_url(os.environ))


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


def choose_least_change(asked: float | None, budget_seconds: float, device_type: str) -> float:
    """The relative change that a comparison tells from none: as asked, or the usual one of the device type.

    Raises:
        UsageError: it, or the time there is for it, means nothing.
    """
    from tasks.commits.paired import LEAST_CHANGES  # imports numpy and scipy

    if asked is not None and not 0 < asked <= MOST_LEAST_CHANGE:
        raise UsageError(f"--least-change {asked:g} is not between 0 and {MOST_LEAST_CHANGE:g}; 0.01 is 1 %")
    if not budget_seconds >= 0:
        raise UsageError(f"--budget {budget_seconds:g} is below 0; give seconds")
    return LEAST_CHANGES[device_type] if asked is None else asked


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


def read_site_url(environ: Mapping[str, str]) -> str:
    """Where `SAVE_DIR/site` is served, as KERNEL_NIGHTLY_SITE_URL says, with a slash at its end; "" without it.

    Raises:
        UsageError: it is no address that everybody may see.
    """
    asked = environ.get(SITE_URL, "").strip()
    if not asked:
        return ""
    told = f"{SITE_URL} is not http://host/folder/ or https://host/folder/"
    try:
        parts = urlsplit(asked)
    except ValueError:
        raise UsageError(told) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(told)
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(f"{told}, without user, password, ? and #: it is shown to whoever looks at a run")
    return asked.rstrip("/") + "/"
