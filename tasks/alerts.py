"""Tells people what a night found: every alert is put into the outbox first, and stays there until it has arrived.

Nothing here fails a night: what a channel cannot deliver is reported, kept, and tried again after the next run.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from tasks.channels.files import AlertFiles
from tasks.channels.junit import write_junit
from tasks.channels.letters import Channel, Letter, Outbox
from tasks.channels.markdown import append_step_summary, write_markdown
from tasks.channels.messages import write_letter
from tasks.errors import ChannelError, LetterRefusedError
from tasks.judgement.incidents import Alert, Incident
from tasks.records import Run, Verdict

WAITS_SECONDS = (1.0, 3.0)
"""Before the second and the third attempt at a letter."""
CHANNEL_SECONDS = 15.0
"""After that no further attempt is begun on a channel."""
KEPT = timedelta(days=14)
"""A letter older than that is given up when it is not sent once more."""
FAULTS = (OSError, ValueError, TypeError, LookupError, RuntimeError)
"""What a channel should have made a ChannelError of: its text may hold a secret, so only its type is told."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the letters of one channel, or of one summary."""

    channel: str
    num_sent: int = 0
    num_waiting: int = 0
    """Left in the outbox for the next run."""
    num_given_up: int = 0
    error: str = ""
    """Why not all were sent; one line without secrets, "" if all were."""

    @property
    def line(self) -> str:
        """One line for the console."""
        told = [f"{self.num_sent} sent"]
        if self.num_waiting:
            told.append(f"{self.num_waiting} kept for the next run")
        if self.num_given_up:
            told.append(f"{self.num_given_up} given up after {KEPT.days} days")
        return f"{self.channel}: {', '.join(told)}{f'; {self.error}' if self.error else ''}"


def write_letters(alerts: Sequence[Alert], channels: Sequence[Channel]) -> list[Letter]:
    """Each alert for each channel: to be kept, in one transaction with what they tell of, before anything is sent."""
    return [write_letter(alert, channel.name) for alert in alerts for channel in channels]


def deliver(outbox: Outbox, channels: Sequence[Channel], waits: Sequence[float] = WAITS_SECONDS) -> list[Delivery]:
    """Send what waits in the outbox, also of earlier nights.

    A letter arrives at least once; twice if the process ends between its arrival and the note of it.

    Args:
        waits: seconds before each further attempt at a letter.
    Returns:
        One per channel, and one per channel that has letters waiting but is not open tonight.
    """
    lines: dict[str, list[Letter]] = {channel.name: [] for channel in channels}
    for letter in sorted(outbox.pending(), key=lambda letter: (letter.made_at, letter.alert_id)):
        lines.setdefault(letter.channel, []).append(letter)
    deliveries = [_send_line(outbox, channel, lines.pop(channel.name), waits) for channel in channels]
    not_open = "this channel is not configured now"
    return deliveries + [_keep(outbox, Delivery(name, error=not_open), line) for name, line in lines.items()]


def _send_line(outbox: Outbox, channel: Channel, line: Sequence[Letter], waits: Sequence[float]) -> Delivery:
    """Send a channel's letters, the oldest first, until it fails: then the others stay where they are."""
    deadline = time.monotonic() + CHANNEL_SECONDS
    num_sent, error, left = 0, "", list(line)
    refused: list[Letter] = []
    while left:
        if time.monotonic() > deadline:
            error = f"it took more than {CHANNEL_SECONDS:.0f} s"
            break
        try:
            _send(channel, left[0], waits, deadline)
        except LetterRefusedError as refusal:
            error = str(refusal)
            refused.append(_fail(outbox, left.pop(0), error))
        except ChannelError as failure:
            error = str(failure)
            refused.append(_fail(outbox, left.pop(0), error))
            break
        else:
            outbox.mark_sent(left.pop(0), datetime.now(UTC))
            num_sent += 1
    num_given_up = sum(letter.given_up for letter in refused)
    so_far = Delivery(channel.name, num_sent, len(refused) - num_given_up, num_given_up, error)
    return _keep(outbox, so_far, left)


def _send(channel: Channel, letter: Letter, waits: Sequence[float], deadline: float) -> None:
    """Send one letter, in as many attempts as there are waits and one more, if the time allows."""
    for wait in (*waits, None):
        try:
            channel.send(letter)
        except LetterRefusedError:
            raise
        except ChannelError as failure:
            pause = None if wait is None else max(wait, failure.wait_seconds)
            if pause is None or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
        except FAULTS as fault:
            raise ChannelError(f"a {type(fault).__name__} in channel {channel.name}; please report it") from None
        else:
            return


def _fail(outbox: Outbox, letter: Letter, error: str) -> Letter:
    """Note that a letter was not sent; gives it as it is from now on."""
    failed_at = datetime.now(UTC)
    failed = replace(letter, given_up=failed_at - letter.made_at > KEPT)
    outbox.mark_failed(failed, error, failed_at)
    return failed


def _keep(outbox: Outbox, so_far: Delivery, left: Sequence[Letter]) -> Delivery:
    """The delivery with the letters that nobody tried to send: only the old ones are touched, and given up."""
    old = [letter for letter in left if datetime.now(UTC) - letter.made_at > KEPT]
    for letter in old:
        _fail(outbox, letter, so_far.error)
    num_waiting = so_far.num_waiting + len(left) - len(old)
    return replace(so_far, num_waiting=num_waiting, num_given_up=so_far.num_given_up + len(old))


def write_summaries(
    files: AlertFiles, environ: Mapping[str, str], run: Run, verdicts: Sequence[Verdict], incidents: Sequence[Incident]
) -> list[Delivery]:
    """Write the night as JUnit XML and as Markdown where they are asked for, and into GitHub's summary of the job.

    They show what stands, not what is new: one that cannot be written is made good by the next night's.

    Args:
        incidents: those that stand, acknowledged or not, and those that this run found over.
    """
    writers: dict[str, Callable[[], None]] = {}
    if files.junit:
        writers["junit"] = partial(write_junit, files.junit, run, verdicts, incidents)
    if files.markdown:
        writers["markdown"] = partial(write_markdown, files.markdown, run, verdicts, incidents)
    if environ.get("GITHUB_STEP_SUMMARY"):
        writers["github"] = partial(append_step_summary, environ, run, verdicts, incidents)
    return [_write(name, write) for name, write in writers.items()]


def _write(name: str, write: Callable[[], None]) -> Delivery:
    try:
        write()
    except ChannelError as error:
        return Delivery(name, error=str(error))
    return Delivery(name, num_sent=1)
