"""From what a number came: the environment of the worker that measured it."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import astuple, replace

import torch

from kernels.timing.devices import device_of
from tasks.nvml import read_driver
from tasks.records import Host


def package_version(name: str) -> str:
    """Installed version of a package, "" if it is not there; never imports it."""
    if importlib.util.find_spec(name) is None:
        return ""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def describe_host(device: torch.device) -> Host:
    """The environment of this process, measuring on `device`."""
    is_gpu = device.type == "cuda"
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}" if is_gpu else ""
    host = Host(
        host_id="",
        device=device_of(device),
        device_uuid=uuid,
        driver=read_driver() if is_gpu else "",
        cuda=torch.version.cuda or "",
        python=platform.python_version(),
        torch=torch.__version__,
        triton=package_version("triton"),
        vllm=package_version("vllm"),
        num_cpus=os.cpu_count() or 1,
    )
    return replace(host, host_id=hashlib.sha256(repr(astuple(host)).encode()).hexdigest()[:16])
