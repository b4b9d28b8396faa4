"""Compiles, without a GPU, exactly the Triton kernels that a launcher would launch, and says what they cost.

The launcher runs on small CPU tensors while Triton believes in a GPU that can only be compiled for: every launch stops
after the compilation. So a spill or too much shared memory is found in CI, before a GPU is paid for. What is compiled
depends on the tensors' sizes as it does in a launch: give the sizes that matter.
"""

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels.errors import KernelError

CAPABILITIES = {"sm_90": 90, "sm_100": 100}


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One kernel as compiled for one architecture."""

    name: str
    """Name of the jit function."""
    arch: str
    """Architecture, e.g. "sm_90"."""
    num_warps: int
    """Warps per program."""
    registers: int
    """Registers per thread."""
    spill_bytes: int
    """Local memory per thread: what did not fit into the registers."""
    shared_bytes: int
    """Shared memory per program."""
    sha256: str
    """Digest of the cubin: the same digest is the same machine code."""


class CompileOnlyDriver(DriverBase):  # type: ignore[misc]  # triton is untyped
    """The driver of a GPU that is not there: it has a target and nothing else."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.target = GPUTarget("cuda", CAPABILITIES[arch], 32)

    @classmethod
    def is_active(cls) -> bool:
        """Never chosen by itself."""
        return False

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return self.target

    def get_current_device(self) -> str:
        """The key of Triton's per-device cache: the architecture, so that two never share compiled kernels."""
        return self.arch

    def get_current_stream(self, _device: str) -> int:
        """Triton asks for a stream before it looks whether it will launch."""
        return 0

    def get_active_torch_device(self) -> Any:
        """There is none."""
        raise self.refusal("torch device")

    def get_benchmarker(self) -> Any:
        """There is none: an autotuned kernel cannot be compiled without a GPU."""
        raise self.refusal("benchmark")

    def map_python_to_cpp_type(self, _ty: str) -> str:
        """Only a launch would ask."""
        raise self.refusal("launch")

    def refusal(self, what: str) -> KernelError:
        """The error for what needs a real GPU."""
        return KernelError(f"{what} asked for while compiling for {self.arch} without a GPU: run it on a GPU instead")


def compile_launches(arch: str, launch: Callable[[], object]) -> list[CompiledKernel]:
    """Compile what `launch` would launch, in that order, each distinct kernel once.

    Args:
        arch: "sm_90" or "sm_100".
        launch: calls launchers such as silu_mul_fp8_triton on CPU tensors; their outputs stay unwritten.
    Raises:
        KernelError: the architecture is not known, or Triton was started as an interpreter.
    """
    if arch not in CAPABILITIES:
        raise KernelError(f"cannot compile for {arch!r}: use one of {', '.join(CAPABILITIES)}")
    if triton.knobs.runtime.interpret:
        raise KernelError("TRITON_INTERPRET=1 is set, so nothing can be compiled: unset it in a new process")
    with intercepted_launches(arch) as compiled:
        launch()
    return [describe_kernel(kernel, arch) for kernel in compiled.values()]


@contextmanager
def intercepted_launches(arch: str) -> Iterator[dict[str, Any]]:
    """While open, every Triton launch compiles for `arch` and launches nothing; yields the kernels by their hash."""
    compiled: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.setdefault(kernel.hash, kernel)
        return kernel

    # `driver.active` would look for a GPU, and fail where there is none: save what is behind it.
    previous = vars(driver)["_active"]
    driver.set_active(CompileOnlyDriver(arch))
    try:
        with mock.patch.object(JITFunction, "run", compile_only):
            yield compiled
    finally:
        driver.set_active(previous)


def describe_kernel(kernel: Any, arch: str) -> CompiledKernel:
    """What one compiled kernel of Triton costs."""
    cubin: bytes = kernel.asm["cubin"]
    usage = resource_usage(cubin)
    return CompiledKernel(
        name=kernel.metadata.name,
        arch=arch,
        num_warps=kernel.metadata.num_warps,
        registers=usage["REG"],
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=kernel.metadata.shared,
        sha256=hashlib.sha256(cubin).hexdigest(),
    )


def resource_usage(cubin: bytes) -> dict[str, int]:
    """The figures cuobjdump prints for a cubin with one function: {"REG": 64, "STACK": 0, "LOCAL": 0, ...}."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", result.stdout)}
    if not {"REG", "STACK", "LOCAL"} <= usage.keys():
        raise KernelError(f"cuobjdump printed no resource usage: {result.stderr.strip() or result.stdout.strip()}")
    return usage
