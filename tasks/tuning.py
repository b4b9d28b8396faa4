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
    """Cases whose shipped config is slower than the default by more than the noise under every timer, worst first.

    The times are those of the timer that shows the smallest loss.
    """
    medians: dict[str, dict[str, dict[str, float]]] = {}
    cases: dict[str, Case] = {}
    for measurement in measurements:
        case, provider = measurement.check.case, measurement.check.provider
        if measurement.median_us is not None and provider in (SHIPPED, DEFAULT):
            cases[case.key] = case
            medians.setdefault(case.key, {}).setdefault(measurement.timer, {})[provider] = measurement.median_us
    found = []
    for key, timers in medians.items():
        both = [StaleConfig(cases[key], by[SHIPPED], by[DEFAULT]) for by in timers.values() if len(by) == 2]
        least = min(both, key=lambda stale: stale.relative_loss, default=None)
        if least and least.shipped_us > least.default_us * (1 + NOISE):
            found.append(least)
    return sorted(found, key=lambda stale: -stale.relative_loss)
