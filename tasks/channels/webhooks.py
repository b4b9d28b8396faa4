"""Alerts by HTTP: the letter's JSON to any webhook, or Slack's blocks to Slack and what speaks like it."""

import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from tasks.channels.letters import Letter, shorten
from tasks.channels.messages import Message, read_message
from tasks.channels.secrets import Secret
from tasks.errors import ChannelError, LetterRefusedError, UsageError

TIMEOUT_SECONDS = 4.0
"""Longest wait for a connection, and for each part of the answer."""
MOST_WAIT_SECONDS = 60.0
"""Of what a Retry-After is believed."""
OF_THE_LETTER = (400, 413, 422)
"""Answers that say that this body is not taken, not that none is."""
LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")
"""Those that write about requests."""

# Slack's limits: https://docs.slack.dev/reference/block-kit/blocks/
MOST_HEADER = 150
MOST_SECTION = 3000
MOST_SERIES = 10


class WebhookChannel:
    """POSTs the letter's body as it is: one JSON object per alert, told apart by its alert_id."""

    name = "webhook"

    def __init__(self, url: Secret) -> None:
        url.check(parse_url)
        self._url = url

    def send(self, letter: Letter) -> None:
        """Deliver a letter; any answer of 2xx is its receipt."""
        post(self._url, letter.body, {"Idempotency-Key": json.dumps(letter.alert_id)})


class SlackChannel:
    """POSTs a text with blocks, as Slack's incoming webhooks take them; Mattermost and Rocket.Chat show the text."""

    name = "slack"

    def __init__(self, url: Secret) -> None:
        url.check(parse_url)
        self._url = url

    def send(self, letter: Letter) -> None:
        """Deliver a letter; any answer of 2xx is its receipt."""
        post(self._url, json.dumps(make_slack_body(read_message(letter))), {})


def make_slack_body(message: Message) -> dict[str, object]:
    """A message within Slack's limits; nothing in it can mention anybody."""
    details = "\n".join(message.details)
    blocks: list[dict[str, object]] = [
        {"type": "header", "text": {"type": "plain_text", "text": shorten(message.title, MOST_HEADER), "emoji": False}},
        _make_section(f"{message.headline}\n{details}"),
    ]
    if message.series:
        blocks.append(_make_section("\n".join(message.list_series(MOST_SERIES))))
    return {"text": escape_mrkdwn(f"{message.title}\n{details}", MOST_SECTION), "blocks": blocks}


def escape_mrkdwn(text: str, limit: int) -> str:
    """A text with the three characters escaped that Slack gives a meaning, cut where the limit is reached."""
    escaped: list[str] = []
    size = 0
    for letter in text:
        written = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(letter, letter)
        size += len(written)
        if size >= limit:
            return "".join(escaped) + "\N{HORIZONTAL ELLIPSIS}"
        escaped.append(written)
    return "".join(escaped)


def _make_section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": escape_mrkdwn(text, MOST_SECTION), "verbatim": True}}


def parse_url(variable: str, text: str) -> httpx.URL:
    """The address in a variable.

    Raises:
        UsageError: it is none of HTTP.
    """
    wrong = UsageError(f"{variable} is not an address like https://host/path; correct it or unset it")
    if not text.isprintable() or " " in text:
        raise wrong
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise wrong from None
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 443) < 2**16:
        raise wrong
    return url


def post(secret: Secret, body: str, headers: Mapping[str, str]) -> None:
    """POST a JSON text to a secret address.

    Raises:
        ChannelError: no receipt came; the address is called by its variable.
    """
    url = secret.parse(parse_url)
    told = {"Content-Type": "application/json", "User-Agent": "kernel-nightly", **headers}
    where = f"the address of {secret.variable}"
    try:
        with (
            _unlogged(),
            httpx.Client(timeout=TIMEOUT_SECONDS) as client,
            client.stream("POST", url, content=body.encode(), headers=told) as answer,
        ):
            if not answer.is_success:
                _refuse(answer, where, url)
    except httpx.TimeoutException:
        raise ChannelError(f"{where} does not answer within {TIMEOUT_SECONDS:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise ChannelError(f"{where} cannot be reached: {_tell(error, url)}") from None


def _refuse(answer: httpx.Response, where: str, url: httpx.URL) -> None:
    """Raise what an answer other than 2xx means; Slack's own word for it is told, any other text may be a secret."""
    first = next(answer.iter_bytes(200), b"").decode(errors="replace").strip()
    word = f" ({first})" if re.fullmatch(r"[a-z_]{3,60}", first) and first not in str(url) else ""
    line = f"{where} answers {answer.status_code}{word}"
    if answer.status_code in OF_THE_LETTER:
        raise LetterRefusedError(line)
    waits = answer.headers.get("Retry-After", "")
    seconds = min(float(waits), MOST_WAIT_SECONDS) if re.fullmatch(r"\d{1,6}", waits) else 0.0
    raise ChannelError(line, wait_seconds=seconds)


def _tell(error: Exception, url: httpx.URL) -> str:
    """What kind of failure, and the system's word for it where it names nothing of the address."""
    reasons = re.findall(r"\[Errno -?\d+\] ([A-Za-z ]{3,60})", str(error))
    return ", ".join((type(error).__name__, *(reason for reason in reasons[:1] if reason not in str(url))))


@contextmanager
def _unlogged() -> Iterator[None]:
    """Log nothing of what this thread requests: httpx tells the address at level INFO, httpcore headers at DEBUG."""
    ours = threading.get_ident()

    def is_of_another(record: logging.LogRecord) -> bool:
        return record.thread != ours

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(is_of_another)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_of_another)
