"""Compiles the Triton kernels of a unit before a GPU needs them, into the cache on disk that its worker looks in.

The providers run on tensors without memory (kernels/footprint.py) and every launch ends with its compilation, so that
a CPU core of the GPU's machine does it while the GPU is timing something else. It is help and no more: what cannot be
compiled ahead is compiled when it is launched, as ever.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from unittest import mock

import torch
import triton
from triton.errors import TritonError

from kernels.compile import intercepted_launches
from kernels.errors import KernelError
from kernels.footprint import CPU, Unallocated, outline_weights
from kernels.launches import hash_machine_code
from kernels.moe.vllm_config_files import Config
from kernels.registry import find_kernel
from kernels.spec import Case, Device, Kernel, Tensors
from tasks.records import WorkUnit

LEAST_PRIORITY = 19
"""As `nice` counts: the process runs when nothing else wants the core."""

LAUNCHER_ERRORS: tuple[type[Exception], ...] = (
    *(KernelError, TritonError, RuntimeError, TypeError, ValueError, AttributeError),
    *(LookupError, ImportError, OSError, AssertionError),
)
"""What a launcher raises that looks at values, at the GPU or at what is not installed here."""


@dataclass(frozen=True, slots=True)
class AheadReport:
    """What was compiled of one unit, and what was not."""

    unit_key: str
    compiled: int
    """Kernels that are in the cache now and were not before."""
    found: int
    """Kernels that were in it."""
    seconds: float
    left_out: Mapping[str, str] = field(hash=False, default_factory=dict)
    """By provider, why not all of its kernels could be compiled ahead."""


class AheadBench:
    """A process of its own on a GPU's machine that never uses the GPU: it compiles what comes next."""

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        os.setpriority(os.PRIO_PROCESS, 0, LEAST_PRIORITY)
        torch.set_num_threads(1)

    def compile_unit(self, unit: WorkUnit, device: Device) -> AheadReport:
        """compile_unit of this module; nothing for a device that is not a GPU."""
        if self._device_type != "cuda":
            return AheadReport(unit.key, 0, 0, 0.0)
        return compile_unit(unit, device)

    def compile_config(self, case: Case, provider: str, config: Config, device: Device) -> str:
        """compile_config of this module."""
        return compile_config(case, provider, config, device)


def compile_config(case: Case, provider: str, config: Config, device: Device) -> str:
    """Compile what a provider would launch with a configuration on the device.

    Returns:
        A digest of everything that was compiled: the same is the same on the GPU. "" where it cannot be compiled here.
    """
    kernel = find_kernel(case.layer.kernel)
    prepare_with = kernel.providers[provider].prepare_with
    if prepare_with is None:
        return ""
    with intercepted_launches(device.arch) as compiled, answering_as(device), Unallocated():
        try:
            weights, _ = outline_weights(case.layer)
            inputs = kernel.make_inputs(case, weights, 0, CPU)
            prepare_with(case, weights, inputs, config).run()
        except LAUNCHER_ERRORS:
            return ""
        digest = hashlib.sha256()
        for binary in compiled.values():
            launched_with = (binary.metadata.name, binary.metadata.num_warps, binary.metadata.shared)
            digest.update(f"{launched_with} {hash_machine_code(binary.asm['cubin'])}\n".encode())
        return digest.hexdigest() if compiled else ""


def compile_unit(unit: WorkUnit, device: Device) -> AheadReport:
    """Compile what the unit's Triton providers would launch on the device; what is in the cache is left there.

    Raises:
        KernelError: Triton was started as an interpreter.
    """
    start = time.perf_counter()
    found: Counter[bool] = Counter()
    left_out: dict[str, str] = {}
    kernel = find_kernel(unit.layer.kernel)
    providers = [name for name in unit.providers if launches_triton(name)]
    with counting_cache_hits(found), intercepted_launches(device.arch), answering_as(device), Unallocated():
        try:
            weights, _ = outline_weights(unit.layer)
            for case in unit.cases:
                inputs = kernel.make_inputs(case, weights, 0, CPU)
                for provider in [name for name in providers if name not in left_out]:
                    if reason := compile_provider(kernel, provider, case, weights, inputs, device):
                        left_out[provider] = reason
        except LAUNCHER_ERRORS as error:
            left_out |= dict.fromkeys(providers, f"making weights or inputs: {describe(error)}")
    return AheadReport(unit.key, found[False], found[True], time.perf_counter() - start, left_out)


def launches_triton(provider: str) -> bool:
    """Whether the provider's name says so: others have nothing to compile here, and some would reach for the GPU."""
    return "triton" in provider.split("-")


def compile_provider(
    kernel: Kernel, provider: str, case: Case, weights: Tensors, inputs: Tensors, device: Device
) -> str:
    """Compile what the provider would launch; the reason if it cannot run without a GPU, else ""."""
    declared = kernel.providers[provider]
    try:
        if declared.unsupported(case, device) is None:
            declared.prepare(case, weights, inputs).run()
    except LAUNCHER_ERRORS as error:
        return describe(error)
    return ""


def describe(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def counting_cache_hits(found: Counter[bool]) -> Iterator[None]:
    """Count the kernels that Triton compiles (False) or finds in its cache on disk (True)."""

    def listen(*, cache_hit: bool, **_: Any) -> None:
        found[cache_hit] += 1

    previous = triton.knobs.compilation.listener
    triton.knobs.compilation.listener = listen
    try:
        yield
    finally:
        triton.knobs.compilation.listener = previous


@contextmanager
def answering_as(device: Device) -> Iterator[None]:
    """Tell launchers that ask torch about the GPU what it is, and keep torch from opening it."""

    def refuse() -> NoReturn:
        raise KernelError("the GPU was asked for while compiling ahead of it: it is compiled at its launch instead")

    with mock.patch.multiple(
        torch.cuda,
        get_device_name=lambda *_: device.name,
        get_device_capability=lambda *_: device.capability,
        _lazy_init=refuse,
    ):
        yield
