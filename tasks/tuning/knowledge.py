"""What a search has been told so far, as ranks and as observations for the model."""

import math
from collections.abc import Sequence

import torch

from kernels.moe.vllm_config_files import Config
from tasks.tuning.space import config_key
from tasks.tuning.surrogate import Encoding, Observations
from tasks.tuning.trials import Answer

NEARBY = 4
"""Batch sizes that one learns from, besides its own."""
WORST = 0.9
"""How much slower than e**0.9 times the best a configuration is does not matter."""


class Knowledge:
    """The answers of all batch sizes."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.seconds = 0.0
        """That the answers took."""
        self._samples: dict[int, dict[str, list[float]]] = {}
        self._configs: dict[str, Config] = {}

    def learn(self, answer: Answer) -> None:
        """Take an answer in."""
        self.seconds += answer.seconds
        for trial in answer.trials:
            key = config_key(trial.config)
            self._configs[key] = trial.config
            times = self._samples.setdefault(trial.batch_size, {}).setdefault(key, [])
            times[:] = [*times, *trial.samples_us] if trial.samples_us else []  # fast in the screening, and wrong

    def measured(self, batch_size: int) -> set[str]:
        """Keys of the configurations that were tried at a batch size."""
        return set(self._samples.get(batch_size, ()))

    def failed(self) -> set[str]:
        """Keys of the configurations that did not run at some batch size: they are not tried at another."""
        return {key for known in self._samples.values() for key, times in known.items() if not times}

    def rank(self, batch_size: int) -> list[Config]:
        """Configurations that run, the fastest first."""
        logs = self._logs(batch_size)
        return [self._configs[key] for key in sorted(logs, key=lambda key: (logs[key], key))]

    def list_nearby(self, batch_size: int) -> list[int]:
        """Other batch sizes that something is known of, the nearest first."""
        others = [size for size in self._samples if size != batch_size]
        return sorted(others, key=lambda size: (abs(math.log(size / batch_size)), size))

    def observe(self, batch_size: int) -> Observations:
        """What the model is shown for a batch size: its own times first. What fails says nothing of its neighbours."""
        keys: list[str] = []
        octaves: list[float] = []
        logs: list[float] = []
        for size in [batch_size, *self.list_nearby(batch_size)[:NEARBY]]:
            known = self._logs(size)
            best = min(known.values(), default=0.0)
            keys.extend(known)
            octaves.extend([math.log2(size)] * len(known))
            logs.extend(min(log - best, WORST) for log in known.values())
        points = self.encoding.encode([self._configs[key] for key in keys])
        return Observations(points, *(torch.tensor(column, dtype=torch.float64) for column in (octaves, logs)))

    def _logs(self, batch_size: int) -> dict[str, float]:
        known = self._samples.get(batch_size, {})
        return {key: mean_log(times) for key, times in known.items() if times}


def mean_log(times: Sequence[float]) -> float:
    """Mean of the logarithms."""
    return math.fsum(map(math.log, times)) / len(times)
