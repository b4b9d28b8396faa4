"""What a device does at best, measured: how fast it copies and how fast it multiplies each dtype.

The floor of a kernel follows from it: floor = max(bytes moved / copy rate, operations / GEMM rate of its dtype). Small
ones of the same launches are the reference kernels, timed beside every case.
"""

from collections.abc import Callable

import torch

from kernels.rates import COPY, Rate, gemm_name
from kernels.requirements import missing_capability
from kernels.spec import Device
from kernels.timing.devices import device_of
from kernels.timing.graphs import GraphStopwatch
from kernels.timing.timers import TIMERS, Stopwatch, WallStopwatch, time_alone

GPU_COPY_BYTES = 1 << 30
"""Of one buffer, as CPU_COPY_BYTES: what caches hold is no matter."""
CPU_COPY_BYTES = 1 << 26
GPU_GEMM_SIZE = 8192
CPU_GEMM_SIZE = 512
GPU_REFERENCE_COPY_BYTES = 1 << 28
GPU_REFERENCE_GEMM_SIZE = 4096
CPU_REFERENCE_COPY_BYTES = 1 << 20
CPU_REFERENCE_GEMM_SIZE = 128
SAMPLES = 20

Run = Callable[[], object]


def measure_ceilings(device: torch.device) -> tuple[Rate, ...]:
    """Copy and GEMM rates of a device, from the fastest sample of its own timer; what it lacks has no rate.

    On a GPU the timer is `graph`, so that the rates and the kernels' times mean the same.
    """
    on_gpu = device.type == "cuda"
    timer = TIMERS["graph" if on_gpu else "wall"]
    size_bytes = GPU_COPY_BYTES if on_gpu else CPU_COPY_BYTES
    size = GPU_GEMM_SIZE if on_gpu else CPU_GEMM_SIZE
    copied_bytes = 2 * size_bytes  # read and written
    rates = [Rate(COPY, copied_bytes / min(time_alone(timer, prepare_copy(size_bytes, device), SAMPLES)) / 1e3, "GB/s")]
    for dtype, prepare in prepare_gemms(device_of(device)).items():
        fastest_us = min(time_alone(timer, prepare(size, device), SAMPLES))
        rates.append(Rate(gemm_name(dtype), 2 * size**3 / fastest_us / 1e6, "TFLOP/s"))
    return tuple(rates)


def prepare_references(device: torch.device) -> dict[str, Stopwatch]:
    """By the name of their rate, one memory-bound and one compute-bound launch that no commit of ours changes.

    Far larger than the caches and than a launch, and so short that they may be timed beside every case.
    """
    if device.type == "cuda":
        copy, gemm = prepare_copy(GPU_REFERENCE_COPY_BYTES, device), prepare_bfloat16(GPU_REFERENCE_GEMM_SIZE, device)
        return {COPY: GraphStopwatch([copy], 1), gemm_name("bfloat16"): GraphStopwatch([gemm], 1)}
    copy, gemm = prepare_copy(CPU_REFERENCE_COPY_BYTES, device), prepare_float32(CPU_REFERENCE_GEMM_SIZE, device)
    return {COPY: WallStopwatch([copy]), gemm_name("float32"): WallStopwatch([gemm])}


def prepare_copy(size_bytes: int, device: torch.device) -> Run:
    """A kernel that reads one large buffer and writes another.

    It inverts every bit, as fast as anything: torch's copy_ is left to the driver, at 2715 GB/s where this one reached
    4252 on an H200.
    """
    source = torch.zeros(size_bytes // 4, dtype=torch.int32, device=device)
    target = torch.ones_like(source)
    return lambda: torch.bitwise_not(source, out=target)


def prepare_gemms(device: Device) -> dict[str, Callable[[int, torch.device], Run]]:
    """By dtype, how to make a square GEMM ready; only dtypes that the device has."""
    if device.type != "cuda":
        return {"bfloat16": prepare_bfloat16, "float32": prepare_float32}
    since = {
        "bfloat16": (prepare_bfloat16, (8, 0)),
        "float8_e4m3fn": (prepare_float8, (8, 9)),
        "int8": (prepare_int8, (8, 0)),
    }
    return {
        dtype: prepare
        for dtype, (prepare, capability) in since.items()
        if missing_capability(device, capability) is None
    }


def fill_matrices(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices of ones, float32, which draw less power than Gaussian ones.

    On an H200 at its power limit that is 784 TFLOP/s in bfloat16 instead of 706. Operands of a few 4-bit values, whose
    products cancel, reached 853: a share of the floor may pass 100 % by a tenth.
    """
    return torch.ones(size, size, device=device), torch.ones(size, size, device=device)


def prepare_float32(size: int, device: torch.device) -> Run:
    """Both row-major."""
    a, b = fill_matrices(size, device)
    return lambda: torch.mm(a, b)


def prepare_bfloat16(size: int, device: torch.device) -> Run:
    """Both row-major."""
    a, b = (matrix.bfloat16() for matrix in fill_matrices(size, device))
    return lambda: torch.mm(a, b)


def prepare_float8(size: int, device: torch.device) -> Run:
    """One scale per matrix, bfloat16 out; b is column-major, the only layout that torch takes here."""
    a, b = (matrix.to(torch.float8_e4m3fn) for matrix in fill_matrices(size, device))
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def prepare_int8(size: int, device: torch.device) -> Run:
    """int32 out; b is column-major, as in prepare_float8."""
    a, b = (matrix.to(torch.int8) for matrix in fill_matrices(size, device))
    return lambda: torch._int_mm(a, b.t())
