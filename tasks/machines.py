"""Machine or kernel: what else moved beside a series tonight. Kernels that no commit changes, and the GPU's clocks."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kernels.spec import Device
from tasks.records import DeviceState, Host, Measurement, ReferenceTime, Series
from tasks.references import LATE_RUNS, SLOW_MACHINE, Beside
from tasks.sampling import POWER_LIMIT

EXPLAINED_SHARE = 0.4
"""The machine is to blame where it moved by at least this share of what the kernel did."""

UsualReferences = Mapping[tuple[str, str, str, str], float]
"""Medians in us by device (a GPU's UUID, or the name of all of its kind), case key, timer and reference kernel."""
DeviceKernel = tuple[str, str, str]
"""Device, as above, timer and reference kernel."""


@dataclass(frozen=True, slots=True)
class MachineChange:
    """How the machine of one series fared while it was timed, against how it usually does."""

    device_type: str
    references: Mapping[str, float]
    """Relative change of each reference kernel beside the case, against the last USUAL_RUNS."""
    clock_mhz: float | None = None
    """Median SM clock of the trials; None where it is not known."""
    usual_clock_mhz: float | None = None
    is_own_power: bool = False
    """Nothing but the power that the kernel itself draws holds the clock down."""
    lately: Mapping[str, float] = field(default_factory=dict)
    """As `references`, without what all cases moved by over the last LATE_RUNS, which may have come to stay."""

    def explains(self, change: float) -> bool:
        """Whether the machine moved in the direction of a relative change of the series, and far enough."""
        return self.move_with(change) >= max(SLOW_MACHINE[self.device_type], abs(change)) * EXPLAINED_SHARE

    def move_with(self, change: float) -> float:
        """How far the machine moved in the direction of a relative change, by what of it moved furthest."""
        direction = 1 if change > 0 else -1
        moves = [direction * moved for moved in (*self.references.values(), *self.lately.values())]
        if self.clock_change is not None and not self.is_own_power:
            moves.append(-direction * self.clock_change)
        return max([0.0, *moves])

    @property
    def clock_change(self) -> float | None:
        """Relative change of the clock; None where it is not known."""
        if not self.clock_mhz or not self.usual_clock_mhz:
            return None
        return self.clock_mhz / self.usual_clock_mhz - 1

    @property
    def told(self) -> str:
        """E.g. "reference copy +6.1%, SM clock 1755 MHz instead of 1980"."""
        parts = []
        for name, moved in self.references.items():
            late = self.lately.get(name, moved)
            against_late = f" ({late:+z.1%} against the last {LATE_RUNS} runs)" if abs(late - moved) >= 0.005 else ""
            parts.append(f"reference {name} {moved:+z.1%}{against_late}")
        if self.clock_change is not None and abs(self.clock_change) >= 0.005:
            parts.append(f"SM clock {self.clock_mhz:.0f} MHz instead of {self.usual_clock_mhz:.0f}")
        return ", ".join(parts)


def find_machine_changes(
    measurements: Iterable[Measurement],
    references: Iterable[ReferenceTime],
    hosts: Iterable[Host],
    usual_references: UsualReferences,
    late_references: UsualReferences,
    usual_clocks: Mapping[Series, float],
) -> dict[Series, MachineChange]:
    """What is known of the machine beside each series that was timed.

    Args:
        usual_references: medians over the last USUAL_RUNS before, of each GPU and of all of its kind.
        late_references: the same over the last LATE_RUNS.
        usual_clocks: as `usual_references`.
    """
    devices = {host.host_id: (host.device_uuid, host.device.name) for host in hosts}
    factors = find_card_factors(usual_references, dict(devices.values()))
    shifts = find_shifts(usual_references, late_references)
    beside: dict[Beside, dict[str, float]] = {}
    beside_lately: dict[Beside, dict[str, float]] = {}
    for one in references:
        card, kind = devices.get(one.host_id, ("", ""))
        usual_us = usual_references.get((kind, one.case_key, one.timer, one.name))
        if usual_us and one.samples_us:
            place, shift = (one.host_id, one.case_key, one.timer), shifts.get((kind, one.timer, one.name), 1.0)
            ratio = statistics.median(one.samples_us) / usual_us / factors.get((card, one.timer, one.name), 1.0)
            beside.setdefault(place, {})[one.name] = ratio - 1
            shift = shifts.get((card, one.timer, one.name), shift)
            beside_lately.setdefault(place, {})[one.name] = ratio / shift - 1
    found = {}
    for m in measurements:
        if m.samples_us:
            place = m.check.host_id, m.check.case.key, m.timer
            states = [trial.state for trial in m.trials if trial.num_samples and trial.state]
            moved, lately = beside.get(place, {}), beside_lately.get(place, {})
            found[m.series] = describe_change(m.device, moved, lately, states, usual_clocks.get(m.series))
    return found


def find_shifts(usual: UsualReferences, late: UsualReferences) -> dict[DeviceKernel, float]:
    """How many times as long as usual each reference kernel takes lately on each device, from all cases together."""
    ratios: dict[DeviceKernel, list[float]] = {}
    for key, late_us in late.items():
        if key in usual:
            device, _, timer, name = key
            ratios.setdefault((device, timer, name), []).append(late_us / usual[key])
    return {key: statistics.median(of_cases) for key, of_cases in ratios.items()}


def find_card_factors(usual: UsualReferences, kinds: Mapping[str, str]) -> dict[DeviceKernel, float]:
    """How many times as long as on all cards of its kind each reference kernel takes on each card, by timer and name.

    From all cases that were timed there: what a card adds is no move of the machine, and a case that was on the card
    only on bad nights does not tell what is usual.

    Args:
        kinds: names of devices by their UUID.
    """
    ratios: dict[DeviceKernel, list[float]] = {}
    for (card, case_key, timer, name), usual_us in usual.items():
        of_all = usual.get((kinds.get(card, ""), case_key, timer, name))
        if of_all:
            ratios.setdefault((card, timer, name), []).append(usual_us / of_all)
    return {key: statistics.median(of_cases) for key, of_cases in ratios.items()}


def describe_change(
    device: Device,
    references: Mapping[str, float],
    lately: Mapping[str, float],
    states: Sequence[DeviceState],
    usual_clock_mhz: float | None,
) -> MachineChange:
    """One series' machine, from the reference kernels beside it and the state of the GPU in each trial."""
    clock_mhz = statistics.median(state.sm_clock_mhz for state in states) if states else None
    reasons = {reason for state in states for reason in state.throttle_reasons}
    return MachineChange(device.type, references, clock_mhz, usual_clock_mhz, reasons == {POWER_LIMIT}, lately)
