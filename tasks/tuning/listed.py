"""The sets of configurations that a run has listed."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.tuning.sets import SetKey, SetState


@dataclass(frozen=True, slots=True)
class ListedSet:
    """A set as a run has found it, before anything was retuned."""

    key: SetKey
    state: SetState
    reasons: tuple[str, ...]
    lost_us: float
    """Over all cases where more than noise is lost."""

    @property
    def is_fresh(self) -> bool:
        """Whether there is nothing to tell of it."""
        return self.state is SetState.FRESH


def tell_states(states: Sequence[SetState]) -> str:
    """How many there are of each, in words."""
    return ", ".join(f"{states.count(state)} {state}" for state in SetState)
