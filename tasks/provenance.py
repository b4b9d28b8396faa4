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

from kernels.timing import device_of
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


def read_gpu(index: int) -> tuple[str, str]:
    """UUID and driver version of a GPU through NVML, by its index among the visible ones."""
    import pynvml

    uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
    pynvml.nvmlInit()
    try:
        return uuid, str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def describe_host(device: torch.device) -> Host:
    """The environment of this process, measuring on `device`."""
    uuid, driver = read_gpu(device.index or 0) if device.type == "cuda" else ("", "")
    host = Host(
        host_id="",
        device=device_of(device),
        device_uuid=uuid,
        driver=driver,
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
