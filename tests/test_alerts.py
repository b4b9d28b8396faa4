"""No alert is lost, none comes twice, no channel fails a night, and no secret is told: with real sinks on loopback."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from letterboxes import MemoryOutbox, make_alert, make_incident, make_letter
from records import make_run
from rich.console import Console
from sinks import HANG, PASSWORD, TOKEN, USER, http_sink, mail_sink

from tasks import alerts
from tasks.alerts import KEPT, WAITS_SECONDS, Delivery, deliver, write_letters, write_summaries
from tasks.channels import webhooks
from tasks.channels.files import AlertFiles, JsonLinesChannel
from tasks.channels.letters import Channel, Letter
from tasks.channels.messages import read_message
from tasks.channels.secrets import Secret
from tasks.channels.settings import open_channels
from tasks.channels.webhooks import SlackChannel, WebhookChannel
from tasks.errors import ChannelError
from tasks.judgement.incidents import Alert, Kind

QUICK = (0.01, 0.02)
"""Waits between attempts."""


def make_webhook(url: str) -> WebhookChannel:
    return WebhookChannel(Secret("KERNEL_NIGHTLY_WEBHOOK_URL", url))


class Recorder:
    """A channel that keeps what it gets, unless it is told to raise."""

    name = "recorder"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.sent: list[Letter] = []

    def send(self, letter: Letter) -> None:
        if self.error:
            raise self.error
        self.sent.append(letter)


def tell(
    outbox: MemoryOutbox, channels: Sequence[Channel], alerts: Sequence[Alert], waits: Sequence[float] = WAITS_SECONDS
) -> list[Delivery]:
    """As a run does it: first keep, then send."""
    outbox.put(write_letters(alerts, channels))
    return deliver(outbox, channels, waits)


@pytest.fixture
def outbox() -> MemoryOutbox:
    return MemoryOutbox()


def test_a_quiet_night_sends_nothing_and_says_so(outbox: MemoryOutbox) -> None:
    assert tell(outbox, [Recorder()], []) == [Delivery("recorder")]
    assert Delivery("recorder").line == "recorder: 0 sent"


def test_an_alert_is_in_the_outbox_for_every_channel_before_anything_is_sent(outbox: MemoryOutbox) -> None:
    seen: list[set[tuple[str, str]]] = []

    class Looking(Recorder):
        def send(self, letter: Letter) -> None:
            seen.append(set(outbox.letters))

    alert = make_alert()
    tell(outbox, [Looking(), JsonLinesChannel(Path("/dev/null"))], [alert])
    assert seen == [{(alert.alert_id, "recorder"), (alert.alert_id, "json")}]


def test_the_same_alert_is_sent_once_however_often_it_is_delivered(outbox: MemoryOutbox) -> None:
    channel, alert = Recorder(), make_alert()
    first = tell(outbox, [channel], [alert])
    again = tell(outbox, [channel], [alert, alert])
    assert [first, again] == [[Delivery("recorder", num_sent=1)], [Delivery("recorder")]]
    assert len(channel.sent) == 1


def test_each_message_of_an_incident_is_its_own_alert(outbox: MemoryOutbox) -> None:
    channel = Recorder()
    tell(outbox, [channel], [make_alert(kind=kind) for kind in Kind])
    assert [read_message(letter).kind for letter in channel.sent] == list(Kind)


def test_a_webhook_that_fails_twice_gets_its_letter_in_the_third_attempt(outbox: MemoryOutbox) -> None:
    with http_sink(503, 500, 200) as sink:
        assert tell(outbox, [make_webhook(sink.url)], [make_alert()], QUICK) == [Delivery("webhook", num_sent=1)]
    assert len(sink.bodies) == 3
    assert outbox.pending() == []


def test_a_broken_webhook_keeps_its_letters_and_the_next_night_they_arrive(outbox: MemoryOutbox) -> None:
    tonight = [make_alert(make_incident(f"slow-{index}")) for index in range(4)]
    other = Recorder()
    with http_sink(500) as sink:
        broken, fine = tell(outbox, [make_webhook(sink.url), other], tonight, QUICK)
    assert len(sink.bodies) == 3, "the other letters are not tried on a channel that is down"
    assert (broken.num_sent, broken.num_waiting) == (0, 4)
    assert broken.line == (
        "webhook: 0 sent, 4 kept for the next run; the address of KERNEL_NIGHTLY_WEBHOOK_URL answers 500"
    )
    assert (fine, len(other.sent)) == (Delivery("recorder", num_sent=4), 4)
    assert [letter.attempts for letter in outbox.pending()] == [1, 0, 0, 0]
    with http_sink() as sink:
        assert tell(outbox, [make_webhook(sink.url), other], []) == [
            Delivery("webhook", num_sent=4),
            Delivery("recorder"),
        ]
    assert [f'"incident_id": "slow-{index}"' in body for index, body in enumerate(sink.bodies)] == [True] * 4


def test_a_server_that_hangs_costs_a_bounded_time(outbox: MemoryOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.2)
    started = time.monotonic()
    with http_sink(HANG) as sink:
        [delivery] = tell(outbox, [make_webhook(sink.url)], [make_alert()], QUICK)
        assert time.monotonic() - started < 5
    assert (len(sink.bodies), delivery.num_waiting) == (3, 1)
    assert "does not answer within 0 s" in delivery.error


def test_the_attempts_on_a_channel_end_within_fifteen_seconds_and_one_timeout() -> None:
    timeouts = (len(alerts.WAITS_SECONDS) + 1) * webhooks.TIMEOUT_SECONDS
    assert sum(alerts.WAITS_SECONDS) + timeouts <= alerts.CHANNEL_SECONDS + webhooks.TIMEOUT_SECONDS
    assert alerts.CHANNEL_SECONDS == 15


def test_a_channel_that_asks_for_more_time_than_there_is_gets_its_letters_the_next_night(outbox: MemoryOutbox) -> None:
    started = time.monotonic()
    with http_sink(429, headers={"Retry-After": "30"}) as sink:
        [delivery] = tell(outbox, [make_webhook(sink.url)], [make_alert()], QUICK)
    assert (len(sink.bodies), delivery.num_waiting) == (1, 1)
    assert time.monotonic() - started < 5


def test_a_channel_that_asks_for_a_moment_gets_it(outbox: MemoryOutbox) -> None:
    started = time.monotonic()
    with http_sink(429, 200, headers={"Retry-After": "1"}) as sink:
        assert tell(outbox, [make_webhook(sink.url)], [make_alert()], QUICK) == [Delivery("webhook", num_sent=1)]
    assert time.monotonic() - started >= 1


def test_a_channel_out_of_time_keeps_the_rest(outbox: MemoryOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "CHANNEL_SECONDS", -1.0)
    [delivery] = tell(outbox, [Recorder()], [make_alert()])
    assert (delivery.num_waiting, [letter.attempts for letter in outbox.pending()]) == (1, [0])
    assert delivery.error == "it took more than -1 s"


def test_a_letter_that_is_refused_holds_up_no_other(outbox: MemoryOutbox) -> None:
    with http_sink(400, 200, body=b"invalid_blocks") as sink:
        slack = SlackChannel(Secret("KERNEL_NIGHTLY_SLACK_URL", sink.url))
        [delivery] = tell(outbox, [slack], [make_alert(make_incident(name)) for name in ("a-1", "b-2")], QUICK)
    assert (delivery.num_sent, delivery.num_waiting, len(sink.bodies)) == (1, 1, 2)
    assert delivery.error == "the address of KERNEL_NIGHTLY_SLACK_URL answers 400 (invalid_blocks)"


def test_a_letter_is_given_up_when_it_fails_once_more_after_two_weeks(outbox: MemoryOutbox) -> None:
    outbox.put([make_letter("recorder", KEPT.days + 1), make_letter("recorder", KEPT.days - 1, incident_id="young")])
    [delivery] = tell(outbox, [Recorder(ChannelError("down"))], [], QUICK)
    assert delivery == Delivery("recorder", 0, 1, 1, "down")
    assert delivery.line == "recorder: 0 sent, 1 kept for the next run, 1 given up after 14 days; down"
    assert ["young" in letter.alert_id for letter in outbox.pending()] == [True]
    assert tell(outbox, [Recorder()], []) == [Delivery("recorder", num_sent=1)]


def test_an_old_letter_is_still_sent_when_its_channel_works_again(outbox: MemoryOutbox) -> None:
    outbox.put([make_letter("recorder", 40)])
    assert tell(outbox, [Recorder()], []) == [Delivery("recorder", num_sent=1)]


def test_letters_of_a_channel_that_is_no_longer_open_are_told_and_kept_and_given_up_in_the_end(
    outbox: MemoryOutbox,
) -> None:
    outbox.put([make_letter("slack", 3), make_letter("mail", 20)])
    reports = tell(outbox, [], [])
    assert {report.channel: (report.num_waiting, report.num_given_up) for report in reports} == {
        "slack": (1, 0),
        "mail": (0, 1),
    }
    assert {report.error for report in reports} == {"this channel is not configured now"}
    assert [letter.channel for letter in outbox.pending()] == ["slack"]


def test_a_fault_in_a_channel_is_reported_without_its_text(outbox: MemoryOutbox) -> None:
    [delivery] = tell(outbox, [Recorder(KeyError("the password"))], [make_alert()])
    assert delivery == Delivery("recorder", 0, 1, 0, "a KeyError in channel recorder; please report it")
    outbox.put([replace(make_letter("webhook"), body="not JSON")])
    assert tell(outbox, [], [])[0].num_waiting == 1


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        for name in webhooks.LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield caplog
        for name in webhooks.LOGGERS:
            logging.getLogger(name).setLevel(logging.NOTSET)


def fail_everywhere(kind: str, environ: dict[str, str], outbox: MemoryOutbox, console: Console, path: Path) -> str:
    """Deliver an alert by every channel with a secret, to sinks that refuse it in one way; gives what is reported."""
    with ExitStack() as stack:
        http = {"500": (500,), "400": (400,), "hang": (HANG,), "redirect": (302,), "closed": (500,)}[kind]
        echo = f"Cannot POST /services/{TOKEN}".encode()
        sink = stack.enter_context(http_sink(*http, body=echo, headers={"Location": f"/moved/{TOKEN}"}))
        mail = stack.enter_context(mail_sink(RCPT=f"550 {PASSWORD} no such user"))
        environ |= {"KERNEL_NIGHTLY_WEBHOOK_URL": sink.url, "KERNEL_NIGHTLY_SLACK_URL": sink.url}
        environ |= {"KERNEL_NIGHTLY_SMTP_URL": f"smtp://{USER.replace('@', '%40')}:{TOKEN}@127.0.0.1:{mail.port}"}
        if kind == "closed":
            stack.close()
        channels = open_channels(AlertFiles(path), environ, console)
        return repr(tell(outbox, channels, [make_alert()], QUICK)) + repr(channels)


@pytest.mark.parametrize("kind", ["500", "400", "hang", "redirect", "closed"])
def test_no_secret_is_in_anything_that_is_written(
    kind: str,
    outbox: MemoryOutbox,
    everything_logged: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.2)
    environ = {"KERNEL_NIGHTLY_MAIL_FROM": USER, "KERNEL_NIGHTLY_MAIL_TO": USER}
    with (tmp_path / "console.txt").open("w") as printed:
        reported = fail_everywhere(kind, environ, outbox, Console(file=printed, width=200), tmp_path / "alerts.json")
    kept = repr(outbox.letters)
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    logged = everything_logged.text + "".join(map(repr, (vars(record) for record in everything_logged.records)))
    written = "".join((reported, kept, files, logged, *capfd.readouterr()))
    assert "slow-3f9a1c" in written
    assert len([letter for letter in outbox.letters.values() if letter.error]) == 3
    for secret in (TOKEN, PASSWORD, USER):
        assert secret not in written


def test_the_summaries_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    files = AlertFiles(junit=tmp_path / "ci" / "junit.xml", markdown=tmp_path / "night.md")
    environ = {"GITHUB_STEP_SUMMARY": str(tmp_path / "step.md")}
    incidents = [make_incident()]
    reports = write_summaries(files, environ, make_run(), [], incidents)
    assert reports == [Delivery(name, num_sent=1) for name in ("junit", "markdown", "github")]
    assert "slow-3f9a1c" in (tmp_path / "ci" / "junit.xml").read_text()
    assert (tmp_path / "night.md").read_text() == (tmp_path / "step.md").read_text()
    assert write_summaries(AlertFiles(json=tmp_path / "a.json"), {}, make_run(), [], incidents) == []


def test_a_summary_that_cannot_be_written_is_reported_and_the_others_are_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = AlertFiles(junit=tmp_path / "file" / "junit.xml", markdown=tmp_path / "night.md")
    broken, fine, github = write_summaries(files, {"GITHUB_STEP_SUMMARY": str(tmp_path)}, make_run(), [], [])
    assert "junit.xml: " in broken.error
    assert broken.error.endswith("see --alert-junit")
    assert fine == Delivery("markdown", num_sent=1)
    assert github.error == "cannot write the file of GITHUB_STEP_SUMMARY: Is a directory"
