"""Alerts by e-mail: one plain text per alert, threaded by incident, over SMTP with TLS."""

import hashlib
import re
import smtplib
import ssl
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses
from urllib.parse import SplitResult, unquote, urlsplit

from tasks.channels.letters import Letter, shorten
from tasks.channels.messages import Message, read_message
from tasks.channels.secrets import Secret
from tasks.errors import ChannelError, LetterRefusedError, UsageError

TIMEOUT_SECONDS = 4.0
"""Longest wait for each answer of the server."""
PORTS = {"smtp": 587, "smtps": 465}
"""Where a scheme's address names none."""
MOST_SUBJECT = 150
MOST_SERIES = 50
ADDRESS = re.compile(r"[^@\s<>,;:\"]+@[^@\s<>,;:\"]+")


@dataclass(frozen=True, slots=True)
class MailServer:
    """A server that takes mail from us."""

    host: str
    port: int
    is_tls: bool
    """From the first byte, rather than after STARTTLS."""
    user: str = ""
    """"" where it asks for none."""
    password: str = field(default="", repr=False)


class MailChannel:
    """Sends each alert to every recipient in one mail; it has arrived when the server takes it for one of them."""

    name = "mail"

    def __init__(self, server: Secret, sender: Secret, recipients: Secret) -> None:
        server.check(parse_server)
        sender.check(parse_sender)
        recipients.check(parse_addresses)
        self._server, self._sender, self._recipients = server, sender, recipients

    def send(self, letter: Letter) -> None:
        """Deliver a letter."""
        server = self._server.parse(parse_server)
        sender, recipients = self._sender.parse(parse_sender), self._recipients.parse(parse_addresses)
        mail = write_mail(read_message(letter), sender, recipients)
        where = f"the server of {self._server.variable}"
        try:
            with _connect(server, where) as connection:
                connection.send_message(mail, sender, recipients)
        except smtplib.SMTPDataError as error:
            refusal = LetterRefusedError if error.smtp_code >= 500 else ChannelError
            raise refusal(f"{where} answers {error.smtp_code} to the mail") from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = ", ".join(sorted({str(code) for code, _ in error.recipients.values()}))
            raise ChannelError(f"{where} answers {codes} to every address of {self._recipients.variable}") from None
        except smtplib.SMTPResponseException as error:
            raise ChannelError(f"{where} answers {error.smtp_code} ({type(error).__name__})") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            if TimeoutError in (type(error), type(error.__context__)):  # smtplib makes another error of some
                raise ChannelError(f"{where} does not answer within {TIMEOUT_SECONDS:.0f} s") from None
            raise ChannelError(f"{where} cannot be used: {type(error).__name__}") from None


def write_mail(message: Message, sender: str, recipients: list[str]) -> EmailMessage:
    """A message as a plain text mail that mailing lists and filters can sort, and no vacation notice answers."""
    mail = EmailMessage(policy=SMTP)
    mail["From"], mail["To"] = sender, ", ".join(recipients)
    mail["Subject"] = shorten(f"[kernel-nightly] {message.title}", MOST_SUBJECT)
    mail["Date"] = format_datetime(datetime.fromisoformat(message.made_at))
    mail["Message-ID"] = _make_id(message.alert_id)
    mail["In-Reply-To"] = mail["References"] = _make_id(message.incident_id)
    mail["List-Id"] = "kernel-nightly alerts <alerts.kernel-nightly>"
    mail["Auto-Submitted"] = "auto-generated"
    series = [f"{message.num_series} series:", *message.list_series(MOST_SERIES)] if message.num_series else []
    mail.set_content("\n".join((message.title, "", *message.details, "", *series)).rstrip() + "\n")
    return mail


def parse_server(variable: str, text: str) -> MailServer:
    """The server in a variable.

    Raises:
        UsageError: it is no address of one.
    """
    wrong = UsageError(
        f"{variable} is not an address like smtp://user:password@host:587 or smtps://host; correct it, with signs "
        "like / # @ % of a password in percent codes"
    )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in PORTS or not _is_plain(parts) or bool(parts.username) != bool(parts.password):
        raise wrong
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return MailServer(parts.hostname or "", port or PORTS[parts.scheme], parts.scheme == "smtps", user, password)


def parse_addresses(variable: str, text: str) -> list[str]:
    """The mail addresses in a variable, which may have names: "Ada <ada@example.org>, ben@example.org".

    Raises:
        UsageError: there is none, or one is malformed.
    """
    found = [address for _, address in getaddresses([text])]
    if not found or not text.isprintable() or not all(ADDRESS.fullmatch(address) for address in found):
        raise UsageError(f"{variable} is not a list of mail addresses like ada@example.org, ben@example.org")
    return found


def parse_sender(variable: str, text: str) -> str:
    """The one mail address in a variable.

    Raises:
        UsageError: it is none, malformed, or several.
    """
    found = parse_addresses(variable, text)
    if len(found) > 1:
        raise UsageError(f"{variable} has {len(found)} mail addresses; give one")
    return found[0]


def _is_plain(parts: SplitResult) -> bool:
    """Whether an address has a host and nothing after it."""
    return bool(parts.hostname) and parts.path in ("", "/") and not parts.query and not parts.fragment


def _connect(server: MailServer, where: str) -> smtplib.SMTP:
    """A connection that is encrypted if it can be, and always before a password is sent."""
    context = ssl.create_default_context()
    connection: smtplib.SMTP
    if server.is_tls:
        connection = smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        connection = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.ehlo_or_helo_if_needed()
        if not server.is_tls and connection.has_extn("starttls"):
            connection.starttls(context=context)
        elif not server.is_tls and server.user:
            raise ChannelError(f"{where} offers no STARTTLS: no password is sent to it; give smtps://, or no password")
        if server.user:
            connection.login(server.user, server.password)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_id(text: str) -> str:
    """A mail's identity, the same whenever it is sent."""
    return f"<{hashlib.sha256(text.encode()).hexdigest()[:32]}@kernel-nightly>"
