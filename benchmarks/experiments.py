"""The experiments of accuracy.py, each in a process of its own; samples go into a file of JSON lines.

python benchmarks/experiments.py spread|upstream|slowdown|neighbour --out FILE [--device cuda] [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import torch
import triton

from kernels.registry import PACKAGE_DIR, find_kernel, kernels
from kernels.spec import Case, Device, Launch, Layer, Outputs, Provider, Tensors
from kernels.timing.timers import timers_for
from tasks.ahead import AheadBench
from tasks.bench import Bench, compete_as_is, seed_of_inputs
from tasks.records import PRECISION, WorkUnit
from tasks.sampling import ClockWatch, Reading, Readings, take_in_turn

QWEN3_30B_A3B = {"num_experts": 128, "top_k": 8, "hidden_size": 2048, "intermediate_size": 768}
SLOWDOWN = 1.03
PRACTICE_WAITS = (1_000, 20_000)
"""Cycles of a GPU's SMs, or nanoseconds: what a wait of one more costs is learnt from these."""
ROUNDS_OF_METHODS = 5
CALLS_PER_GRAPH, WARMUP_REPLAYS, NUM_ITERS = 10, 5, 100
"""Of vLLM's benchmark_moe.py."""
NUM_ITERS_ON_CPU = 10

Wait = Callable[[], None]


