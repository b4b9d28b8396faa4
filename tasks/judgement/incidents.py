"""What stands until somebody deals with it: a group of series that moved together, from the night that it is told first
to the night that it is over. Nothing is told twice: opened, worse, still open (once a week), resolved.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from tasks.judgement.groups import SAME_NIGHTS, SUBJECTS, Group, group_verdicts, is_told, takes_longer
from tasks.records import Run, Series, State, Verdict

REMINDED_AFTER = timedelta(days=7)
"""How long an incident may stand before it is told again."""
GONE_WORSE, WORSE_BY = 1.5, 0.02
"""How many times as far as it was told, and how much further, a change must go to be told again."""

FindCauses = Callable[[Group], Sequence[str]]
"""What else changed with a group."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A change that was told and is not over, or was."""

    incident_id: str
    """By which a person acknowledges it, e.g. "slow-3f9a1c"."""
    state: State
    """Of its series: SLOW, FAST, WRONG, FAILED, MISSING, or AMBIGUOUS where the machine moved."""
    subject: str
    """What its series have in common, e.g. "nvfp4_moe triton on NVIDIA H200"."""
    since_run: str
    """The first run that shows it."""
    opened_run: str
    """The run that told of it."""
    opened_at: datetime
    """UTC."""
    series: tuple[Series, ...]
    """Those that it concerns as of the last run."""
    lowest_change: float | None = None
    """Of its series' relative changes as they were told last; None where none of them has a time."""
    highest_change: float | None = None
    causes: tuple[str, ...] = ()
    """What else changed with it, e.g. "triton 3.6.0 -> 3.7.1"; the likeliest first."""
    evidence: str = ""
    """Of the series that moved most, in one sentence."""
    told_at: datetime | None = None
    """When the last message of it was made, UTC."""
    resolved_run: str = ""
    """The run that found it over; "" while it stands."""
    acknowledgement: str = ""
    """Why a person expects it; "" if nobody has said so."""
    num_told: int = 0
    """How many series it had when it was told last."""
    seed: int = 0
    """Of the runs that it is of: those of another seed have other weights and inputs, and say nothing of it."""

    @property
    def is_open(self) -> bool:
        """Whether it stands and nobody expects it: what a run's exit code and the reminders go by."""
        return not self.resolved_run and not self.acknowledgement

    @property
    def headline(self) -> str:
        """One line: how many series of what, which way, how far, since when."""
        many = f"{len(self.series)} series" if len(self.series) != 1 else "1 series"
        return f"{many} of {self.subject}: {self.state}{self._tell_changes()}, since run {self.since_run}"

    def _tell_changes(self) -> str:
        if self.lowest_change is None or self.highest_change is None:
            return ""
        lowest, highest = f"{self.lowest_change:+.1%}", f"{self.highest_change:+.1%}"
        return f", {lowest}" if lowest == highest else f", {lowest} to {highest}"


class Kind(StrEnum):
    """Which message of an incident an alert is."""

    OPENED = "opened"
    WORSE = "worse"
    STILL_OPEN = "still open"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One message of one incident, for every channel."""

    incident: Incident
    kind: Kind
    run_id: str
    """The run that it was made after."""
    suite: str
    made_at: datetime
    """UTC."""

    @property
    def alert_id(self) -> str:
        """Its identity: the same message is never made twice."""
        return f"{self.incident.incident_id}/{self.kind}/{self.run_id}"


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What a night makes of the incidents that stood before it."""

    incidents: tuple[Incident, ...]
    """Those that are new or have changed."""
    alerts: tuple[Alert, ...]
    """What somebody is to be told."""


def follow_up(
    standing: Sequence[Incident],
    verdicts: Sequence[Verdict],
    run: Run,
    order: Mapping[str, int],
    now: datetime,
    find_causes: FindCauses,
) -> FollowUp:
    """Bring the incidents that stand up to date with tonight's verdicts, and open new ones for what none of them has.

    Those that were opened by a later run, are of another seed, or have no series that was judged tonight, stay as
    they are.

    Args:
        standing: incidents that are not resolved, acknowledged ones among them.
        order: numbers of the runs.
        now: when the messages are made, UTC.
    """
    told = {verdict.series: verdict for verdict in verdicts}
    claimed: set[Series] = set()
    changed: list[Incident] = []
    alerts: list[Alert] = []

    def tell(incident: Incident, kind: Kind) -> None:
        changed.append(replace(incident, told_at=now, num_told=len(incident.series)))
        alerts.append(Alert(changed[-1], kind, run.run_id, run.suite, now))

    groups = group_verdicts(verdicts, order)
    for incident in standing:
        is_later = order.get(incident.opened_run, -1) > order[run.run_id]
        if is_later or incident.seed != run.seed or told.keys().isdisjoint(incident.series):
            continue
        joined = find_joined(incident, verdicts, groups, claimed, order)
        claimed |= joined
        unseen = {
            series
            for series in incident.series
            if tells_nothing(incident, told.get(series))
            or (series not in claimed and is_hidden(incident, told[series], order))
        }
        if not joined | unseen:
            closed = replace(incident, resolved_run=run.run_id)
            if incident.is_open and incident.state is not State.FAST:
                tell(closed, Kind.RESOLVED)
            else:
                changed.append(closed)
            continue
        now_of_it = replace(incident, series=in_order(joined | unseen))
        newest = measure(now_of_it, [told[series] for series in joined])
        if not incident.is_open:
            changed.append(now_of_it)
        elif has_gone_worse(incident, newest):
            tell(newest, Kind.WORSE)
        elif is_due(incident, now):
            tell(newest, Kind.STILL_OPEN)
        else:
            changed.append(now_of_it)
    for group in groups:
        left = tuple(verdict for verdict in group.verdicts if verdict.series not in claimed)
        if left:
            new = replace(group, verdicts=left)
            tell(open_incident(new, run, now, find_causes(new)), Kind.OPENED)
    return FollowUp(tuple(changed), tuple(alerts))


