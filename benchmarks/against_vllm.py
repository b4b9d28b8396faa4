"""Our kernels beside vLLM's on one GPU: the suite `against_vllm`, measured if it was not, and the table of it.

    python benchmarks/against_vllm.py --save-dir DIR
    python benchmarks/against_vllm.py --from examples/h200/against_vllm

The first measures into DIR, and goes on where it was stopped; the second reads what `kernel-nightly export` wrote.
vLLM's Triton with freshly tuned configurations takes part where VLLM_TUNED_CONFIG_FOLDER names a folder of them
(`kernel-nightly retune`).

Prints, for each kernel, layer and timer, the microseconds of ours (the fastest of our own providers) and of every
provider of vLLM at each batch size, the floor, the share of it that ours reaches, and how many times as fast as the
fastest other one it is; then the README's table, the geometric means, and how well the medians are known. An output
that failed its check has no time. How many times as fast is what `kernel-nightly show` says: the median of the ratios
of rounds, each of which timed both.

MXFP4 with dynamic activations, which vLLM has no provider for on Hopper, is compared with what multiplies as much
there: torch's bfloat16 GEMM of the same case, and vLLM's Marlin on the 16-bit values of prequantized activations, timed
on the same GPU. That is another case, which has no rounds in common with this one, so medians are divided.
"""

import argparse
import math
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dashboards.comparisons import find_speedup
from flows import cli
from flows.report import EXIT_OK, EXIT_REGRESSION, EXIT_USAGE
from kernels.registry import find_kernel, kernels
from kernels.spec import Case
from tasks.errors import StoreError
from tasks.floors import find_floor_us, group_rates
from tasks.intervals import find_interval
from tasks.nights import Night
from tasks.records import PRECISION as DEFAULT_PRECISION
from tasks.records import Measurement
from tasks.storage.store import Store

SUITE = "against_vllm"
OURS = ("triton", "triton-exact-fp8", "triton-gluon")
GEMM = "torch-bf16"
"""What MXFP4's linear layer is compared with beside vLLM."""
MARLIN_ELSEWHERE = "vllm-marlin (prequantized)"
PRECISION = "0.02"
"""Of the medians, at which a provider may stop: at 0.005, as of other runs, one GPU takes more than 8 minutes."""
TIMER_OF_README = "graph"


@dataclass(slots=True)
class Row:
    """One case under one timer."""

    case: Case
    timer: str
    floor_us: float | None = None
    measured: dict[str, Measurement] = field(default_factory=dict)
    """What has a time, by provider; Marlin on prequantized activations as MARLIN_ELSEWHERE."""
    why: dict[str, str] = field(default_factory=dict)
    """Of our providers without a time, the status."""

    @property
    def ours(self) -> Measurement | None:
        return find_fastest(found for name, found in self.measured.items() if name in OURS)

    @property
    def best_other(self) -> Measurement | None:
        others = (found for name, found in self.measured.items() if name.startswith("vllm-") or name == GEMM)
        return find_fastest(others)

    @property
    def ratio(self) -> float | None:
        speedup = find_speedup(self.ours, self.best_other)
        return speedup.ratio if speedup else None


def find_fastest(measured: Iterable[Measurement]) -> Measurement | None:
    """The one with the least median; None of none."""
    return min(measured, key=lambda found: found.median_us or math.inf, default=None)


def collect(night: Night) -> list[Row]:
    """Rows of all cases under all timers, in the order in which they were measured."""
    rows: dict[tuple[str, str], Row] = {}
    rates = group_rates(night.ceilings)
    for measurement in night.measurements:
        check, case = measurement.check, measurement.check.case
        row = rows.setdefault((case.key, measurement.timer), Row(case, measurement.timer))
        if measurement.median_us is not None:
            row.measured[check.provider] = measurement
            dtype = find_kernel(case.layer.kernel).gemm_dtype.get(case.layer.scheme, "")  # none: it moves bytes only
            row.floor_us = find_floor_us(check, rates.get(check.host_id, {}), dtype)
        elif check.provider in OURS:
            row.why[check.provider] = check.status.value
    add_marlin(rows.values())
    return list(rows.values())


