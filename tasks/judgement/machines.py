"""Machine or kernel: what else moved beside a series. Kernels that no commit changes, and the GPU's clocks."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tasks.judgement.reference_histories import LATE_NIGHTS, Move
from tasks.judgement.references import SLOW_MACHINE
from tasks.records import DeviceState, Measurement, Series
from tasks.sampling import POWER_LIMIT
from tasks.statistics.lasting_moves import EXPLAINED_SHARE


@dataclass(frozen=True, slots=True)
class Clock:
    """The SM clock while a series was timed."""

    mhz: float
    """Median over the trials."""
    usual_mhz: float | None = None
    """Over the runs before; None where it is not known."""
    is_own_power: bool = False
    """Nothing but the power that the kernel itself draws holds it down."""

    @property
    def change(self) -> float:
        """Relative to what is usual; 0 where that is not known."""
        return self.mhz / self.usual_mhz - 1 if self.usual_mhz else 0.0


@dataclass(frozen=True, slots=True)
class MachineChange:
    """How the machine of one series fared."""

    device_type: str
    references: Mapping[str, Sequence[Move]] = field(default_factory=dict)
    """Each reference kernel beside the case: its moves over the nights that the series is compared over first."""
    clock: Clock | None = None
    """None where it is not known."""

    def explains(self, change: float) -> bool:
        """Whether the machine moved in the direction of a relative change of the series, and far enough."""
        return self.move_with(change) >= max(SLOW_MACHINE[self.device_type], abs(change)) * EXPLAINED_SHARE

    def move_with(self, change: float) -> float:
        """How far the machine moved in the direction of a relative change, by what of it moved furthest."""
        direction = 1 if change > 0 else -1
        moves = [direction * move.change for move in self._moves]
        if self.clock and not self.clock.is_own_power:
            moves.append(-direction * self.clock.change)
        return max([0.0, *moves])

    def find_since(self, change: float) -> int | None:
        """Number of the first run that shows the reference kernels' move with a change of the series; None if they do
        not explain it."""
        direction = 1 if change > 0 else -1
        if not replace(self, clock=None).explains(change):
            return None
        return max(self._moves, key=lambda move: direction * move.change).since

    @property
    def _moves(self) -> list[Move]:
        return [move for moves in self.references.values() for move in moves]

    @property
    def told(self) -> str:
        """E.g. "reference copy +6.1%, SM clock 1755 MHz instead of 1980"."""
        parts = []
        for name, (move, *ways) in self.references.items():
            parts.append(f"reference {name} {move.change:+z.1%}")
            told = zip(ways, ("tonight", f"against the last {LATE_NIGHTS} nights before"), strict=False)
            others = [f"{way.change:+z.1%} {which}" for way, which in told if abs(way.change - move.change) >= 0.005]
            parts[-1] += f" ({', '.join(others)})" if others else ""
        if self.clock and self.clock.usual_mhz and abs(self.clock.change) >= 0.005:
            parts.append(f"SM clock {self.clock.mhz:.0f} MHz instead of {self.clock.usual_mhz:.0f}")
        return ", ".join(parts)


def find_clocks(measurements: Iterable[Measurement], usual_clocks: Mapping[Series, float]) -> dict[Series, Clock]:
    """The clock of each series that was timed on a GPU that told it."""
    found = {}
    for m in measurements:
        states = [trial.state for trial in m.trials if trial.num_samples and trial.state]
        if m.samples_us and states:
            found[m.series] = describe_clock(states, usual_clocks.get(m.series))
    return found


def describe_clock(states: Sequence[DeviceState], usual_mhz: float | None) -> Clock:
    """From the state of the GPU in each trial."""
    reasons = {reason for state in states for reason in state.throttle_reasons}
    mhz = statistics.median(state.sm_clock_mhz for state in states)
    return Clock(mhz, usual_mhz, is_own_power=reasons == {POWER_LIMIT})
