"""The sets of configurations that a run has listed, and how the database spells them."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.database import Row
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


def key_to_row(key: SetKey) -> Row:
    return {
        "kernel": key.kernel,
        "provider": key.provider,
        "num_experts": key.num_experts,
        "intermediate_size": key.intermediate_size,
        "hidden_size": key.hidden_size,
        "top_k": key.top_k,
        "scheme": key.scheme,
        "block_n": key.block_shape[0],
        "block_k": key.block_shape[1],
        "device_name": key.device_name,
    }


def listed_to_row(run_id: str, place: int, listed: ListedSet) -> Row:
    return {
        "run_id": run_id,
        "place": place,
        **key_to_row(listed.key),
        "state": listed.state,
        "reasons": list(listed.reasons),
        "lost_us": listed.lost_us,
    }


def row_to_listed(row: Row) -> ListedSet:
    key = SetKey(
        kernel=row["kernel"],
        provider=row["provider"],
        num_experts=row["num_experts"],
        intermediate_size=row["intermediate_size"],
        hidden_size=row["hidden_size"],
        top_k=row["top_k"],
        scheme=row["scheme"],
        block_shape=(row["block_n"], row["block_k"]),
        device_name=row["device_name"],
    )
    return ListedSet(key, SetState(row["state"]), tuple(row["reasons"]), row["lost_us"])
