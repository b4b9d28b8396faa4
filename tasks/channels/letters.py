"""An alert on its way: one letter per channel, the outbox it waits in, and how its text is kept to one line.

Whoever sends a letter, tonight or a week later, needs nothing but its body:
tasks/channels/messages.py writes and reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Letter:
    """One alert for one channel. Its identity is the pair of alert_id and channel."""

    alert_id: str
    channel: str
    """Name of the channel."""
    body: str
    """A Message as JSON: no secrets, and all that is needed to send it without the database."""
    made_at: datetime
    """UTC."""
    attempts: int = 0
    """Nights on which it could not be sent."""
    error: str = ""
    """Why not, the last time; one line without secrets."""
    sent_at: datetime | None = None
    """UTC; None while it waits."""
    given_up: bool = False
    """Whether it waited for too long: nobody will send it."""


class Outbox(Protocol):
    """Where letters wait until they are sent, whatever happens to the process meanwhile."""

    def put(self, letters: Sequence[Letter]) -> None:
        """Keep letters; one whose alert_id and channel are there already is ignored, sent or not."""

    def pending(self) -> list[Letter]:
        """Every letter that is neither sent nor given up."""

    def mark_sent(self, letter: Letter, sent_at: datetime) -> None:
        """It has arrived."""

    def mark_failed(self, letter: Letter, error: str, failed_at: datetime) -> None:
        """Count one more attempt and keep its error; with letter.given_up it is pending no longer."""


class Channel(Protocol):
    """One way to reach people."""

    @property
    def name(self) -> str:
        """In the outbox and in reports: the same every night."""

    def send(self, letter: Letter) -> None:
        """Deliver a letter.

        Raises:
            ChannelError: it was not delivered; one line without secrets.
        """


def one_line(text: str) -> str:
    """A text without line breaks and control characters, which a terminal would obey, and XML and mail forbid."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shorten(text: str, limit: int) -> str:
    """A text of at most so many characters, with an ellipsis where some are left out."""
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
