"""What a webhook and Slack get, and what is said of one that does not answer: on a real server on loopback."""

import json
import logging
import threading
import time

import httpx
import pytest
from letterboxes import make_alert, make_incident, make_letter
from records import make_series
from sinks import HANG, TOKEN, http_sink

from tasks.channels import webhooks
from tasks.channels.messages import write_message
from tasks.channels.secrets import Secret
from tasks.channels.webhooks import SlackChannel, WebhookChannel, escape_mrkdwn, make_slack_body, parse_url
from tasks.errors import ChannelError, LetterRefusedError, UsageError
from tasks.judgement.incidents import Kind

NAME = "KERNEL_NIGHTLY_WEBHOOK_URL"


def send_to(url: str) -> None:
    WebhookChannel(Secret(NAME, url)).send(make_letter())


def test_a_webhook_gets_the_letter_as_it_is_and_a_key_to_know_it_by() -> None:
    letter = make_letter()
    with http_sink(204) as sink:
        WebhookChannel(Secret(NAME, sink.url)).send(letter)
    assert sink.bodies == [letter.body]
    assert sink.seen[0]["Content-Type"] == "application/json"
    assert sink.seen[0]["User-Agent"] == "kernel-nightly"
    assert json.loads(sink.seen[0]["Idempotency-Key"]) == letter.alert_id


def test_slack_gets_a_text_and_blocks() -> None:
    with http_sink() as sink:
        SlackChannel(Secret("KERNEL_NIGHTLY_SLACK_URL", sink.url)).send(make_letter("slack"))
    body = json.loads(sink.bodies[0])
    assert body["text"].startswith("opened slow-3f9a1c: 3 series of fused_moe triton on NVIDIA H200: SLOW")
    assert "changed with it: triton 3.6.0 -&gt; 3.7.1" in body["text"]
    assert [block["type"] for block in body["blocks"]] == ["header", "section", "section"]
    assert body["blocks"][2]["text"]["text"].count("\n") == 2


def test_the_longest_message_is_within_slacks_limits() -> None:
    long = "<&>" * 5000
    incident = make_incident(evidence=long, causes=(long, long), subject=long, series=(make_series(long),) * 5000)
    body = make_slack_body(write_message(make_alert(incident, Kind.STILL_OPEN)))
    blocks = json.loads(json.dumps(body["blocks"]))
    assert len(blocks) <= 50
    assert len(blocks[0]["text"]["text"]) <= 150
    assert all(len(block["text"]["text"]) <= 3000 for block in blocks)
    assert len(str(body["text"])) <= 3000


def test_nothing_in_a_message_mentions_anybody() -> None:
    incident = make_incident(evidence="<!channel> <@U123> & co")
    body = json.dumps(make_slack_body(write_message(make_alert(incident))))
    assert "<" not in body.replace("\\u003c", "<")
    assert "&lt;!channel&gt; &lt;@U123&gt; &amp; co" in body


def test_a_text_is_cut_between_escapes() -> None:
    assert escape_mrkdwn("a&b", 100) == "a&amp;b"
    assert escape_mrkdwn("&" * 10, 12) == "&amp;&amp;\N{HORIZONTAL ELLIPSIS}"
    assert all(len(escape_mrkdwn("<" * 30, limit)) <= limit for limit in range(1, 80))


@pytest.mark.parametrize("status", [301, 401, 403, 404, 410, 429, 500, 503])
def test_any_answer_but_a_receipt_is_a_failure(status: int) -> None:
    with http_sink(status, body=b"") as sink, pytest.raises(ChannelError) as failure:
        send_to(sink.url)
    assert str(failure.value) == f"the address of {NAME} answers {status}"
    assert not isinstance(failure.value, LetterRefusedError)
    assert len(sink.bodies) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_answer_about_the_body_refuses_this_letter_only(status: int) -> None:
    with http_sink(status, body=b"invalid_blocks") as sink, pytest.raises(LetterRefusedError, match="invalid_blocks"):
        send_to(sink.url)


@pytest.mark.parametrize("body", [TOKEN.encode(), b"Cannot POST /x", b"\xff\xfe", b"", b"services"])
def test_what_may_be_a_secret_in_an_answer_is_not_repeated(body: bytes) -> None:
    with http_sink(404, body=body) as sink, pytest.raises(ChannelError) as failure:
        send_to(sink.url)
    assert str(failure.value) == f"the address of {NAME} answers 404"


def test_how_long_to_wait_is_believed_within_reason() -> None:
    for told, seconds in (("7", 7.0), ("99999", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("-5", 0.0)):
        with http_sink(429, headers={"Retry-After": told}) as sink, pytest.raises(ChannelError) as failure:
            send_to(sink.url)
        assert failure.value.wait_seconds == seconds


def test_a_server_that_hangs_and_one_that_is_not_there_are_told_by_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.2)
    with http_sink(HANG) as sink, pytest.raises(ChannelError, match=f"^the address of {NAME} does not answer within"):
        send_to(sink.url)
    with pytest.raises(ChannelError) as failure:
        send_to(sink.url)
    assert str(failure.value) == f"the address of {NAME} cannot be reached: ConnectError, Connection refused"
    assert failure.value.__cause__ is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hooks.slack.com/x",
        "ftp://host/x",
        "https://",
        "https:///x",
        "http://ho st/x",
        "http://host:port/s3cr3t",
        "x",
        "http://[::1/s3cr3t",
        "http://host/s3cr3t\n",
        "http://host:99999/s3cr3t",
        "https://user:s3cr3t@",
    ],
)
def test_an_address_that_is_none_is_one_line_that_does_not_hold_it(address: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_url(NAME, address)
    assert str(refusal.value) == f"{NAME} is not an address like https://host/path; correct it or unset it"
    assert refusal.value.__cause__ is None


def test_a_malformed_address_is_refused_when_the_channel_is_opened() -> None:
    for channel in (WebhookChannel, SlackChannel):
        with pytest.raises(UsageError, match=NAME):
            channel(Secret(NAME, "nonsense"))


def test_only_our_own_requests_are_kept_out_of_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 1.0)
    with caplog.at_level(logging.INFO, "httpx"), http_sink(HANG, 200) as sink:

        def send_and_fail() -> None:
            with pytest.raises(ChannelError):
                send_to(sink.url)

        ours = threading.Thread(target=send_and_fail)
        ours.start()
        while not sink.bodies:
            time.sleep(0.01)
        httpx.post(f"{sink.url}&whose=theirs")  # while ours is under way
        ours.join()
        send_to(sink.url)
    logged = [record.getMessage() for record in caplog.records if record.name == "httpx"]
    assert ["whose=theirs" in line for line in logged] == [True]
    assert logging.getLogger("httpx").filters == []
