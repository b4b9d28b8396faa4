"""Where and from what a number came: the worker's environment and the checkout's commit."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from dataclasses import astuple, replace
from pathlib import Path

import torch

from kernels.timing.devices import device_of
from tasks.nvml import read_driver
from tasks.records import Host

COMMIT_VARIABLE = "KERNEL_NIGHTLY_COMMIT"
CHECKOUT = Path(__file__).resolve().parent.parent


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


def read_git_state(checkout: Path = CHECKOUT) -> tuple[str, bool]:
    """Commit hash and whether tracked files differ from it.

    Outside a checkout (a copy on an offline GPU host) the environment may name the commit; else it is ("", False).
    """
    commit = _git(checkout, "rev-parse", "HEAD")
    if not commit:
        return os.environ.get(COMMIT_VARIABLE, ""), False
    return commit, bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))


def _git(checkout: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