def add_marlin(rows: Iterable[Row]) -> None:
    """Beside dynamic MXFP4 activations Marlin's time on the values of prequantized ones: the same product, same GPU."""
    rows = list(rows)
    marlin = {
        (row.case.layer.key, row.case.num_tokens, row.timer): row.measured["vllm-marlin"]
        for row in rows
        if row.case.options.get("activations") == "prequantized" and "vllm-marlin" in row.measured
    }
    for row in rows:
        known = marlin.get((row.case.layer.key, row.case.num_tokens, row.timer))
        if known and "activations" not in row.case.options:
            row.measured[MARLIN_ELSEWHERE] = known


def print_heading(night: Night) -> None:
    """Which run it is, of what code and on what; to stderr that its suite is another one, which has other cases."""
    run = night.run
    commit = run.git_commit[:7] + (" with changes" if run.git_dirty else "")
    print(f"Run {run.run_id} of {run.started_at:%Y-%m-%d}, suite {run.suite}, commit {commit or 'unknown'}, ", end="")
    for host in night.hosts:
        versions = f"torch {host.torch}, Triton {host.triton}, vLLM {host.vllm or 'not installed'}"
        print(f"{host.device.name}, {versions}, ", end="")
    print(f"precision {float(str(run.arguments.get('precision', DEFAULT_PRECISION))):.2g}")
    if run.suite != SUITE:
        print(f"run {run.run_id} is of the suite {run.suite}: not all of the table {SUITE} is there", file=sys.stderr)


def print_table(rows: Iterable[Row]) -> None:
    """A line for each case, under a heading for each kernel, scheme, layer, options and timer."""
    sections: Mapping[str, list[Row]] = defaultdict(list)
    for row in rows:
        layer, options = row.case.layer, row.case.options
        shared = [f"{name}={value}" for name, value in options.items() if name != "token_strategy"]
        sizes = [f"{name}={size}" for name, size in layer.sizes.items()] if layer.model == "grid" else []
        sections[" ".join([layer.kernel, layer.label, *sizes, layer.scheme, *shared, row.timer])].append(row)
    for title, of_section in sections.items():
        names = sorted({name for row in of_section for name in row.measured}, key=lambda name: (name not in OURS, name))
        print(f"\n{title}\n")
        print("| M | " + " | ".join([*names, "floor", "share", "ratio"]) + " |")
        print("|---|" + "--:|" * (len(names) + 3))
        for row in sorted(of_section, key=lambda row: row.case.num_tokens):
            place = " ".join([str(row.case.num_tokens), row.case.options.get("token_strategy", "")]).strip()
            times = [tell_us(row.measured.get(name)) or row.why.get(name, "") for name in names]
            floor = f"{row.floor_us:.1f}" if row.floor_us else ""
            share = f"{row.floor_us / row.ours.median_us:.0%}" if row.floor_us and row.ours else ""
            print("| " + " | ".join([place, *times, floor, share, f"{row.ratio:.2f}" if row.ratio else ""]) + " |")


