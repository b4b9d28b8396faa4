"""The nouns of a branch against its base: Comparison -> Sitting -> Contrast. They are no runs, and in no trend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kernels.spec import Case
from tasks.records import Measurement, Series, State

REGRESSIONS = (State.SLOW, State.WRONG, State.FAILED, State.MISSING)
"""States that speak against a branch, where its base is better."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One execution: the code of one commit against that of another, on the same devices in the same minutes."""

    comparison_id: str
    """"" until the store gives it one."""
    head: str
    """The name it is kept under: a branch's, or what else was asked for."""
    head_commit: str
    """Full hash; of uncommitted work that of its tree."""
    base: str
    base_commit: str
    arguments: Mapping[str, object] = field(hash=False)
    """The device type, and what narrowed or replaced the suite's own choices."""
    seed: int
    least_change: float
    """Relative change of a time that is to be told from none."""
    started_at: datetime
    """UTC."""
    status: str = "running"
    """running (or killed: the same question goes on with it), complete, partial, interrupted or failed."""
    finished_at: datetime | None = None
    """UTC; None while running."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One unit on two fresh processes of one device, one of each commit, that took turns."""

    comparison_id: str
    layer_key: str
    device_name: str
    number: int
    """Of the unit on that kind of device, from 0."""
    seconds: float
    """From starting the processes to ending them."""
    head: tuple[Measurement, ...]
    """By case, provider and timer; a status and its reason where there is no time."""
    base: tuple[Measurement, ...]
    """The same series."""


def is_head_first(number: int) -> bool:
    """Whether the head is started and timed first in a sitting: in every other one, from that with number 0 on."""
    return number % 2 == 0


@dataclass(frozen=True, slots=True)
class Contrast:
    """What the sittings say about one series: the head's time over the base's."""

    series: Series
    case: Case
    state: State
    """SAME, FAST or SLOW; AMBIGUOUS while neither is shown; NEW where only the head has times; WRONG, FAILED, MISSING
    (timed on the base, unsupported now) and UNSUPPORTED as of a night."""
    reason: str = ""
    """One line, where times alone do not tell the state."""
    is_regression: bool = False
    """Whether the head is worse than the base."""
    head_us: float | None = None
    """Median of its sittings' medians."""
    base_us: float | None = None
    change: float | None = None
    """head / base - 1, the geometric mean of the sittings' ratios."""
    low: float | None = None
    high: float | None = None
    """The true change is between low and high with the confidence of tasks/commits/paired.py."""
    p_value: float | None = None
    """How often equal code would look like this or worse, by how often one looked and over all series."""
    num_sittings: int = 0
    """That have times of both."""
