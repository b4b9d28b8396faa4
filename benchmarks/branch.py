"""How often `kernel-nightly branch` tells a change of equal code, and how small a slowdown it tells.

    python benchmarks/branch.py drawn
    python benchmarks/branch.py equal -- --kernel fused_moe silu_mul_fp8 --provider triton --timer graph
    python benchmarks/branch.py --us 1.0 slowed -- --kernel fused_moe --model Mixtral-8x7B --tp-size 2 \
        --scheme unquantized --provider triton --batch-size 1 --timer graph

`drawn` plays the rule on made-up sittings and needs no device. `equal` compares this checkout's commit with itself.
`slowed` plants a wait of so many microseconds behind every call of every provider, and one of none in the base: both
launch the waiting kernel, so that only its length differs. What follows `--` are options of `kernel-nightly branch`.
Both clone the committed checkout into a temporary folder, and leave nothing else behind. --out FILE gets a line of
JSON for each series, with the ratio of each sitting.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tasks.checkout import CHECKOUT
from tasks.commits.comparisons import Sitting
from tasks.commits.paired import LOOKS, choose_state, draw_ratio, estimate, judge_sittings
from tasks.comparison_session import Outcome
from tasks.records import Series, State
from tasks.storage.comparison_store import ComparisonStore

Draw = Callable[[random.Random, int], float]
"""What the logarithm of head / base is off by in a sitting of that number."""


def place(rng: random.Random, share: float) -> float:
    """Of two processes, each of which is 2 % slower with that probability."""
    return 0.02 * ((rng.random() < share) - (rng.random() < share))


NOISES: dict[str, Draw] = {
    "normal, 0.3 %": lambda rng, _: rng.gauss(0, 0.003),
    "normal, 0.5 %": lambda rng, _: rng.gauss(0, 0.005),
    "normal, 0.7 %": lambda rng, _: rng.gauss(0, 0.007),
    "heavy tails (t3), 0.3 %": lambda rng, _: rng.gauss(0, 0.003) / math.sqrt(rng.gammavariate(1.5, 1) / 1.5),
    "15 % of processes 2 % slower": lambda rng, _: place(rng, 0.15) + rng.gauss(0, 0.0005),
    "half of the processes 2 % slower": lambda rng, _: place(rng, 0.5) + rng.gauss(0, 0.0005),
    "the first is 2 % faster, 0.3 %": lambda rng, number: 0.02 * (-1) ** number + rng.gauss(0, 0.003),
}
WAIT = """

def _wait_behind(provider):
    def prepare(case, weights, inputs):
        import time

        import torch

        launch = provider.prepare(case, weights, inputs)
        is_gpu = any(tensor.is_cuda for tensor in inputs.values())

        def run():
            outputs = launch.run()
            if is_gpu:
                torch.cuda._sleep(1 + int(MICROSECONDS * 1980))  # cycles of an H200 at its fastest clock
            else:
                end = time.perf_counter() + MICROSECONDS / 1e6
                while time.perf_counter() < end:
                    pass
            return outputs

        return Launch(run, launch.config)

    return dataclasses.replace(provider, prepare=prepare)


import dataclasses

from kernels.spec import Launch

KERNEL = dataclasses.replace(KERNEL, providers={n: _wait_behind(p) for n, p in KERNEL.providers.items()})
"""


def play(rng: random.Random, draw: Draw, shift: float, num_series: int) -> tuple[State, int]:
    """The verdict on one of so many series, the others of which are all equal, and its sittings."""
    draws: list[float] = []
    for look in LOOKS:
        draws += [draw(rng, number) + math.log1p(shift) for number in range(len(draws), look)]
        found = estimate(draws[::2], draws[1::2])
        paid = min(1.0, found.p_value * len(LOOKS) * num_series)
        state = choose_state(replace(found, p_value=paid), look, 0.01)
        if state is not State.AMBIGUOUS:
            break
    return state, len(draws)


def print_drawn(plays: int) -> None:
    """Shares of the verdicts by noise, true change and number of series."""
    print(f"{'noise of a sitting':34} {'change':>6} {'series':>6}  verdicts of {plays}; mean sittings")
    for name, draw in NOISES.items():
        for shift in (0.0, 0.01, 0.02):
            for num_series in (1, 100):
                rng = random.Random(1)
                ended = [play(rng, draw, shift, num_series) for _ in range(plays)]
                counts = Counter(state for state, _ in ended)
                told = ", ".join(f"{state} {number / plays:.1%}" for state, number in counts.most_common())
                mean = sum(sittings for _, sittings in ended) / plays
                print(f"{name:34} {shift:6.0%} {num_series:6}  {told}; {mean:.1f}")


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    settings = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def plant_wait(folder: Path, microseconds: float) -> str:
    """Commit a wait behind every call of every provider; returns the commit's tag."""
    git(folder, "checkout", "--quiet", "origin/HEAD")
    for path in sorted((folder / "kernels").glob("*.py")):
        source = path.read_text()
        if "\nKERNEL = " in source:
            path.write_text(source + WAIT.replace("MICROSECONDS", f"{microseconds:g}"))
    git(folder, "commit", "--quiet", "--all", "--allow-empty", "--message", f"Wait for {microseconds:g} us")
    tag = f"wait-{microseconds:g}"
    git(folder, "tag", tag)
    return tag


