"""What making weights ready costs at load: every provider that competes in the suite `against_vllm`, on one GPU.

    python benchmarks/repacking.py [--times 3]

Prints, for each layer and provider, the seconds of the first `prepare` of fresh weights (the median of several, after
one that compiles), the bytes that it keeps beside the weights as they came, and the most that it needed at once. Who
keeps nothing reads weights as they come. Of repacked weights a server could free the original; we keep it, since the
other providers of the same layer read it.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from against_vllm import SUITE, list_providers

from kernels.footprint import weights_footprint
from kernels.registry import find_kernel
from kernels.spec import Case, Provider, Tensors
from kernels.timing.devices import device_of
from tasks.bench import seed_of_inputs
from tasks.planning.cases import Selection, plan_units, resolve_shapes
from tasks.planning.suites import find_suite
from tasks.records import WorkUnit

MIB = 2**20
SEED = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one preparation."""

    seconds: float
    """Until the device is done."""
    kept_bytes: int
    """What stays allocated beside the weights as they came."""
    peak_bytes: int
    """The most allocated at once beside them."""


def list_units() -> Iterator[WorkUnit]:
    """Units of the suite that have weights."""
    selection = Selection(providers=tuple(list_providers()))
    suite = find_suite(SUITE)
    for unit in plan_units(suite, resolve_shapes(suite, selection), selection, "cuda").units:
        if weights_footprint(unit.layer).size_bytes:
            yield unit


def measure(provider: Provider, case: Case, weights: Tensors, inputs: Tensors) -> Cost:
    """Prepare a provider on weights that nobody has prepared before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    launch = provider.prepare(case, weights, inputs)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    kept, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    del launch
    return Cost(seconds, kept, peak)


def measure_often(provider: Provider, case: Case, weights: Tensors, inputs: Tensors, times: int) -> list[Cost]:
    """A copy of the weights each time, which nobody has prepared; the first time compiles and is left out."""
    costs = []
    for _ in range(times + 1):
        costs.append(measure(provider, case, {name: tensor.clone() for name, tensor in weights.items()}, inputs))
        torch.cuda.empty_cache()
    return costs[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # else its notes stand between the lines
    print("| layer | provider | weights, MiB | seconds (least to most) | kept beside them, MiB | most at once, MiB |")
    print("|---|---|--:|--:|--:|--:|")
    device = torch.device("cuda")
    for unit in list_units():
        kernel, case = find_kernel(unit.layer.kernel), unit.cases[len(unit.cases) // 2]
        weights = kernel.make_weights(unit.layer, SEED, device)
        inputs = kernel.make_inputs(case, weights, seed_of_inputs(SEED), device)
        size = sum(tensor.nbytes for tensor in weights.values()) / MIB
        for name in unit.providers:
            if kernel.providers[name].unsupported(case, device_of(device)):
                continue
            costs = measure_often(kernel.providers[name], case, weights, inputs, times)
            seconds = [cost.seconds for cost in costs]
            print(
                f"| {kernel.name} {unit.layer.label} {unit.layer.scheme} | {name} | {size:.0f} | "
                f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f}) | "
                f"{max(cost.kept_bytes for cost in costs) / MIB:.0f} | "
                f"{max(cost.peak_bytes for cost in costs) / MIB:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
