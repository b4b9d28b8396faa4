"""What an alert says, as every channel gets it: written into a letter once, read by whoever sends it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tasks.channels.letters import Letter, one_line
from tasks.judgement.incidents import Alert, Kind
from tasks.records import Series

MOST_SERIES = 100
"""Of an incident, in one letter: beyond that only their number is told."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a letter's body says. Text is one line each, printable; moments are ISO 8601, UTC."""

    alert_id: str
    kind: str
    """opened, worse, still open or resolved."""
    incident_id: str
    state: str
    headline: str
    """One line: how many series of what, which way, how far, since when."""
    subject: str
    """What its series have in common."""
    suite: str
    run_id: str
    """The run that the alert was made after."""
    made_at: str
    since_run: str
    opened_run: str
    opened_at: str
    lowest_change: float | None = None
    """Of its series' relative changes."""
    highest_change: float | None = None
    causes: tuple[str, ...] = ()
    """What else changed with it; the likeliest first."""
    evidence: str = ""
    acknowledgement: str = ""
    resolved_run: str = ""
    num_series: int = 0
    series: tuple[Mapping[str, str], ...] = ()
    """The first MOST_SERIES of them, each as case_key, provider, timer and device_name."""

    @property
    def title(self) -> str:
        """The message in one line."""
        return f"{self.kind} {self.incident_id}: {self.headline}"

    @property
    def details(self) -> list[str]:
        """What else there is to say, a line each."""
        told = (
            ("changed with it", "; ".join(self.causes)),
            ("evidence", self.evidence),
            ("acknowledged", self.acknowledgement),
            ("resolved by run", self.resolved_run),
            ("told by", f"run {self.run_id} of suite {self.suite}"),
        )
        return [f"{name}: {text}" for name, text in told if text]

    def list_series(self, most: int) -> list[str]:
        """A line for each of the first series, and one for how many more there are."""
        lines = [tell_series(Series(**entry)) for entry in self.series[:most]]
        left = self.num_series - len(lines)
        return [*lines, f"and {left} more"] if left else lines


def write_letter(alert: Alert, channel: str) -> Letter:
    """The letter of an alert for a channel of that name."""
    body = json.dumps(asdict(write_message(alert)), allow_nan=False)
    return Letter(alert.alert_id, channel, body, alert.made_at)


def write_message(alert: Alert) -> Message:
    """What an alert says."""
    incident = alert.incident
    return Message(
        alert_id=alert.alert_id,
        kind=str(alert.kind),
        incident_id=one_line(incident.incident_id),
        state=str(incident.state),
        headline=one_line(incident.headline),
        subject=one_line(incident.subject),
        suite=one_line(alert.suite),
        run_id=one_line(alert.run_id),
        made_at=alert.made_at.isoformat(),
        since_run=one_line(incident.since_run),
        opened_run=one_line(incident.opened_run),
        opened_at=incident.opened_at.isoformat(),
        lowest_change=_finite(incident.lowest_change),
        highest_change=_finite(incident.highest_change),
        causes=tuple(one_line(cause) for cause in incident.causes),
        evidence=one_line(incident.evidence),
        acknowledgement=one_line(incident.acknowledgement),
        resolved_run=one_line(incident.resolved_run) if alert.kind is Kind.RESOLVED else "",
        num_series=len(incident.series),
        series=tuple(asdict(series) for series in incident.series[:MOST_SERIES]),
    )


def read_message(letter: Letter) -> Message:
    """What a letter says; what a newer version of this project wrote into it besides is left out."""
    written: dict[str, Any] = json.loads(letter.body)
    known = {entry.name: written[entry.name] for entry in fields(Message) if entry.name in written}
    return Message(**known | {name: tuple(known.get(name, ())) for name in ("causes", "series")})


def tell_series(series: Series) -> str:
    """A series in one line."""
    return one_line(f"{series.case_key} {series.provider} ({series.timer}) on {series.device_name}")


def _finite(value: float | None) -> float | None:
    """JSON knows no other numbers."""
    return value if value is not None and math.isfinite(value) else None
