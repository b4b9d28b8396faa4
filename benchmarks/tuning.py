"""The search for launch configurations against trying all of them; every step goes on where it was stopped.

    python benchmarks/tuning.py sweep --out DIR --seconds 500     every configuration of every batch size, on all GPUs;
                                                                  call it again until none is left
    python benchmarks/tuning.py search --out DIR                  the search, with its wall seconds
    python benchmarks/tuning.py compare --out DIR                 found beside the sweep's best, in turn
    python benchmarks/tuning.py sweep compare --out DIR           both, with the same workers

A shape is --model, --tp-size and --scheme: Mixtral-8x7B TP2 in fp8_w8a8 without them. The sweep takes what pruning
leaves of the space, and shares its compilers and its timing with the search, so that the two differ in what they ask.
"""

import argparse
import json
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from rich.console import Console

from kernels.moe.vllm_config_files import Config
from kernels.moe.vllm_configs import shipped_folder
from kernels.spec import Case
from tasks.intervals import Interval
from tasks.planning.cases import Selection
from tasks.pool import WorkerPool, open_workers, start_workers
from tasks.storage.store import Store
from tasks.tuning.contest import find_ratio
from tasks.tuning.lanes import MOST_TOGETHER, Lanes, opening_lanes
from tasks.tuning.plan import Effort
from tasks.tuning.requests import list_requests
from tasks.tuning.retuning import Request, Used, find_used, retune, set_key_of
from tasks.tuning.space import config_key, distinct, prune
from tasks.tuning.spaces import problem_of, space_of
from tasks.tuning.trials import Answer, Bench, Question

SWEEP_TRIALS = 2
TOGETHER = 4 * MOST_TOGETHER
"""Configurations of one question: while a group of them is timed the next ones are compiled."""
ASKED_TOGETHER = 2
"""Questions for each GPU: while one waits for compilers the other is timed."""
FEW_ROWS, MANY_TOKENS = 32, 1024
"""Tiles of so few rows come last where there are so many tokens: a sweep that is stopped lacks what is slow there."""
FINALISTS = 10
"""Of the sweep at each batch size: one of them is the best, whoever was lucky."""
ALL_TRIALS = 26
"""Of everybody, in turn: the fastest of the others go on."""
FASTEST, FASTEST_TRIALS = 4, 50
"""Of those and of what was found: the fastest other is chosen by all its trials so far, none of which counts after."""
DUEL_TRIALS, LEAST_DUELS, MOST_DUELS = 96, 2, 4
"""Of what was found and that one: each duel has tensors of its own, and every other one begins with the other."""
BLOCK = 4
"""Rounds of a duel in which both come first, and after each other, equally often: one draw of the ratio."""
PRECISE = 0.003
"""Half of an interval so narrow ends the duels."""


@dataclass(frozen=True)
class Opened:
    """A shape on the workers of one kind of GPU."""

    request: Request
    lanes: Lanes
    used: Used
    device_name: str
    arch: str


@contextmanager
def opening(request: Request, pool: WorkerPool) -> Iterator[Opened]:
    """The layer's weights on every worker, and compilers beside them."""
    [device_name] = pool.devices()
    with (
        pool.lend(device_name) as workers,
        opening_lanes(workers, pool.start_companions, request.unit, request.seed) as lanes,
    ):
        used = find_used(lanes.workers[0], request.unit.cases, request.launcher)
        yield Opened(request, lanes, used, device_name, lanes.host.device.arch)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines; without the last one where a kill cut it."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def sweep(opened: Opened, path: Path, seconds: float, num_trials: int) -> None:
    """Time every configuration that the file lacks, on all GPUs, until the seconds are spent; a line each."""
    deadline, questions = time.monotonic() + seconds, list_questions(opened, read_lines(path), num_trials)
    num_gpus, is_free = len(opened.lanes.workers), threading.Lock()
    num_threads = ASKED_TOGETHER * num_gpus

    def go_on() -> None:
        while time.monotonic() < deadline:
            with is_free:
                if not questions:
                    return
                question = questions.popleft()
            [answer] = opened.lanes.measure([question])
            with is_free:
                write_answer(path, question, answer, num_gpus / num_threads)

    with ThreadPoolExecutor(num_threads) as threads:
        for ended in [threads.submit(go_on) for _ in range(num_threads)]:
            ended.result()
    lines, left = read_lines(path), sum(len(question.configs) for question in questions)
    spent = sum(line["seconds"] for line in lines)
    failed = sum(not line["samples_us"] for line in lines)
    print(f"{len(lines)} configurations in {spent:.0f} s of a GPU so far, {failed} of them failed; {left} are left")


