"""Compiles, without a GPU, exactly the Triton kernels that a launcher would launch, and says what they cost.

The launcher runs on small CPU tensors while Triton believes in a GPU that can only be compiled for: every launch stops
after the compilation. So a spill or too much shared memory is found in CI, before a GPU is paid for. What is compiled
depends on the tensors' sizes as it does in a launch: give the sizes that matter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from kernels.errors import KernelError
from kernels.launches import describe_kernel, noting_launches
from kernels.spec import CompiledKernel

CAPABILITIES = {"sm_90": 90, "sm_100": 100}


class CompileOnlyDriver(DriverBase):  # type: ignore[misc]  # triton is untyped
    """The driver of a GPU that is not there: it has a target and nothing else."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)

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
    with intercepted_launches(arch) as compiled:
        launch()
    return [describe_kernel(kernel) for kernel in compiled.values()]


@contextmanager
def intercepted_launches(arch: str) -> Iterator[dict[str, Any]]:
    """While open, every Triton launch compiles for `arch` and launches nothing; yields the kernels by their hash.

    They are left on disk and forgotten here, so that a process that compiles all night does not fill its memory.

    Raises:
        KernelError: Triton was started as an interpreter.
    """
    if triton.knobs.runtime.interpret:
        raise KernelError("TRITON_INTERPRET=1 is set, so nothing can be compiled: unset it in a new process")
    # `driver.active` would look for a GPU, and fail where there is none: save what is behind it.
    previous = vars(driver)["_active"]
    driver.set_active(CompileOnlyDriver(arch))
    try:
        with noting_launches(compile_only=True) as compiled:
            yield compiled
            for kernel in compiled.values():
                kernel.src.fn.device_caches.pop(arch, None)
    finally:
        driver.set_active(previous)