def run_branch(folder: Path, head: str, base: str, options: Sequence[str]) -> tuple[Outcome, list[Sitting], float]:
    """What the command finds, all its sittings, and its seconds from beginning to end."""
    git(folder, "checkout", "--quiet", "origin/HEAD")
    start = time.monotonic()
    command = [sys.executable, "-m", "flows", "branch", head, "--base", base, *options]
    subprocess.run(command, cwd=folder, check=False)
    seconds = time.monotonic() - start
    with ComparisonStore.read(folder / "results") as store:
        comparison = store.comparisons()[-1]
        sittings = store.sittings(comparison.comparison_id)
    contrasts = judge_sittings(sittings, comparison.least_change)
    outcome = Outcome(comparison, tuple(contrasts), len(sittings), sum(s.seconds for s in sittings))
    return outcome, list(sittings), seconds


def print_measured(microseconds: float, options: Sequence[str], out: Path | None) -> None:
    """The verdicts on a planted wait, or on equal code, beside what was planted."""
    with tempfile.TemporaryDirectory(prefix="kernel-nightly-branch-") as scratch:
        folder = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(folder)], check=True)
        base = plant_wait(folder, 0.0)
        head = plant_wait(folder, microseconds) if microseconds else base
        outcome, sittings, seconds = run_branch(folder, head, base, options)
    compared = [contrast for contrast in outcome.contrasts if contrast.base_us is not None and contrast.num_sittings]
    counts = Counter(contrast.state for contrast in compared)
    told = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    print(f"{len(compared)} series: {told}; {outcome.sittings} sittings, {seconds:.0f} s from beginning to end")
    for one in compared:
        planted = microseconds / (one.base_us or math.inf)
        found = f"{one.change:+.2%}, {one.low:+.2%} to {one.high:+.2%}, {one.num_sittings} sittings, {one.state}"
        what = f"{one.case.layer.kernel} {one.case.label} {one.series.provider} {one.series.timer}"
        print(f"  {what}: {one.base_us:.1f} us, planted {planted:+.2%}, found {found}")
        if out:
            row = {"series": what, "base_us": one.base_us, "planted": planted, "state": one.state}
            row |= {"change": one.change, "low": one.low, "high": one.high, "ratios": list_ratios(one.series, sittings)}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def list_ratios(series: Series, sittings: Sequence[Sitting]) -> list[float]:
    """Head / base of one series, one for each sitting; in the first, the third and so on the head came first."""
    pairs = [
        (head, base)
        for sitting in sittings
        for head in sitting.head
        for base in sitting.base
        if head.series == base.series == series
    ]
    draws = [draw_ratio(*pair) for pair in pairs]
    return [round(math.exp(draw), 6) for draw in draws if draw is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("drawn", "equal", "slowed"))
    parser.add_argument("--plays", type=int, default=3000, help="of drawn")
    parser.add_argument("--us", type=float, default=1.0, help="of slowed: the wait")
    parser.add_argument("--out", type=Path, help="of equal and slowed: a file of JSON lines that is added to")
    parser.add_argument("options", nargs="*", help="after --: of kernel-nightly branch")
    arguments = parser.parse_args()
    if arguments.what == "drawn":
        print_drawn(arguments.plays)
    else:
        print_measured(arguments.us if arguments.what == "slowed" else 0.0, arguments.options, arguments.out)


if __name__ == "__main__":
    main()