def list_questions(opened: Opened, done: list[dict[str, Any]], num_trials: int) -> deque[Question]:
    """What of the pruned space is not done yet, one batch size after the other; last what FEW_ROWS says."""
    known = {(line["batch_size"], config_key(line["config"])) for line in done}
    likely, unlikely = deque[Question](), deque[Question]()
    for case in opened.request.unit.cases:
        space = space_of(case, opened.request.launcher)
        candidates = prune(space, problem_of(case, opened.request.launcher, opened.arch)).configs
        new = [config for config in candidates if (case.num_tokens, config_key(config)) not in known]
        last = [c for c in new if c["BLOCK_SIZE_M"] <= FEW_ROWS and case.num_tokens >= MANY_TOKENS]
        first = [config for config in new if config not in last]
        for questions, configs in ((likely, first), (unlikely, last)):
            groups = (tuple(configs[start : start + TOGETHER]) for start in range(0, len(configs), TOGETHER))
            questions += [Question(case.num_tokens, group, num_trials) for group in groups]
    return likely + unlikely


def write_answer(path: Path, question: Question, answer: Answer, share: float) -> None:
    """Append a line for each configuration, with its part of the seconds of a GPU; the answer had a share of them."""
    with path.open("a") as file:
        for trial in answer.trials:
            told = {"batch_size": question.batch_size, "config": trial.config, "samples_us": trial.samples_us}
            spent = {"seconds": answer.seconds * share / len(question.configs)}
            file.write(json.dumps({**told, "status": trial.status, "reason": trial.reason, **spent}) + "\n")


def search(request: Request, pool: WorkerPool, out: Path) -> None:
    """The search into the database of the folder, and its wall seconds."""
    [device_name] = pool.devices()
    start = time.perf_counter()
    with Store.open(out) as store:
        retuned = retune(request, pool, device_name, store.notebook, Console())
    wall = time.perf_counter() - start
    print(retuned.summary)
    print(f"{wall:.1f} s of wall time, weights and compiling with it; answers took {answer_seconds(retuned):.1f} s")
    with (out / "search.jsonl").open("a") as file:
        file.write(json.dumps({"label": retuned.key.label, "wall_seconds": wall}) + "\n")


def answer_seconds(retuned: Any) -> float:
    """Of all batch sizes."""
    return sum(outcome.seconds for outcome in retuned.outcomes)


def compare(opened: Opened, out: Path, swept: Path) -> None:
    """Time shipped, default, found and the sweep's finalists in turn, then found and the fastest other; a row each."""
    key = set_key_of(opened.request.unit.cases[0], opened.request.launcher, opened.device_name)
    with Store.open(out) as store:
        tuned = store.notebook.find_tuned(key)
    found, lines = tuned.configs if tuned else {}, read_lines(swept)
    done = {line["batch_size"] for line in read_lines(out / "compare.jsonl")}
    left = [case for case in reversed(opened.request.unit.cases) if case.num_tokens not in done]

    def compare_case(case: Case) -> Comparison:
        return hold_comparison(name_configs(opened, case, found.get(case.num_tokens), lines), case, opened.lanes)

    print(f"{'M':>6} {'shipped':>10} {'default':>10} {'found':>10} {'other':>10}  found / fastest other (99 %)")
    with ThreadPoolExecutor(len(opened.lanes.workers)) as threads:
        for compared in threads.map(compare_case, left):
            print(format_row(compared), flush=True)
            with (out / "compare.jsonl").open("a") as file:
                file.write(json.dumps(asdict(compared)) + "\n")


@dataclass(frozen=True)
class Comparison:
    """What was found at a batch size, beside all that may be as fast."""

    batch_size: int
    configs: Mapping[str, Config]
    """By who proposes it; several may propose the same."""
    us: Mapping[str, Sequence[float]]
    """By the same names, the trials of all."""
    fastest_us: Mapping[str, Sequence[float]]
    """Trials of found and of the fastest others."""
    other: str
    """The fastest of them."""
    duels_us: Sequence[tuple[Sequence[float], Sequence[float]]]
    """Trials of found and of that one."""
    ratio: Interval
    """Found / other in the duels, 99 %; 1 is alike."""


