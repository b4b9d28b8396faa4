"""The only owner of clocks and CUDA events: timers, the device's name, poisoned memory.

A timer's name is part of a series' identity: the same kernel reads 23 us from a replayed CUDA graph and 38 us from
single launches with a cold L2, and neither is wrong.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.errors import KernelError
from kernels.spec import Device

CALLS_PER_GRAPH = 10
WARMUP_CALLS = 3
WARMUP_REPLAYS = 5
TIMED_REPLAYS = 30
TIMED_CALLS = 30

MIN_WALL_SAMPLES = 5
MAX_WALL_SAMPLES = 50
WALL_BUDGET_NS = 300_000_000

POISON_BYTE = 0xFF
SMALL_BLOCK_BYTES = 1 << 20
MAX_SMALL_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class Timer:
    """One way to time a launch; samples of two timers are never compared."""

    name: str
    """Short name, part of a series' identity."""
    device_type: str
    """The device it works on: "cuda" or "cpu"."""
    description: str
    """What one sample is, in one line."""
    time: Callable[[Callable[[], object]], tuple[float, ...]]
    """run -> samples, each the microseconds of one call; every sample is kept."""


def time_graph(run: Callable[[], object]) -> tuple[float, ...]:
    """Time `run` inside a replayed CUDA graph: no launch overhead, warm L2.

    The warm-up runs on the stream that captures: compiling, or a library's first use, inside a capture is an error.

    Args:
        run: launches on the current stream and never synchronizes.
    Returns:
        TIMED_REPLAYS samples, each a replay of CALLS_PER_GRAPH calls divided by their number.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_CALLS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(CALLS_PER_GRAPH):
                run()
        return replay_graph(graph)
    finally:
        graph.reset()


def replay_graph(graph: torch.cuda.CUDAGraph) -> tuple[float, ...]:
    """Microseconds per call of each timed replay of a captured graph.

    The replays are queued before the first is waited for: a host that waited in between would add its launch latency.
    """
    for _ in range(WARMUP_REPLAYS):
        graph.replay()
    starts, stops = ([torch.cuda.Event(enable_timing=True) for _ in range(TIMED_REPLAYS)] for _ in range(2))
    for start, stop in zip(starts, stops, strict=True):
        start.record()
        graph.replay()
        stop.record()
    torch.cuda.synchronize()
    return tuple(start.elapsed_time(stop) * 1e3 / CALLS_PER_GRAPH for start, stop in zip(starts, stops, strict=True))


def time_eager(run: Callable[[], object]) -> tuple[float, ...]:
    """Time single calls of `run` as a program without CUDA graphs makes them: with launch overhead, warm L2.

    The device is idle before each call: queued behind another, a call would hide its launches behind that one's work.

    Returns:
        TIMED_CALLS samples.
    """
    for _ in range(WARMUP_CALLS):
        run()
    samples_us = []
    for _ in range(TIMED_CALLS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        samples_us.append(start.elapsed_time(stop) * 1e3)
    return tuple(samples_us)


def time_wall(run: Callable[[], object]) -> tuple[float, ...]:
    """Time single calls of `run` on the CPU.

    Returns:
        At least MIN_WALL_SAMPLES samples; then until WALL_BUDGET_NS is spent or there are MAX_WALL_SAMPLES.
    """
    for _ in range(WARMUP_CALLS):
        run()
    elapsed_ns: list[int] = []
    while len(elapsed_ns) < MIN_WALL_SAMPLES or (
        len(elapsed_ns) < MAX_WALL_SAMPLES and sum(elapsed_ns) < WALL_BUDGET_NS
    ):
        start_ns = time.perf_counter_ns()
        run()
        elapsed_ns.append(time.perf_counter_ns() - start_ns)
    return tuple(ns / 1e3 for ns in elapsed_ns)


TIMERS: dict[str, Timer] = {
    "graph": Timer("graph", "cuda", "a replayed CUDA graph of 10 calls, divided by 10; warm L2", time_graph),
    "eager": Timer("eager", "cuda", "one call between two events, with launch overhead; warm L2", time_eager),
    "wall": Timer("wall", "cpu", "one call by the host's monotonic clock", time_wall),
}


def timers_for(device_type: str) -> tuple[Timer, ...]:
    """The timers that work on a type of device; the first is the default.

    Raises:
        KernelError: there is none; the message lists the types there are.
    """
    found = tuple(timer for timer in TIMERS.values() if timer.device_type == device_type)
    if not found:
        known = ", ".join(sorted({timer.device_type for timer in TIMERS.values()}))
        raise KernelError(f"no timer works on device type {device_type!r}: use one of {known}")
    return found


def synchronize(device: torch.device) -> None:
    """Wait until everything launched on the device has finished; a failed launch raises here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(device: torch.device) -> Device:
    """What a torch device is: its marketing name and compute capability."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return Device("cuda", torch.cuda.get_device_name(device), capability)
    return Device(device.type, f"cpu: {cpu_name()}")


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name; the machine type ("aarch64") where Linux names none."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next(names, "") or platform.machine()


def poison_memory(size_bytes: int, device: torch.device) -> None:
    """Leave NaN (0xFF bytes, in float8, bfloat16 and float32) where the next outputs will be allocated.

    A kernel that leaves part of its output unwritten then shows NaN instead of an earlier provider's right answer.
    CUDA's caching allocator serves requests up to 1 MiB from a pool of their own, so that pool is poisoned as well. On
    a CPU this is best effort: the C library may hand freed memory back to the system.

    Args:
        size_bytes: at least the size of the outputs.
    """
    num_small = min(MAX_SMALL_BLOCKS, math.ceil(size_bytes / SMALL_BLOCK_BYTES))
    sizes = [size_bytes] + [SMALL_BLOCK_BYTES] * num_small
    blocks = [torch.empty(size, dtype=torch.uint8, device=device).fill_(POISON_BYTE) for size in sizes]
    del blocks


@contextmanager
def erasing(outputs: Sequence[torch.Tensor]) -> Iterator[None]:
    """Overwrite the outputs with NaN (0xFF bytes) after the block, wherever in their storage they lie.

    The allocator hands freed memory to whoever asks for the same size next: a provider that writes nothing would be
    served the right answer of the one before.
    """
    try:
        yield
    finally:
        for tensor in outputs:
            storage = tensor.untyped_storage()
            torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage).fill_(POISON_BYTE)
