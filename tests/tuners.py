"""Stand-ins for a worker's Bench that time a simulated surface; in a file of their own, so that workers import them."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benches import MisbehavedError
from surfaces import SimulatedBench, Surface

from kernels.moe.vllm_config_files import Config, Reading
from kernels.moe.vllm_configs import read_tuned_files
from kernels.rates import Rate
from kernels.spec import Case, Device, Layer
from tasks.records import Host, Status, WeightsReceipt
from tasks.tuning.trials import Question, Trial

H200 = Device("cuda", "NVIDIA H200", (9, 0))
HOST = Host("feedfeedfeedfeed", H200, "GPU-1", "580.1", "13.0", "3.11.2", "2.13.0", "3.7.1", "0.32.0", 2)
MIXTRAL = {"num_experts": 8, "top_k": 2, "hidden_size": 4096, "intermediate_size": 7168}
LAYER = Layer("fused_moe", "Mixtral-8x7B", 2, 1, "fp8_w8a8", "bfloat16", MIXTRAL)
DEFAULT = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 64,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 1,
    "num_warps": 4,
    "num_stages": 2,
}
NOTED = {"source": "vLLM get_default_config", "VLLM_USE_DEEP_GEMM_E8M0": 0}


class SurfaceBench:
    """Times a surface, and notes in $TUNER_NOTES, or $CLUSTER_NOTES, "node batch-size configs" for each question."""

    def __init__(self, _device_type: str) -> None:
        self._bench = SimulatedBench(Surface(5))
        self._notes = Path(os.environ.get("TUNER_NOTES") or os.environ["CLUSTER_NOTES"])

    def host(self) -> Host:
        return HOST

    def ceilings(self) -> tuple[Rate, ...]:
        return (Rate("copy", 12.5, "GB/s"),)

    def load_layer(self, layer: Layer, seed: int) -> WeightsReceipt:
        if layer.scheme == "broken":
            raise MisbehavedError("no such weights")
        return WeightsReceipt(layer.key, seed, "ab" * 32, 1, 0.1, HOST.host_id)

    def find_default(self, case: Case, provider: str) -> Mapping[str, object]:
        if provider == "triton":
            raise MisbehavedError("triton of fused_moe cannot be tuned here: no")
        return {**DEFAULT, **NOTED}

    def read_tuned_files(self, case: Case) -> list[Reading]:
        return read_tuned_files(case, H200.name)

    def time_configs(self, case: Case, provider: str, question: Question, timer: str) -> list[Trial]:
        with (self._notes / "questions").open("a") as questions:
            questions.write(f"{os.environ.get('CLUSTER_NODE', '-')} {case.num_tokens} {len(question.configs)}\n")
        return list(self._bench.answer(question).trials)


class BreakingBench(SurfaceBench):
    """Dies of 16 warps, is off the reference with 1 and fails to compile with 2."""

    def time_configs(self, case: Case, provider: str, question: Question, timer: str) -> list[Trial]:
        if any(config["num_warps"] == 16 for config in question.configs):
            os._exit(7)
        return [
            replace(trial, **self._judge(trial.config))
            for trial in super().time_configs(case, provider, question, timer)
        ]

    def _judge(self, config: Config) -> dict[str, object]:
        told = {1: (Status.WRONG, "off by 3"), 2: (Status.CRASHED, "OutOfResources: shared memory")}
        status, reason = told.get(config["num_warps"], (Status.OK, ""))
        return {"status": status, "reason": reason, **({"samples_us": ()} if reason else {})}


class DigestCompanion:
    """Says that stages make no difference, fails for 5 of them, kills its process for 6, is slow from 90 on."""

    def __init__(self, _device_type: str) -> None:
        pass

    def compile_config(self, case: Case, provider: str, config: Config, device: Device) -> str:
        if config["num_stages"] == 5:
            raise MisbehavedError("cannot compile this")
        if config["num_stages"] == 6:
            os._exit(7)
        if config["num_stages"] >= 90:
            time.sleep(60.0)
        return (
            f"{device.arch} {case.num_tokens} {sorted((name, v) for name, v in config.items() if name != 'num_stages')}"
        )
