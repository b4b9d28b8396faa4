"""What the pipeline costs beside the work: wall time, share per stage, milliseconds per unit or per case, peak memory.

    python benchmarks/orchestration.py [--units 200] [--save-dir DIR]
    python benchmarks/orchestration.py --cases 1000 [--units 2] [--device cuda] [--save-dir DIR]

Runs the real flow over UNITS tiny layers of silu_mul_fp8, one case and one provider each, so that nearly all of the
wall time is orchestration. With --cases it runs that many cases in all, of a kernel that does nothing, and prints what
a case costs beyond the kernels and the reference kernels themselves.
"""

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from flows.cli import end_quietly, set_prefect_defaults
from kernels.registry import PACKAGE_DIR, find_kernel, kernels
from kernels.spec import Case, Launch, Provider, Tensors, first_output
from tasks.bench import Bench
from tasks.nights import Night
from tasks.planning.entries import GridEntry, Suite
from tasks.planning.suites import SUITES

WORK = ("generate weights", "verify", "time")
"""Stages that are the work itself, not its orchestration."""
MEASURING = ("generate weights", "verify", "time", "persist")
TARGET_MS = 10.0
"""Most that a case may cost beyond its kernels."""


def tiny_suite(units: int, cases_per_unit: int) -> Suite:
    """As many layers as asked for; no two are alike."""
    tokens = tuple(range(1, cases_per_unit + 1))
    entries = tuple(
        GridEntry("silu_mul_fp8", {"num_experts": 1 + index, "intermediate_size": 128}, tokens)
        for index in range(units)
    )
    return Suite("orchestration", "tiny layers: the cost of the pipeline itself", entries, "cpu")


class NoopBench(Bench):
    """A Bench in whose process silu_mul_fp8 copies 16 numbers and does nothing else."""

    def __init__(self, device_type: str) -> None:
        kernels(PACKAGE_DIR)["silu_mul_fp8"] = replace(
            find_kernel("silu_mul_fp8"),
            make_inputs=make_little,
            reference=lambda _case, _weights, inputs: inputs["x"],
            providers={"torch": Provider(prepare_noop, lambda *_: None)},
            decode=first_output,
            flops=lambda *_: 16,
            bytes_moved=lambda *_: 128,
        )
        super().__init__(device_type)


def make_little(_case: Case, _weights: Tensors, _seed: int, device: torch.device) -> Tensors:
    """16 numbers."""
    return {"x": torch.ones(16, device=device)}


def prepare_noop(_case: Case, _weights: Tensors, inputs: Tensors) -> Launch:
    """As little as a provider can do."""
    return Launch(lambda: (inputs["x"].clone(),))


def print_units(night: Night, wall: float, units: int) -> None:
    """What a unit costs."""
    assert night.run.finished_at is not None
    inside = (night.run.finished_at - night.run.started_at).total_seconds()
    work = sum(night.run.stage_seconds.get(stage, 0.0) for stage in WORK)
    measuring = inside - sum(
        seconds for stage, seconds in night.run.stage_seconds.items() if stage not in (*WORK, "persist")
    )
    print(f"wall {wall:.1f} s, of which server start and site {wall - inside:.1f} s")
    for stage, seconds in night.run.stage_seconds.items():
        print(f"  {stage:20} {seconds:8.2f} s")
    print(f"orchestration in all {wall - work:.1f} s")
    print(f"per unit, once running: {(measuring - work) / units * 1e3:.1f} ms beyond its work")


def print_cases(night: Night, wall: float) -> None:
    """What a case costs, by what its worker did."""
    cases = {measurement.check.case.key for measurement in night.measurements}
    failed = [m for m in night.measurements if not m.samples_us]
    assert not failed, f"{len(failed)} cases failed, the first: {failed[0].check.reason}"
    by_activity: dict[str, float] = {}
    for cost in night.costs:
        for activity, seconds in cost.seconds.items():
            if activity not in (*WORK, "total"):
                by_activity[activity] = by_activity.get(activity, 0.0) + seconds
    busy = by_activity.pop("kernels")
    by_activity["sampling"] -= busy
    stages = {stage: night.run.stage_seconds.get(stage, 0.0) for stage in MEASURING}
    beyond = sum(stages.values()) - busy
    by_activity["calls between processes, and what has no name"] = (
        stages["verify"] + stages["time"] - busy - sum(by_activity.values())
    )
    by_activity["persist"] = stages["persist"]
    print(f"{len(cases)} cases, {wall:.1f} s in all; ms per case beyond its kernels and the reference kernels:")
    for activity, seconds in by_activity.items():
        print(f"  {activity:46} {seconds / len(cases) * 1e3:7.2f}")
    print(f"  {'together':46} {beyond / len(cases) * 1e3:7.2f}  (target {TARGET_MS:g})")
    rest = {stage: s for stage, s in night.run.stage_seconds.items() if stage not in MEASURING}
    rest["start of the server, site"] = wall - sum(rest.values()) - sum(stages.values())
    print("seconds beside measuring: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in rest.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, help="200; 2 with --cases")
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--save-dir", type=Path)
    arguments = parser.parse_args()
    units = arguments.units or (2 if arguments.cases else 200)
    save_dir = arguments.save_dir or Path(tempfile.mkdtemp())
    set_prefect_defaults()
    end_quietly()

    from flows.nightly import nightly, read_night
    from tasks.planning.cases import Selection
    from tasks.pool import start_workers

    SUITES["orchestration"] = tiny_suite(units, max(1, arguments.cases // units))  # type: ignore[index]
    start = time.perf_counter()
    if arguments.cases:
        start_workers(arguments.device, bench=NoopBench)
    nightly("orchestration", Selection(providers=("torch",)), device=arguments.device, save_dir=save_dir)
    wall = time.perf_counter() - start
    night = read_night(save_dir)
    if arguments.cases:
        print_cases(night, wall)
    else:
        print_units(night, wall, units)
    print(f"peak memory of the flow process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
