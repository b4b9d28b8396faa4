"""Incidents, alerts and letters with every field filled, and an outbox in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from records import STARTED, make_case, make_series

from tasks.channels.letters import Letter
from tasks.channels.messages import write_letter
from tasks.judgement.incidents import Alert, Incident, Kind
from tasks.records import State


def make_incident(incident_id: str = "slow-3f9a1c", num_series: int = 3, **changes: object) -> Incident:
    """SLOW by 4.1 to 6.3 % in so many series, with two causes."""
    fields: dict[str, object] = {
        "state": State.SLOW,
        "subject": "fused_moe triton on NVIDIA H200",
        "since_run": "run-7",
        "opened_run": "run-9",
        "opened_at": STARTED,
        "series": tuple(make_series(case=make_case(2**index)) for index in range(num_series)),
        "lowest_change": 0.041,
        "highest_change": 0.063,
        "causes": ("triton 3.6.0 -> 3.7.1", "config of M=64"),
        "evidence": "11.9 us against 11.2 us (+6.3%), 12 earlier nights",
    }
    return Incident(incident_id, **{**fields, **changes})  # type: ignore[arg-type]


def make_alert(incident: Incident | None = None, kind: Kind = Kind.OPENED, **changes: object) -> Alert:
    """Made tonight, after run-9 of suite nightly."""
    alert = Alert(incident or make_incident(), kind, "run-9", "nightly", datetime.now(UTC))
    return replace(alert, **changes)  # type: ignore[arg-type]


def make_letter(channel: str = "webhook", days_old: int = 0, **incident: object) -> Letter:
    """The letter of an opened incident."""
    made_at = datetime.now(UTC) - timedelta(days=days_old)
    return write_letter(make_alert(make_incident(**incident), made_at=made_at), channel)  # type: ignore[arg-type]


@dataclass
class MemoryOutbox:
    """What the database keeps, for the length of a test."""

    letters: dict[tuple[str, str], Letter] = field(default_factory=dict)

    def put(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self.letters.setdefault((letter.alert_id, letter.channel), letter)

    def pending(self) -> list[Letter]:
        return [letter for letter in self.letters.values() if letter.sent_at is None and not letter.given_up]

    def mark_sent(self, letter: Letter, sent_at: datetime) -> None:
        self.letters[letter.alert_id, letter.channel] = replace(letter, sent_at=sent_at, error="")

    def mark_failed(self, letter: Letter, error: str, failed_at: datetime) -> None:
        self.letters[letter.alert_id, letter.channel] = replace(letter, error=error, attempts=letter.attempts + 1)
