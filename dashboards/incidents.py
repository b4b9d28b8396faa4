"""The incidents of a night as pages show them: in which order, since when, and which rows are theirs."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from dashboards.rows import STATE_ORDER, KernelRows, Row, make_safe
from tasks.judgement.incidents import Incident
from tasks.nights import Night
from tasks.records import State, Verdict

PLACES = ("open", "acknowledged", "over")
"""What becomes of an incident, in the order in which they are shown."""
MOST_OPEN_SERIES = 5
"""So many series are listed without being asked for."""


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """One series of an incident."""

    label: str
    """Layer, case, provider and timer; the bare key where the series is on no page."""
    href: str
    """Its row on the page of its kernel; "" where it has none."""
    verdict: Verdict | None
    """Of this run."""


@dataclass(frozen=True, slots=True)
class IncidentView:
    """One incident on the front page."""

    incident: Incident
    place: str
    """One of PLACES."""
    anchor: str
    since: datetime | None
    """Start of the first run that shows it, UTC; None for a run that nothing of tonight was timed in."""
    command: str
    """Acknowledges it, once the reason is filled in; "" where there is nothing to acknowledge."""
    series: tuple[SeriesLine, ...]

    @property
    def shows_series(self) -> bool:
        """Whether the list of its series is short enough to stand there unasked."""
        return len(self.series) <= MOST_OPEN_SERIES


def find_starts(night: Night) -> dict[str, datetime]:
    """When each run started that the night's trends tell of, UTC."""
    starts = {p.run_id: p.started_at for points in night.reference_trends.values() for p in points}
    starts |= {run.run_id: run.started_at for run in night.trends.runs}
    return {**starts, night.run.run_id: night.run.started_at}


def order_incidents(incidents: Iterable[Incident]) -> list[Incident]:
    """Open ones first, the gravest state first, then what moved furthest."""

    def place(incident: Incident) -> tuple[int, int, float, str]:
        changes = (incident.lowest_change or 0.0, incident.highest_change or 0.0)
        furthest = max(map(abs, changes))
        return PLACES.index(find_place(incident)), STATE_ORDER.index(incident.state), -furthest, incident.incident_id

    return sorted(incidents, key=place)


def find_place(incident: Incident) -> str:
    """Which of PLACES."""
    return "open" if incident.is_open else "over" if incident.resolved_run else "acknowledged"


def name_anchor(incident_id: str) -> str:
    """The id of an incident on the front page."""
    return f"incident-{make_safe(incident_id)}"


def add_incidents(rows: Iterable[Row], night: Night, starts: Mapping[str, datetime]) -> list[Row]:
    """Give every row the incident that it belongs to, the gravest of several, and when its verdict began to hold."""
    of_series = {s: one.incident_id for one in reversed(order_incidents(night.incidents)) for s in one.series}
    return [
        replace(
            row,
            incident_id=of_series.get(row.series, ""),
            since=starts.get(row.verdict.since_run) if row.verdict else None,
        )
        for row in rows
    ]


def list_incidents(night: Night, kernels: Iterable[KernelRows]) -> list[IncidentView]:
    """Everything that stands or was found over, as the front page tells it."""
    starts = find_starts(night)
    verdicts = {verdict.series: verdict for verdict in night.verdicts}
    shown = {
        row.series: (f"{layer.label} {layer.scheme}".rstrip(), f"kernel-{kernel.slug}.html#{row.anchor}", row)
        for kernel in kernels
        for layer in kernel.layers
        for row in layer.rows
    }
    views = []
    for incident in order_incidents(night.incidents):
        lines = []
        for series in incident.series:
            layer, href, row = shown.get(series, ("", "", None))
            case = f"{layer}, {row.case_label}" if row else series.case_key
            label = f"{case}, {series.provider}, {series.timer}"
            lines.append(SeriesLine(label, href, verdicts.get(series)))
        views.append(
            IncidentView(
                incident=incident,
                place=find_place(incident),
                anchor=name_anchor(incident.incident_id),
                since=starts.get(incident.since_run),
                command=tell_command(incident) if incident.is_open else "",
                series=tuple(lines),
            )
        )
    return views


def tell_command(incident: Incident) -> str:
    """The command line that acknowledges an incident."""
    return f'kernel-nightly acknowledge {shlex.quote(incident.incident_id)} --reason "why it is expected"'


def tell_again(verdict: Verdict) -> str:
    """What measuring a series again in the same night said; "" if that was not done."""
    if verdict.is_confirmed is None:
        return ""
    if verdict.is_confirmed:
        return "confirmed"
    stands = verdict.state in (State.SLOW, State.FAST)  # it looked over, and was not
    return "still so when measured again" if stands else "not seen again"
