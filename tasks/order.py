"""What is measured on which device in which order: the longest units first, so that none is left for the end."""

from collections.abc import Iterable, Mapping, Sequence, Set

from kernels.registry import find_kernel
from tasks.records import WorkUnit


def line_up(
    units: Sequence[WorkUnit],
    devices: Iterable[str],
    done: Set[tuple[str, str]],
    seconds: Mapping[tuple[str, str], float],
) -> dict[str, list[WorkUnit]]:
    """By device name, the units that are not yet measured on it, the longest first.

    Args:
        done: layer keys and device names of what is measured.
        seconds: by layer key and device name, what units took in an earlier run.
    """
    lines = {}
    for device in devices:
        left = [unit for unit in units if (unit.key, device) not in done]
        took = {key: total for (key, name), total in seconds.items() if name == device}
        lines[device] = order_longest_first(left, took)
    return lines


def order_longest_first(units: Sequence[WorkUnit], seconds: Mapping[str, float]) -> list[WorkUnit]:
    """Units by what they took last time; before them those that were never measured, by an estimate of their work.

    Args:
        seconds: what the units of a device took, by layer key.
    """
    new = [unit for unit in units if unit.key not in seconds]
    known = [unit for unit in units if unit.key in seconds]
    return sorted(new, key=estimate_work, reverse=True) + sorted(known, key=lambda u: seconds[u.key], reverse=True)


def estimate_work(unit: WorkUnit) -> int:
    """Grows with what takes long: (weights + tokens of all cases) x cases x providers x timers; no unit of time."""
    weights = find_kernel(unit.layer.kernel).num_weights(unit.layer)
    tokens = sum(case.num_tokens for case in unit.cases)
    return (weights + tokens) * len(unit.cases) * len(unit.providers) * max(1, len(unit.timers))
