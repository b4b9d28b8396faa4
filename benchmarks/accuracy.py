"""How far a median can be trusted: spread between processes, agreement with upstream, a slowdown of 3 %, a neighbour.

    python benchmarks/accuracy.py [--device cuda] [--quick] [--processes 5] [--out accuracy.jsonl]

Needs no Ray. Every experiment runs in fresh processes (experiments.py), whose samples are all kept in the file; what
came of them is printed as tables, each with its target. Below 8 minutes on one H200, 3 with --quick.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import SLOWDOWN, list_cases

from kernels.spec import Case, Device
from tasks.intervals import Interval, find_paired_ratio
from tasks.records import Check, Measurement, Status, Trial

EXPERIMENTS = Path(__file__).with_name("experiments.py")
SPREAD_TARGETS = ((100.0, 0.005), (20.0, 0.01))
"""(microseconds, largest spread of kernels above)."""
AGREEMENT_TARGET = 0.01
SAME_TARGET = 0.003

Line = dict[str, Any]


def run_experiment(name: str, process: int, options: Sequence[str], out: Path) -> None:
    """Run one experiment in a fresh process and add its lines to the file."""
    start = time.perf_counter()
    part = out.with_suffix(".part")
    part.unlink(missing_ok=True)
    subprocess.run([sys.executable, str(EXPERIMENTS), name, "--out", str(part), *options], check=True)
    with out.open("a") as lines:
        for line in part.read_text().splitlines():
            lines.write(json.dumps({"process": process, **json.loads(line)}) + "\n")
    part.unlink()
    print(f"{name} {process}: {time.perf_counter() - start:.0f} s", flush=True)


def median_of(line: Line) -> float:
    return statistics.median(line["samples_us"])


def name_of(line: Line, cases: dict[str, Case]) -> str:
    """Kernel, case and provider."""
    case = cases[line["case"]]
    return f"{case.layer.kernel} {case.layer.scheme} M={case.num_tokens} {line.get('ours', line['provider'])}"


def group(lines: Sequence[Line], key: Callable[[Line], Any]) -> dict[Any, list[Line]]:
    """Lines by a key, in the order of their first."""
    found: dict[Any, list[Line]] = {}
    for line in lines:
        found.setdefault(key(line), []).append(line)
    return found


def tell(is_met: bool) -> str:
    return "ok" if is_met else "OVER"


def print_spread(lines: Sequence[Line], cases: dict[str, Case]) -> None:
    """(largest - smallest) / median of the medians of several processes."""
    print(f"\nspread of medians between processes  {'median us':>12} {'spread':>8}  target")
    for name, of_one in group(lines, lambda line: name_of(line, cases)).items():
        medians = [median_of(line) for line in of_one]
        median = statistics.median(medians)
        spread = (max(medians) - min(medians)) / median
        target = next((target for above_us, target in SPREAD_TARGETS if median > above_us), None)
        told = f"{target:.1%} {tell(spread <= target)}" if target else "none"
        print(f"  {name:66} {median:10.2f} {spread:8.2%}  {told}  ({len(medians)} processes)")


def print_agreement(lines: Sequence[Line], cases: dict[str, Case]) -> None:
    """Our median over upstream's mean, pair by pair."""
    print(f"\nour median / upstream's mean, same launch, same process (target {AGREEMENT_TARGET:.0%})")
    for name, of_one in group(lines, lambda line: name_of(line, cases)).items():
        ours = [median_of(line) for line in of_one if line["method"] == "ours"]
        theirs = [statistics.mean(line["samples_us"]) for line in of_one if line["method"] == "upstream"]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        us = f"{statistics.median(ours):9.2f} us, upstream {statistics.median(theirs):9.2f} us"
        print(f"  {name:66} {us}  ratio {ratio:.4f}  {tell(abs(ratio - 1) <= AGREEMENT_TARGET)}")


def as_measurement(line: Line, case: Case) -> Measurement:
    """What a night would store of a provider."""
    check = Check(case, line["provider"], Status.OK, "")
    trials = tuple(Trial(number, count) for number, count in line["rounds"])
    return Measurement("", check, "", Device("", ""), datetime.now(UTC), tuple(line["samples_us"]), trials)


def print_slowdown(lines: Sequence[Line], cases: dict[str, Case]) -> None:
    """What the ratio of rounds says of a provider beside itself, and beside itself with a wait."""
    print(f"\npaired ratios in one run: itself (target 1, or within {SAME_TARGET:.1%}), slowed (target {SLOWDOWN})")
    for name, of_one in group(lines, lambda line: name_of(line, cases)).items():
        if "left_out" in of_one[0]:
            print(f"  {name:66} left out: {of_one[0]['left_out']}")
            continue
        by_provider = {line["provider"]: as_measurement(line, cases[line["case"]]) for line in of_one}
        same, slowed = (find_paired_ratio(by_provider[other], by_provider["plain"]) for other in ("again", "slowed"))
        if same is None or slowed is None:
            raise RuntimeError(f"{name} shares no round with itself: as_measurement lost its trials")
        is_same = -math.inf < same.low <= 1 <= same.high or abs(same.median - 1) <= SAME_TARGET
        is_seen = slowed.low > 1 and slowed.low - 0.005 <= SLOWDOWN <= slowed.high + 0.005
        told = f"itself {show(same)} {tell(is_same)}   slowed {show(slowed)} {tell(is_seen)}"
        print(f"  {name:66} {told}")


def show(interval: Interval) -> str:
    return f"{interval.median:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def print_neighbour(lines: Sequence[Line], cases: dict[str, Case]) -> None:
    """Medians and coefficients of variation with and without a process that compiles."""
    times = sum(line["times"] for line in lines if "times" in line)
    print(f"\nbeside a process that compiles at low priority (a unit of silu_mul_fp8, {times} times)")
    timed = [line for line in lines if "case" in line]
    for name, of_one in group(timed, lambda line: name_of(line, cases)).items():
        told = []
        medians = {}
        for neighbour, same in group(of_one, lambda line: line["neighbour"]).items():
            samples_us = [sample for line in same for sample in line["samples_us"]]
            medians[neighbour] = statistics.median(samples_us)
            within = [statistics.stdev(line["samples_us"]) / statistics.mean(line["samples_us"]) for line in same]
            told.append(f"{neighbour}: {medians[neighbour]:9.2f} us, CV {statistics.mean(within):6.2%}")
        change = medians["compiles"] / medians["none"] - 1
        print(f"  {name:66} {'   '.join(told)}   median {change:+.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("accuracy.jsonl"))
    arguments = parser.parse_args()
    start = time.perf_counter()
    options = ["--device", arguments.device, *(["--quick"] if arguments.quick else [])]
    arguments.out.unlink(missing_ok=True)
    for name, count in (("upstream", 1), ("slowdown", 1), ("neighbour", 1), ("spread", arguments.processes)):
        for process in range(count):
            run_experiment(name, process, options, arguments.out)
    cases = {case.key: case for case in list_cases(arguments.device, arguments.quick)}
    lines = group(
        [json.loads(line) for line in arguments.out.read_text().splitlines()], lambda line: line["experiment"]
    )
    print_spread(lines["spread"], cases)
    print_agreement(lines["upstream"], cases)
    print_slowdown(lines["slowdown"], cases)
    print_neighbour(lines["neighbour"], cases)
    print(f"\n{time.perf_counter() - start:.0f} s; every sample is in {arguments.out}")


if __name__ == "__main__":
    main()
