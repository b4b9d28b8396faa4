"""What the pipeline costs beside the work: wall time, share per stage, milliseconds per unit, peak memory.

    python benchmarks/orchestration.py [--units 200] [--save-dir DIR]

Runs the real flow on the CPU over UNITS tiny layers of silu_mul_fp8 (one case, one provider each), so that nearly all
of the wall time is orchestration, and prints one table.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from flows.cli import set_prefect_defaults
from tasks.entries import GridEntry, Suite
from tasks.suites import SUITES

WORK = ("generate weights", "verify", "time")
"""Stages that are the work itself, not its orchestration."""


def tiny_suite(units: int) -> Suite:
    """As many one-case layers as asked for; no two are alike."""
    entries = tuple(
        GridEntry("silu_mul_fp8", {"num_experts": 1 + index, "intermediate_size": 128}, (1,)) for index in range(units)
    )
    return Suite("orchestration", "tiny layers: the cost of the pipeline itself", entries, "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--save-dir", type=Path)
    arguments = parser.parse_args()
    save_dir = arguments.save_dir or Path(tempfile.mkdtemp())
    set_prefect_defaults()

    from flows.nightly import nightly, read_night
    from tasks.cases import Selection

    SUITES["orchestration"] = tiny_suite(arguments.units)  # type: ignore[index]
    start = time.perf_counter()
    nightly(
        suite="orchestration",
        selection=Selection(providers=("torch",)),
        device="cpu",
        save_dir=save_dir,
    )
    wall = time.perf_counter() - start
    night = read_night(save_dir)
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
    print(f"per unit, once running: {(measuring - work) / arguments.units * 1e3:.1f} ms beyond its work")
    print(f"peak memory of the flow process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
