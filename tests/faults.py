"""Providers of silu_mul_fp8 that do real damage to their process or its GPU, on cases of BAD_TOKENS tokens only."""

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import triton
import triton.language as tl
from benches import hold_the_gil

from kernels.registry import PACKAGE_DIR, find_kernel, kernels
from kernels.spec import Case, Launch, Outputs, Provider, Tensors
from tasks.bench import Bench, Contender
from tasks.sampling import Readings

BAD_TOKENS = 3


@triton.jit
def write_far_away_kernel(x_ptr):
    """Write 4 TiB past the tensor."""
    tl.store(x_ptr + tl.full((), 1 << 40, tl.int64), 1.0)


@triton.jit
def wait_for_ever_kernel(flag_ptr):
    """Wait for a flag that nobody sets."""
    flag = tl.load(flag_ptr, volatile=True)
    while flag == 0:
        flag = tl.load(flag_ptr, volatile=True)


def write_far_away(device: torch.device) -> None:
    """An illegal memory access: the GPU is lost to its process."""
    write_far_away_kernel[(1,)](torch.zeros(1, device=device))


def wait_for_ever(device: torch.device) -> None:
    """A kernel without an end."""
    wait_for_ever_kernel[(1,)](torch.zeros(1, dtype=torch.int32, device=device))


def allocate_too_much(device: torch.device) -> None:
    """A pebibyte."""
    torch.empty(1 << 50, dtype=torch.uint8, device=device)


def exit_at_once(device: torch.device) -> None:
    """As a library may that finds its state broken."""
    os._exit(7)


def read_null(device: torch.device) -> None:
    """A segmentation fault."""
    ctypes.string_at(0)


def hang(device: torch.device) -> None:
    """As a library may that waits for itself."""
    hold_the_gil()


FAULTS: dict[str, Callable[[torch.device], None]] = {
    "illegal-access": write_far_away,
    "endless-kernel": wait_for_ever,
    "out-of-memory": allocate_too_much,
    "exit": exit_at_once,
    "segfault": read_null,
    "hang": hang,
}
"""Each also as "late-...": then only while it is timed."""


class FaultyBench(Bench):
    """A Bench whose silu_mul_fp8 has a provider for every fault."""

    def __init__(self, device_type: str) -> None:
        self._is_timing = False
        kernel = find_kernel("silu_mul_fp8")
        made = {"torch": kernel.providers["torch"]}
        for name, fault in FAULTS.items():
            for faulty, when in ((name, False), (f"late-{name}", True)):
                made[faulty] = Provider(partial(self._prepare, fault, when), lambda *_: None)
        kernels(PACKAGE_DIR)["silu_mul_fp8"] = replace(kernel, providers=made)
        super().__init__(device_type)

    def time(
        self, case: Case, contenders: Sequence[Contender], timer_name: str, precision: float, first_round: int = 0
    ) -> Readings:
        self._is_timing = True
        try:
            return super().time(case, contenders, timer_name, precision, first_round)
        finally:
            self._is_timing = False

    def _prepare(
        self, fault: Callable[[torch.device], None], is_late: bool, case: Case, weights: Tensors, inputs: Tensors
    ) -> Launch:
        launch = find_kernel("silu_mul_fp8").providers["torch"].prepare(case, weights, inputs)

        def run() -> Outputs:
            if case.num_tokens == BAD_TOKENS and self._is_timing == is_late:
                fault(inputs["y"].device)
            return launch.run()

        return Launch(run)