def list_cases(device_type: str, quick: bool) -> list[Case]:
    """What is timed; on a CPU the same kernels in miniature, to try this file out."""
    on_gpu = device_type == "cuda"
    moe = QWEN3_30B_A3B if on_gpu else {**QWEN3_30B_A3B, "num_experts": 8, "hidden_size": 256, "intermediate_size": 256}
    silu = {"num_experts": 32 if on_gpu else 4, "intermediate_size": 7168 if on_gpu else 256}
    linear = {"n": 8192, "k": 8192} if on_gpu else {"n": 256, "k": 256}
    tokens = {"fused_moe": (64, 1024) if quick else (1, 16, 64, 256, 1024, 4096), "silu_mul_fp8": (64, 1024)}
    layers = [Layer("fused_moe", "grid", 1, 1, s, "bfloat16", moe) for s in ("fp8_w8a8", "fp8_w8a8_block128")]
    layers.append(Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", silu))
    layers.append(Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a16", "bfloat16", linear))
    return [
        Case(layer, num) for layer in layers for num in (tokens.get(layer.kernel, (1, 64, 1024)) if on_gpu else (64,))
    ]


class Recorder:
    """A Bench whose readings go into a file."""

    def __init__(self, experiment: str, device_type: str, out: Path) -> None:
        self.bench = Bench(device_type)
        self.device = self.bench.host().device
        self.torch_device = torch.device(device_type)
        self.timer = timers_for(device_type)[0]
        self._experiment, self._out, self._layer_key = experiment, out, ""

    def note(self, **fields: object) -> None:
        """Write one line."""
        with self._out.open("a") as lines:
            lines.write(json.dumps({"experiment": self._experiment, **fields}) + "\n")

    def note_reading(self, case: Case, provider: str, reading: Reading, **fields: object) -> None:
        """Write one provider's samples."""
        rounds = [(trial.round, trial.num_samples) for trial in reading.trials if trial.num_samples]
        clocks = [trial.state.sm_clock_mhz for trial in reading.trials if trial.state]
        slow = sum(trial.is_slow_clock for trial in reading.trials)
        samples = [round(sample, 4) for sample in reading.samples_us]
        fields |= {"rounds": rounds, "sm_clocks_mhz": clocks, "slow_trials": slow, "samples_us": samples}
        self.note(case=case.key, provider=provider, **fields)

    def time(self, case: Case, providers: Sequence[str], precision: float = PRECISION) -> Readings:
        """Time providers of a case as a night does."""
        if case.layer.key != self._layer_key:
            self.bench.load_layer(case.layer, 0)
            self._layer_key = case.layer.key
        contenders = [compete_as_is(provider) for provider in providers]
        return self.bench.time(case, contenders, self.timer.name, precision)


def choose_providers(case: Case, device: Device) -> list[str]:
    """torch, triton and the first of vLLM's, as far as they run here."""
    providers = find_kernel(case.layer.kernel).providers
    running = [name for name, provider in providers.items() if provider.unsupported(case, device) is None]
    vllms = [name for name in running if name.startswith("vllm")]
    return [name for name in running if name in ("torch", "triton")] + vllms[:1]


def choose_ours(case: Case, device: Device) -> str:
    """triton, or torch where it does not run."""
    return "triton" if "triton" in choose_providers(case, device) else "torch"


def measure_spread(recorder: Recorder, cases: Sequence[Case]) -> None:
    """Every provider of every case, once; other processes do the same."""
    for case in cases:
        for provider, reading in recorder.time(case, choose_providers(case, recorder.device)).providers.items():
            recorder.note_reading(case, provider, reading)


# Upstream's method


def time_as_upstream(run: Callable[[], object], device_type: str) -> list[float]:
    """Microseconds per call as benchmark_kernels/benchmark_moe.py of vLLM has them, whose result is their mean.

    On a CPU, ten calls at a time.
    """
    if device_type == "cpu":
        run()
        starts_ns = []
        for _ in range(NUM_ITERS_ON_CPU + 1):
            starts_ns.append(time.perf_counter_ns())
            for _ in range(CALLS_PER_GRAPH):
                run()
        return [(b - a) / 1e3 / CALLS_PER_GRAPH for a, b in pairwise(starts_ns)]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_PER_GRAPH):
            run()
    torch.cuda.synchronize()
    for _ in range(WARMUP_REPLAYS):
        graph.replay()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    samples_us = []
    for _ in range(NUM_ITERS):
        torch.cuda.synchronize()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples_us.append(start.elapsed_time(end) * 1e3 / CALLS_PER_GRAPH)
    graph.reset()
    return samples_us


def compare_methods(recorder: Recorder, cases: Sequence[Case]) -> None:
    """Our timer and upstream's method in turn, on the same launch."""
    for _, of_layer in groupby(cases, key=lambda case: case.layer.key):
        listed = list(of_layer)
        kernel = find_kernel(listed[0].layer.kernel)
        weights = kernel.make_weights(listed[0].layer, 0, recorder.torch_device)
        for case in listed:
            provider = choose_ours(case, recorder.device)
            inputs = kernel.make_inputs(case, weights, seed_of_inputs(0), recorder.torch_device)
            run = kernel.providers[provider].prepare(case, weights, inputs).run
            for number in range(ROUNDS_OF_METHODS):
                stopwatch = recorder.timer.prepare([run])
                ours = take_in_turn({"": stopwatch}, {}, recorder.timer.sampling, ClockWatch(lambda: None))
                stopwatch.close()
                theirs = time_as_upstream(run, recorder.device.type)
                recorder.note_reading(case, provider, ours.providers[""], method="ours", number=number)
                recorder.note_reading(case, provider, Reading(tuple(theirs), ()), method="upstream", number=number)


# A slowdown put in on purpose


def make_wait(amount: float, device_type: str) -> Wait:
    """Wait so many cycles on a GPU, or nanoseconds on a CPU."""
    if device_type == "cuda":
        return lambda: torch.cuda._sleep(int(amount))

    def wait() -> None:
        until = time.perf_counter_ns() + amount
        while time.perf_counter_ns() < until:
            pass

    return wait


@contextmanager
def with_waits(kernel_name: str, provider: str, waits: dict[str, Wait]) -> Iterator[None]:
    """Give a kernel one provider under several names, each with its wait after it."""
    kernel = find_kernel(kernel_name)
    original = kernel.providers[provider]

    def slowed(wait: Wait) -> Provider:
        def prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
            launch = original.prepare(case, weights, inputs)

            def run() -> Outputs:
                outputs = launch.run()
                wait()
                return outputs

            return Launch(run, launch.config)

        return replace(original, prepare=prepare)

    made = {"plain": original, "again": original, **{name: slowed(wait) for name, wait in waits.items()}}
    kernels(PACKAGE_DIR)[kernel_name] = replace(kernel, providers=made, baseline="plain")
    try:
        yield
    finally:
        kernels(PACKAGE_DIR)[kernel_name] = kernel


def inject_slowdown(recorder: Recorder, cases: Sequence[Case]) -> None:
    """A provider, itself once more, and itself with a wait of 3 % of its time, in one interleaved run."""
    little, much = PRACTICE_WAITS
    for case in cases:
        provider, kind = choose_ours(case, recorder.device), recorder.device.type
        practice = {"little": make_wait(little, kind), "much": make_wait(much, kind)}
        with with_waits(case.layer.kernel, provider, practice):
            readings = recorder.time(case, ("plain", *practice)).providers
        plain_us, little_us, much_us = (statistics.median(readings[n].samples_us) for n in ("plain", *practice))
        wanted = little + (SLOWDOWN * plain_us - little_us) / (much_us - little_us) * (much - little)
        if wanted < 1:
            recorder.note(case=case.key, provider=provider, left_out=f"{plain_us:.1f} us: a launch alone is over 3 %")
            continue
        with with_waits(case.layer.kernel, provider, {"slowed": make_wait(wanted, kind)}):
            for name, reading in recorder.time(case, ("plain", "again", "slowed")).providers.items():
                recorder.note_reading(case, name, reading, ours=provider)


# A process that compiles beside the timing


@contextmanager
def compiling_beside(unit: WorkUnit) -> Iterator[Path]:
    """Another process compiles the unit's kernels over and over; yields the file that has a line for each time."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / "done"
        done.touch()
        script = f"from experiments import compile_for_ever; compile_for_ever({unit.layer.kernel!r}, {str(done)!r})"
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        process = subprocess.Popen([sys.executable, "-c", script], env=environment)
        try:
            while not done.read_text():
                if process.poll() is not None:
                    raise RuntimeError(f"the process that compiles ended with exit code {process.returncode}")
                time.sleep(0.1)
            yield done
        finally:
            process.kill()
            process.wait()


def compile_for_ever(kernel_name: str, done: str) -> None:
    """Compile what the kernel's Triton provider launches on an H200, each time into a fresh cache."""
    bench, [case] = AheadBench("cuda"), [c for c in list_cases("cuda", True) if c.layer.kernel == kernel_name][:1]
    unit = WorkUnit(case.layer, (case,), ("triton",))
    while True:
        with tempfile.TemporaryDirectory() as folder:
            triton.knobs.cache.dir = folder
            report = bench.compile_unit(unit, Device("cuda", "NVIDIA H200", (9, 0)))
        with Path(done).open("a") as lines:
            lines.write(f"{report.compiled} {report.seconds}\n")


def measure_beside_neighbour(recorder: Recorder, cases: Sequence[Case]) -> None:
    """As many samples as there may be of each case, alone and beside a process that compiles, twice each."""
    busy = next(case for case in cases if case.layer.kernel == "silu_mul_fp8")
    unit = WorkUnit(busy.layer, (busy,), ("triton",))

    def time_all(neighbour: str) -> None:
        for case in cases:
            ours = choose_ours(case, recorder.device)
            reading = recorder.time(case, [ours], precision=0.0).providers[ours]
            recorder.note_reading(case, ours, reading, neighbour=neighbour)

    for case in cases:
        recorder.time(case, [choose_ours(case, recorder.device)])  # compiles what is not yet
    for _ in range(2):
        time_all("none")
        with compiling_beside(unit) as done:
            before = len(done.read_text().splitlines())
            time_all("compiles")
            recorder.note(neighbour="compiles", times=len(done.read_text().splitlines()) - before)


def list_middle_cases(cases: Sequence[Case]) -> list[Case]:
    """Cases that take 100 us and more on an H200, one or two of each layer: a launch is less than 3 % of them."""
    return [case for case in cases if case.num_tokens in (64, 1024)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("spread", "upstream", "slowdown", "neighbour"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    cases = list_cases(arguments.device, arguments.quick)
    recorder = Recorder(arguments.experiment, arguments.device, arguments.out)
    match arguments.experiment:
        case "spread":
            measure_spread(recorder, cases)
        case "upstream":
            compare_methods(recorder, cases)
        case "slowdown":
            inject_slowdown(recorder, list_middle_cases(cases))
        case "neighbour":
            measure_beside_neighbour(recorder, list_middle_cases(cases))


if __name__ == "__main__":
    main()
