"""Simulated tuning: how long a fused MoE would take with each configuration, and a bench that times it with noise."""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kernels.moe.vllm_config_files import Config
from tasks.records import Status
from tasks.tuning.space import Problem, config_key
from tasks.tuning.trials import Answer, Question, Trial

SMS = 132
COMPILE_SECONDS = 0.12
"""Of a binary, with 16 cores at work."""
MEASURE_SECONDS = 0.01
CALLS = 10
"""Of a CUDA graph: one sample."""
BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)


def draw(*parts: object) -> random.Random:
    """Random numbers that are the same for the same parts."""
    return random.Random(hashlib.sha256(repr(parts).encode()).hexdigest())


@dataclass(frozen=True)
class Surface:
    """A fused MoE on a GPU that never was: roofline, tiles of padding, waves, occupancy, pipelines, and quirks."""

    seed: int
    num_experts: int = 8
    top_k: int = 2
    hidden_size: int = 4096
    intermediate_size: int = 7168
    a_bytes: float = 1.0
    kind: str = "rough"
    """"rough", "flat" (all alike), or "bimodal" (two distant valleys)."""

    @cached_property
    def quirks(self) -> Mapping[str, float]:
        """How this GPU and compiler treat what no formula says."""
        rng = draw("quirks", self.seed)
        names = ("rows", "warps", "stages", "steps", "groups", "narrow", "swap", "latency", "mma")
        return {name: rng.uniform(-1, 1) for name in names}

    def problem(self, batch_size: int) -> Problem:
        n, k = self.intermediate_size, self.hidden_size
        gemms = ((2 * n, k), (k, n))
        return Problem(batch_size, gemms, "sm_90", self.num_experts, self.top_k, self.a_bytes, self.a_bytes)

    def fails(self, config: Config) -> bool:
        """A few configurations do not compile, or want more shared memory than anybody could tell."""
        tile = config["BLOCK_SIZE_K"] * (config["BLOCK_SIZE_M"] + config["BLOCK_SIZE_N"]) * self.a_bytes
        too_big = tile * config["num_stages"] > 232_448
        binary = {name: value for name, value in config.items() if name != "GROUP_SIZE_M"}
        return too_big or draw("fails", self.seed, config_key(binary)).random() < 0.01

    def true_us(self, config: Config, batch_size: int) -> float:
        """The time without noise."""
        if self.kind == "flat":
            return 100.0
        q, problem = self.quirks, self.problem(batch_size)
        total = 6.0 + sum(self._gemm_us(config, batch_size, n, k) for n, k in problem.gemms)
        if self.kind == "bimodal":
            near = config["BLOCK_SIZE_N"] >= 128 and config["num_warps"] == 8 and config["num_stages"] >= 4
            far = config["BLOCK_SIZE_N"] <= 64 and config["num_warps"] == 4 and config["num_stages"] <= 3
            total *= (
                (0.94 if near else 0.93 if far else 1.1)
                if q["narrow"] > 0
                else (0.93 if near else 0.94 if far else 1.1)
            )
        own = {name: value for name, value in config.items() if name != "GROUP_SIZE_M"}
        rough = draw("rough", self.seed, config_key(own)).gauss(0, 0.012)
        rough += draw("rough", self.seed, config_key(config), batch_size).gauss(0, 0.004)
        return total * math.exp(rough)

    def _gemm_us(self, config: Config, batch_size: int, n: int, k: int) -> float:
        q = self.quirks
        bm, bn, bk = (config[f"BLOCK_SIZE_{axis}"] for axis in "MNK")
        warps, stages, group = config["num_warps"], config["num_stages"], config["GROUP_SIZE_M"]
        pairs = batch_size * self.top_k
        experts = self.num_experts * (1 - (1 - 1 / self.num_experts) ** pairs)
        rows = pairs / experts
        blocks = experts * max(1.0, (rows + 0.5 * math.sqrt(rows)) / bm + 0.35)
        tiles = blocks * math.ceil(n / bn)
        shared = max(stages - 1, 1) * bk * (bm + bn) * self.a_bytes + 1024
        registers = bm * bn / (32 * warps) + 40 + 10 * bk / 64
        spills = max(0.0, registers - 230) / 60
        resident = max(1, min(int(232_448 // shared), int(65_536 // (min(registers, 255) * 32 * warps)), 16))
        waves = tiles / (SMS * resident)
        ragged = math.ceil(waves) / waves if waves > 1 else 1.0
        ragged = 1 + (ragged - 1) * 0.6
        in_flight = min(tiles, SMS * resident) * (stages - 1 + 0.4) * bk * (bm * 0.15 + bn) * self.a_bytes
        needed = 3.2e6 * (1 + 0.3 * q["latency"])
        reach = in_flight / (in_flight + needed * 0.35)
        reuse = 1 + (0.25 + 0.1 * q["groups"]) * max(0.0, math.log2(blocks / experts)) / (1 + math.log2(group) / 2)
        traffic = experts * n * k * self.a_bytes * (1 + 0.04 * (reuse - 1)) + tiles * bm * k * self.a_bytes * 0.12
        memory_us = traffic / (4.2e6 * reach)
        width = {16: 0.42, 32: 0.6, 64: 0.82, 128: 1.0, 256: 0.97}[bm] * {32: 0.5, 64: 0.75, 128: 0.95, 256: 1.0}[bn]
        per_warp = bm * bn / warps
        width *= 1 - 0.12 * abs(math.log2(per_warp / 2048)) / 4 * (1 + q["warps"])
        width *= 1 - 0.1 * (1 + q["steps"]) * (bk == 64) + 0.03 * q["steps"] * (bk == 256)
        width *= 1 - 0.05 * (1 + q["stages"]) * abs(stages - (4 if bk <= 128 else 3)) / 2
        width *= 1 + 0.05 * q["swap"] * (bm < 64 <= bn) + 0.04 * q["mma"] * (bm == 64 and warps == 4)
        peak = (1.4e9 if self.a_bytes == 1 else 0.75e9) / 1e0
        compute_us = tiles * bm * bn * k * 2 / (peak * max(width, 0.05)) * ragged / 1.0
        parallel = min(1.0, tiles / SMS) ** 0.3
        latency_us = k / bk * (0.09 + 0.02 * warps / 4 * (1 + 0.5 * q["warps"])) / (1 + 0.25 * min(stages, 4)) * ragged
        return (max(memory_us, compute_us) + 0.25 * min(memory_us, compute_us)) / parallel * (1 + spills) + latency_us


@dataclass
class SimulatedBench:
    """Times a surface with noise, and counts the seconds that a GPU and 16 cores would have taken."""

    surface: Surface
    seed: int = 0
    noise: float | None = None
    """Of a sample; None for 1.2 % at one token down to 0.3 % at 64 and more."""
    samples: int = 1
    """Of a trial."""
    compiled: set[str] = field(default_factory=set)
    asked: list[Question] = field(default_factory=list)
    seconds: float = 0.0
    compile_seconds: float = 0.0
    measurements: int = 0
    seen: dict[tuple[int, str], list[float]] = field(default_factory=dict)

    def measure(self, questions: Sequence[Question]) -> list[Answer]:
        return [self.answer(question) for question in questions]

    def answer(self, question: Question) -> Answer:
        rng = draw("noise", self.seed, len(self.asked))
        self.asked.append(question)
        size = question.batch_size
        noise = self.noise if self.noise is not None else 0.003 + 0.009 * max(0.0, 1 - math.log2(size) / 6)
        drift = [1 + rng.gauss(0, 0.003) for _ in range(question.num_trials)]
        seconds, trials = 0.0, []
        for config in question.configs:
            if config_key(config) not in self.compiled:
                self.compiled.add(config_key(config))
                seconds += COMPILE_SECONDS
                self.compile_seconds += COMPILE_SECONDS
            if self.surface.fails(config):
                trials.append(Trial(size, config, (), Status.CRASHED, "out of resource: shared memory"))
                continue
            true_us = self.surface.true_us(config, size)
            samples = tuple(true_us * each * math.exp(rng.gauss(0, noise)) for each in drift)
            seconds += MEASURE_SECONDS + question.num_trials * self.samples * CALLS * true_us * 1e-6
            trials.append(Trial(size, config, samples))
            self.seen.setdefault((size, config_key(config)), []).extend(samples)
            self.measurements += 1
        self.seconds += seconds
        return Answer(tuple(trials), seconds)
