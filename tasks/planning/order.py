"""What is measured on which device in which order.

Devices of one kind share their units: the longest come first, so that none is left for the end. One alone has them all
to do: the shortest come first, and meanwhile the kernels of the longest are compiled on the machine's other cores.
"""

from collections.abc import Mapping, Sequence, Set

from kernels.registry import find_kernel
from tasks.records import WorkUnit


def line_up(
    units: Sequence[WorkUnit],
    devices: Mapping[str, int],
    done: Set[tuple[str, str]],
    seconds: Mapping[tuple[str, str], float],
) -> dict[str, list[WorkUnit]]:
    """By device name, the units that are not yet measured on it, in order.

    Args:
        devices: how many there are, by name.
        done: layer keys and device names of what is measured.
        seconds: by layer key and device name, what units took in an earlier run.
    """
    lines = {}
    for device, count in devices.items():
        left = [unit for unit in units if (unit.key, device) not in done]
        took = {key: total for (key, name), total in seconds.items() if name == device}
        lines[device] = order_by_time(left, took, longest_first=count > 1)
    return lines


def order_by_time(units: Sequence[WorkUnit], seconds: Mapping[str, float], *, longest_first: bool) -> list[WorkUnit]:
    """Units by what they took last time; those that were never measured, by an estimate of their work, count as longer.

    Args:
        seconds: what the units of a device took, by layer key.
    """
    new = [unit for unit in units if unit.key not in seconds]
    known = [unit for unit in units if unit.key in seconds]
    new.sort(key=estimate_work, reverse=longest_first)
    known.sort(key=lambda unit: seconds[unit.key], reverse=longest_first)
    return new + known if longest_first else known + new


def estimate_work(unit: WorkUnit) -> int:
    """Grows with what takes long: (weights + tokens of all cases) x cases x providers x timers; no unit of time."""
    weights = find_kernel(unit.layer.kernel).num_weights(unit.layer)
    tokens = sum(case.num_tokens for case in unit.cases)
    return (weights + tokens) * len(unit.cases) * len(unit.providers) * max(1, len(unit.timers))