def find_joined(
    incident: Incident,
    verdicts: Iterable[Verdict],
    groups: Iterable[Group],
    claimed: Collection[Series],
    order: Mapping[str, int],
) -> set[Series]:
    """Series that belong to an incident tonight: its own that are still so, and what moved with them unnoticed.

    What a person expects is no more than what that person was told of; of a machine, all that this one move does.
    """
    own = set(incident.series)
    joined = {v.series for v in verdicts if v.series in own and v.state is incident.state and is_told(v)}
    if incident.state is State.AMBIGUOUS:
        return join_machine(incident, joined, verdicts, groups, order) - set(claimed)
    if not incident.is_open:
        return joined - set(claimed)
    for group in groups:
        is_same = group.state is incident.state and all(incident.subject in name_subjects(one) for one in group.series)
        if joined and is_same and count_apart(incident, group, order) <= SAME_NIGHTS:
            joined |= set(group.series)
    return joined - set(claimed)


def join_machine(
    incident: Incident,
    own: set[Series],
    verdicts: Iterable[Verdict],
    groups: Iterable[Group],
    order: Mapping[str, int],
) -> set[Series]:
    """Series of a machine that is still as it was told: none if it has gone much further since, which is another thing.

    Args:
        own: series of the incident beside which the machine has moved, either way.
    """
    is_longer = (incident.highest_change or 0.0) > 0
    joined = {v.series for v in verdicts if v.series in own and takes_longer(v) is is_longer}
    for group in groups:
        is_same = group.state is incident.state and str(group.subject) == incident.subject
        if not is_same or takes_longer(group.verdicts[0]) is not is_longer:
            continue
        told = max(abs(incident.lowest_change or 0.0), abs(incident.highest_change or 0.0))
        now = abs(group.verdicts[0].relative_change or 0.0)
        if count_apart(incident, group, order) > SAME_NIGHTS and is_much_further(told, now):
            return set()
        joined |= set(group.series)
    return joined


def count_apart(incident: Incident, group: Group, order: Mapping[str, int]) -> int:
    """Runs between the first that shows an incident and that of a group."""
    return abs(order.get(group.since_run, -1) - order.get(incident.since_run, -1))


def name_subjects(series: Series) -> set[str]:
    """Whatever it is of: a device, a library, a kernel, a provider."""
    return {str(name_subject(series)) for name_subject in SUBJECTS}


def tells_nothing(incident: Incident, verdict: Verdict | None) -> bool:
    """Whether a night leaves open if a series of an incident is still so: there is no verdict, or a time is needed."""
    is_of_times = incident.state in (State.SLOW, State.FAST, State.AMBIGUOUS)
    return verdict is None or (is_of_times and verdict.median_us is None)


def is_hidden(incident: Incident, verdict: Verdict, order: Mapping[str, int]) -> bool:
    """Whether the machine has moved again since: nobody knows if what it did before is over."""
    is_later = order.get(verdict.since_run, -1) > order.get(incident.since_run, -1)
    return incident.state is State.AMBIGUOUS and verdict.is_machine and is_later


def open_incident(group: Group, run: Run, now: datetime, causes: Sequence[str]) -> Incident:
    """A group that nobody was told of."""
    state, subject, first = group.state, str(group.subject), min(map(repr, group.series))
    digest = hashlib.sha256(f"{state} {subject} {run.run_id} {first}".encode()).hexdigest()[:6]
    incident = Incident(
        incident_id=f"{state.lower()}-{digest}",
        state=state,
        subject=subject,
        since_run=group.since_run,
        opened_run=run.run_id,
        opened_at=now,
        series=in_order(group.series),
        causes=tuple(causes),
        seed=run.seed,
    )
    return measure(incident, group.verdicts)


def measure(incident: Incident, verdicts: Sequence[Verdict]) -> Incident:
    """With how far its series have moved tonight, and the evidence of the one that moved most."""
    if not verdicts:
        return incident
    changes = [verdict.relative_change for verdict in verdicts if verdict.relative_change is not None]
    furthest = max(verdicts, key=lambda verdict: (abs(verdict.relative_change or 0.0), verdict.series.case_key))
    series = furthest.series
    evidence = f"{series.case_key} {series.provider} ({series.timer}): {furthest.evidence}"
    lowest, highest = (min(changes), max(changes)) if changes else (None, None)
    return replace(incident, lowest_change=lowest, highest_change=highest, evidence=evidence)


def in_order(series: Iterable[Series]) -> tuple[Series, ...]:
    return tuple(sorted(series, key=lambda one: (one.device_name, one.case_key, one.provider, one.timer)))


def has_gone_worse(incident: Incident, newest: Incident) -> bool:
    """Whether what was told is no longer the half of it: twice as many series, or a change half as large again."""
    if incident.state not in (State.FAST, State.AMBIGUOUS) and len(newest.series) >= 2 * max(incident.num_told, 1):
        return True
    if incident.state is not State.SLOW or incident.highest_change is None or newest.highest_change is None:
        return False
    return is_much_further(incident.highest_change, newest.highest_change)


def is_much_further(told: float, now: float) -> bool:
    """Whether a change is half as large again as was told."""
    return now >= told * GONE_WORSE and now >= told + WORSE_BY


def is_due(incident: Incident, now: datetime) -> bool:
    """Whether somebody is to be reminded: not of a gain, and not of what the machine did."""
    if incident.state in (State.FAST, State.AMBIGUOUS) or incident.told_at is None:
        return False
    return abs(now - incident.told_at) >= REMINDED_AFTER  # a clock that went back must not silence it
