"""What stands, and what a person says to it: the commands `incidents`, `acknowledge` and `baseline`."""

import getpass
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console

from tasks.errors import UsageError
from tasks.judgement.history import Mark
from tasks.judgement.incidents import Incident
from tasks.lines import print_line
from tasks.records import State
from tasks.storage.store import Store

ENDED_BY_WORD = (State.SLOW, State.FAST, State.MISSING)
"""States that a person's word makes the usual one."""


def print_incidents(console: Console, incidents: Sequence[Incident], *, with_evidence: bool = True) -> None:
    """One block each: what it is, what a person said to it, what changed with it, and the evidence."""
    for incident in incidents:
        told = [f"{incident.incident_id}  {incident.headline}"]
        if incident.acknowledgement:
            told.append(f"  acknowledged: {incident.acknowledgement}")
        if incident.resolved_run:
            told.append(f"  over since run {incident.resolved_run}")
        told += [f"  changed with it: {cause}" for cause in incident.causes]
        if with_evidence and incident.evidence:
            told.append(f"  evidence: {incident.evidence}")
        print_line(console, "\n".join(told))


def acknowledge(store: Store, incident_ids: Sequence[str], reason: str) -> list[Incident]:
    """Store that incidents are expected: their times are the baseline from now on, and nobody is told of them again.

    That ends those whose series are slower, faster or missing. What is wrong or fails, or a slow machine, stays what
    it is, and stands until it is over.

    Raises:
        UsageError: there is no such incident, or it is over or acknowledged; nothing is stored.
    """
    require_reason(reason)
    incidents = {incident.incident_id: incident for incident in store.journal.incidents()}
    found = [find_open(incidents.get(name), name, store) for name in dict.fromkeys(incident_ids)]
    newest, by = store.runs()[-1].run_id, name_person()
    done = []
    for incident in found:
        is_ended = incident.state in ENDED_BY_WORD
        series = incident.series if is_ended else ()
        done.append(replace(incident, acknowledgement=reason, resolved_run=newest if is_ended else ""))
        marks = [Mark(one, incident.since_run, newest, reason, by) for one in series]
        store.journal.acknowledge(done[-1], marks, datetime.now(UTC))
    return done


def find_open(incident: Incident | None, name: str, store: Store) -> Incident:
    """The incident, if it stands and nobody has acknowledged it."""
    if incident is None:
        names = [one.incident_id for one in store.journal.standing_incidents() if one.is_open]
        raise UsageError(f"no incident {name!r}; open are: {', '.join(names) or 'none'} (kernel-nightly incidents)")
    if incident.acknowledgement:
        raise UsageError(f"incident {name} is acknowledged already: {incident.acknowledgement}")
    if incident.resolved_run:
        raise UsageError(f"incident {name} is over since run {incident.resolved_run}; nothing to acknowledge")
    return incident


def mark_baseline(store: Store, run_id: str, reason: str, kernel: str, provider: str, case: str) -> list[Mark]:
    """Store that a run begins the baseline of the series that it timed, or of some of them.

    Args:
        kernel, provider: names; "" is all.
        case: a part of the case's key; "" is all.
    Raises:
        StoreError: there is no such run.
        UsageError: it timed no such series.
    """
    require_reason(reason)
    run = store.find_run(run_id)
    found = [
        m.series
        for m in store.measurements(run.run_id)
        if m.samples_us
        and kernel in ("", m.check.case.layer.kernel)
        and provider in ("", m.series.provider)
        and case in m.series.case_key
    ]
    if not found:
        asked = {"--kernel": kernel, "--provider": provider, "--case": case}
        told = " ".join(f"{option} {value}" for option, value in asked.items() if value)
        raise UsageError(f"run {run.run_id} timed no series{f' of {told}' if told else ''}; see kernel-nightly show")
    newest, by = store.runs()[-1].run_id, name_person()
    marks = [Mark(one, run.run_id, newest, reason, by) for one in found]
    store.journal.commit_marks(marks, datetime.now(UTC))
    return marks


def require_reason(reason: str) -> None:
    """Raise UsageError for an empty reason."""
    if not reason.strip():
        raise UsageError("--reason is empty; say in a few words why, others will read it")


def name_person() -> str:
    """Who runs the command, as the system knows them; "" where it does not."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