def hold_comparison(configs: Mapping[str, Config], case: Case, lanes: Bench) -> Comparison:
    """Choose the fastest other by some trials, and compare by others: who was lucky is not so again."""

    def time_in_turn(names: Sequence[str], num_trials: int) -> dict[str, Sequence[float]]:
        asked = tuple(distinct([configs[name] for name in names]))
        [answer] = lanes.measure([Question(case.num_tokens, asked, num_trials, is_checked=True)])
        trials = {config_key(trial.config): trial.samples_us for trial in answer.trials}
        return {name: trials[config_key(configs[name])] for name in names}

    us = time_in_turn([*configs], ALL_TRIALS)
    others = {config_key(c): name for name, c in configs.items() if us[name] and c != configs["found"]}
    fastest = sorted(others.values(), key=lambda name: fmean(us[name]))[:FASTEST]
    fastest_us = time_in_turn(["found", *fastest], FASTEST_TRIALS)
    other = min(fastest, key=lambda name: fmean([*us[name], *fastest_us[name]]))
    duels, ratio = list[tuple[Sequence[float], Sequence[float]]](), Interval(1.0, 0.0, math.inf)
    while len(duels) < LEAST_DUELS or (ratio.high - ratio.low > 2 * PRECISE and len(duels) < MOST_DUELS):
        order = ["found", other] if len(duels) % 2 == 0 else [other, "found"]
        told = time_in_turn(order, DUEL_TRIALS)
        duels.append((told["found"], told[other]))
        ratio = find_block_ratio(duels)
    return Comparison(case.num_tokens, configs, us, fastest_us, other, duels, ratio)


def find_block_ratio(duels: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Interval:
    """The median ratio of the first's times over the second's, and its interval, over blocks of rounds."""
    times, others = (
        [geometric_mean(side[start : start + BLOCK]) for side in sides for start in range(0, len(side), BLOCK)]
        for sides in zip(*duels, strict=True)
    )
    return find_ratio(times, others)


def name_configs(opened: Opened, case: Case, found: Config | None, lines: list[dict[str, Any]]) -> dict[str, Config]:
    """What is compared at a batch size, by who proposes it."""
    launcher, size = opened.request.launcher, case.num_tokens
    space, problem = space_of(case, launcher), problem_of(case, launcher, opened.arch)
    finalists = sorted(
        (line for line in lines if line["batch_size"] == size and line["samples_us"]),
        key=lambda line: statistics.median(line["samples_us"]),
    )[:FINALISTS]
    shipped, default = opened.used.find_incumbent(size), opened.used.defaults[size]
    named = {
        "shipped": shipped,
        "default": default,
        "found": found or shipped or default,
        **{f"best {place}": line["config"] for place, line in enumerate(finalists)},
    }
    return {name: space.canonicalize(config, problem) for name, config in named.items() if config}


def format_row(compared: Comparison) -> str:
    """Mean times in the first turns, and what the duels say."""
    shown = [compared.us.get(name) for name in ("shipped", "default", "found", compared.other)]
    cells = " ".join(f"{fmean(each):10.1f}" if each else f"{'-':>10}" for each in shown)
    ratio, number = compared.ratio, len(compared.duels_us)
    return f"{compared.batch_size:6} {cells}  {ratio.median:.4f} ({ratio.low:.4f} to {ratio.high:.4f}), {number} duels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=("sweep", "search", "compare"), metavar="sweep|search|compare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="Mixtral-8x7B")
    parser.add_argument("--tp-size", type=int, default=2)
    parser.add_argument("--scheme", default="fp8_w8a8")
    parser.add_argument("--provider", default="vllm-triton-tuned")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[])
    parser.add_argument("--trials", type=int, default=SWEEP_TRIALS, help="of each configuration of a sweep")
    parser.add_argument("--seconds", type=float, default=500.0, help="of a sweep, or of a search's proposals")
    arguments = parser.parse_args()
    selection = Selection(
        models=(arguments.model,),
        tp_sizes=(arguments.tp_size,),
        schemes=(arguments.scheme,),
        providers=(arguments.provider,),
        batch_sizes=tuple(arguments.batch_size),
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    [request] = list_requests(selection, "cuda", arguments.out, 0, arguments.seconds)
    request = replace(request, effort=Effort(most_seconds=arguments.seconds))
    swept = arguments.out / f"sweep {arguments.model} tp{arguments.tp_size} {arguments.scheme}.jsonl"
    start_workers("cuda", most_companions=1)
    with open_workers("cuda") as pool:
        print(f"{dict(pool.devices())}, vLLM's files in {shipped_folder() or 'no folder'}")
        if "search" in arguments.steps:
            search(request, pool, arguments.out)
        if {"sweep", "compare"}.isdisjoint(arguments.steps):
            return
        with opening(request, pool) as opened:
            if "sweep" in arguments.steps:
                sweep(opened, swept, arguments.seconds, arguments.trials)
            if "compare" in arguments.steps:
                compare(opened, arguments.out, swept)


if __name__ == "__main__":
    main()