def print_speed_ups(rows: Iterable[Row]) -> None:
    """A line for each layer of a model, under one timer: those that the README shows, and more."""
    lines: Mapping[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        layer, options = row.case.layer, row.case.options
        if row.ratio and row.timer == TIMER_OF_README and layer.model != "grid":
            title = " ".join([f"`{layer.kernel}` `{layer.scheme}`", *options.values()])
            lines[f"{title}, {layer.label}"][row.case.num_tokens] = row
    numbers = sorted({num_tokens for of_line in lines.values() for num_tokens in of_line})
    print(f"\nOurs / the fastest other, us, timer `{TIMER_OF_README}` (speed-up)\n")
    print("| M | " + " | ".join(map(str, numbers)) + " |")
    print("|---|" + "---|" * len(numbers))
    for title, of_line in sorted(lines.items()):
        print(f"| {title} | " + " | ".join(tell_speed_up(of_line.get(number)) for number in numbers) + " |")


def tell_speed_up(row: Row | None) -> str:
    """Ours, the fastest other, and how many times as fast ours is; empty where one has no time."""
    return f"{tell_us(row.ours)} / {tell_us(row.best_other)} ({row.ratio:.2f})" if row and row.ratio else ""


def tell_us(measurement: Measurement | None) -> str:
    """Its median; empty of none."""
    return f"{measurement.median_us:.1f}" if measurement else ""


def print_precision(rows: Iterable[Row]) -> None:
    """How well the medians are known."""
    own = (found for row in rows for name, found in row.measured.items() if name != MARLIN_ELSEWHERE)
    widths = sorted(find_interval(measurement).relative_half_width for measurement in own)
    if widths:
        middle, most = statistics.median(widths), widths[int(0.95 * (len(widths) - 1))]
        print(
            f"\n{len(widths)} medians; half of their 95 % intervals are within +- {middle:.1%}, "
            f"95 of 100 within {most:.1%}, all within {widths[-1]:.1%}."
        )


def print_means(rows: Iterable[Row]) -> None:
    """Geometric mean, least and largest ratio of each kernel and scheme under each timer."""
    ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        if row.ratio:
            options = (row.case.options.get("activations", ""),) if row.case.layer.kernel == "mxfp4_gemm" else ("",)
            ratios[row.case.layer.kernel, row.case.layer.scheme, *options, row.timer].append(row.ratio)
    print(
        "\nThe fastest other provider's time over ours, as all ratios here: the median of the ratios of rounds, each of"
    )
    print(
        f"which timed both; where the other is {MARLIN_ELSEWHERE}, medians are divided, as there are no common rounds\n"
    )
    print("| kernel | scheme | activations | timer | cases | geometric mean | least | largest |")
    print("|---|---|---|---|--:|--:|--:|--:|")
    for key, values in ratios.items():
        mean = statistics.geometric_mean(values)
        print("| " + " | ".join(key) + f" | {len(values)} | {mean:.2f} | {min(values):.2f} | {max(values):.2f} |")


def list_providers() -> list[str]:
    """All that compete: plain torch takes most of the time of a run and is compared with nothing here."""
    names = {name for kernel in kernels().values() for name in kernel.providers}
    return sorted(name for name in names if name in OURS or name.startswith("vllm-") or name == GEMM)


def measure(folder: Path) -> None:
    """Run the suite, or go on with it where it was stopped; exits as the run did where it ended badly.

    It runs in this process, which has imported by now most of what it needs.
    """
    cli.begin_process()
    asked = ["--suite", SUITE, "--run-id", SUITE, "--precision", PRECISION, "--save-dir", str(folder)]
    ended = cli.main(["run", *asked, "--provider", *list_providers()])
    if ended not in (EXIT_OK, EXIT_REGRESSION):
        sys.exit(ended)


def is_measured(folder: Path) -> bool:
    """Whether the run is complete."""
    try:
        return Store.read(folder).find_run(SUITE).status == "complete"
    except StoreError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--save-dir", type=Path)
    source.add_argument("--from", dest="parquet", type=Path)
    parser.add_argument("--run-id", default="", help="of --from; the newest run without it")
    arguments = parser.parse_args()
    try:
        if arguments.parquet:
            night = Store.from_parquet(arguments.parquet).night(arguments.run_id)
        else:
            if not is_measured(arguments.save_dir):
                measure(arguments.save_dir)
            night = Store.read(arguments.save_dir).night(SUITE)
    except StoreError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USAGE)
    try:
        print_night(night)
    except BrokenPipeError:  # `head` reads no further; nor does anybody read what is left at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_night(night: Night) -> None:
    """Everything that is known of a run."""
    rows = collect(night)
    print_heading(night)
    print_table(rows)
    print_speed_ups(rows)
    print_means(rows)
    print_precision(rows)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
