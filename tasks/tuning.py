"""Tuned configs that have gone stale, as tonight's measurements show them. Retuning them is not built yet."""

from collections.abc import Iterable
from dataclasses import dataclass

from kernels.spec import Case
from tasks.records import Measurement

SHIPPED, DEFAULT = "vllm-triton-shipped", "vllm-triton-default"
NOISE = 0.01
"""Medians of one provider in one process on an H200 repeat within 1 % (CV 1.2 % at M=1, 0.3 % at M=64)."""


@dataclass(frozen=True, slots=True)
class StaleConfig:
    """A shipped config that loses to the untuned default on one case."""

    case: Case
    shipped_us: float
    default_us: float

    @property
    def relative_loss(self) -> float:
        """shipped_us / default_us - 1."""
        return self.shipped_us / self.default_us - 1


def find_stale_configs(measurements: Iterable[Measurement]) -> list[StaleConfig]:
    """Cases whose shipped config is slower than the default config by more than the noise, worst first."""
    medians: dict[tuple[str, str], dict[str, tuple[Case, float]]] = {}
    for measurement in measurements:
        if measurement.median_us is not None and measurement.check.provider in (SHIPPED, DEFAULT):
            key = (measurement.check.case.key, measurement.timer)
            medians.setdefault(key, {})[measurement.check.provider] = (measurement.check.case, measurement.median_us)
    found = [
        StaleConfig(both[SHIPPED][0], both[SHIPPED][1], both[DEFAULT][1])
        for both in medians.values()
        if len(both) == 2 and both[SHIPPED][1] > both[DEFAULT][1] * (1 + NOISE)
    ]
    return sorted(found, key=lambda stale: -stale.relative_loss)
