"""Mail that arrives at a real SMTP server on loopback, encrypted where there is a password, and what is said if not."""

import socket
from datetime import datetime
from pathlib import Path

import pytest
from letterboxes import make_alert, make_incident, make_letter
from records import make_series
from sinks import PASSWORD, USER, MailSink, mail_sink, make_certificate

from tasks.channels import mail
from tasks.channels.mail import MailChannel, MailServer, parse_addresses, parse_sender, parse_server, write_mail
from tasks.channels.messages import write_message
from tasks.channels.secrets import Secret
from tasks.errors import ChannelError, LetterRefusedError, UsageError
from tasks.judgement.incidents import Kind

SERVER, FROM, TO = "KERNEL_NIGHTLY_SMTP_URL", "KERNEL_NIGHTLY_MAIL_FROM", "KERNEL_NIGHTLY_MAIL_TO"
LOGIN = "nightly%40example.org:pa%2Fss%23w0rd%25%40@"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


def make_channel(sink: MailSink | None, scheme: str = "smtp", login: str = "", port: int = 0) -> MailChannel:
    address = f"{scheme}://{login}127.0.0.1:{port or (sink.port if sink else 1)}"
    recipients = Secret(TO, "Ada <ada@example.org>, ben@example.org")
    return MailChannel(Secret(SERVER, address), Secret(FROM, USER), recipients)


def test_a_mail_arrives_at_every_recipient() -> None:
    with mail_sink() as sink:
        make_channel(sink).send(make_letter("mail"))
    [arrived] = sink.mails
    assert sink.recipients == [["ada@example.org", "ben@example.org"]]
    assert (arrived["From"], arrived["To"]) == (USER, "ada@example.org, ben@example.org")
    assert arrived.get_content_type() == "text/plain"
    lines = arrived.get_content().splitlines()
    assert lines[0].startswith("opened slow-3f9a1c: 3 series of fused_moe triton")
    assert "evidence: 11.9 us against 11.2 us (+6.3%), 12 earlier nights" in lines
    assert lines[-4] == "3 series:"


def test_a_subject_is_one_line_that_a_list_can_sort() -> None:
    with mail_sink() as sink:
        make_channel(sink).send(
            make_letter("mail", subject="a\r\nBcc: eve@example.org " + "\N{GREEK SMALL LETTER MU}" * 300)
        )
    [arrived] = sink.mails
    assert arrived["Subject"].startswith("[kernel-nightly] opened slow-3f9a1c: 3 series of a Bcc: eve@example.org")
    assert len(arrived["Subject"]) <= 150
    assert arrived["Bcc"] is None
    assert arrived["List-Id"] == "kernel-nightly alerts <alerts.kernel-nightly>"
    assert arrived["Auto-Submitted"] == "auto-generated"


def test_mails_of_one_incident_are_a_thread_and_one_that_comes_twice_has_one_id() -> None:
    opened, again, over, other = (
        write_mail(write_message(alert), USER, [USER])
        for alert in (
            make_alert(),
            make_alert(),
            make_alert(kind=Kind.RESOLVED),
            make_alert(make_incident("slow-2")),
        )
    )
    assert opened["Message-ID"] == again["Message-ID"] != over["Message-ID"]
    assert opened["References"] == over["References"] == over["In-Reply-To"] != other["References"]


def test_the_date_of_a_mail_is_that_of_its_alert() -> None:
    alert = make_alert()
    assert write_mail(write_message(alert), USER, [USER])["Date"].datetime == alert.made_at.replace(microsecond=0)
    assert isinstance(alert.made_at, datetime)


def test_a_mail_of_very_many_series_is_short() -> None:
    text = write_mail(
        write_message(make_alert(make_incident(series=(make_series(),) * 9000))), USER, [USER]
    ).get_content()
    assert "9000 series:" in text
    assert text.rstrip().endswith("and 8950 more")


def test_a_password_goes_over_starttls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_sink(certificate, needs_login=True) as sink:
        make_channel(sink, login=LOGIN).send(make_letter("mail"))
    assert sink.logins == [(USER, PASSWORD)]
    assert sink.was_encrypted == [True]


def test_a_server_that_speaks_nothing_but_tls_is_reached(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_sink(certificate, is_tls=True, needs_login=True) as sink:
        make_channel(sink, "smtps", LOGIN).send(make_letter("mail"))
    assert (sink.logins, sink.was_encrypted) == ([(USER, PASSWORD)], [True])


def test_a_password_is_not_sent_in_the_clear() -> None:
    with mail_sink() as sink, pytest.raises(ChannelError) as failure:
        make_channel(sink, login=LOGIN).send(make_letter("mail"))
    assert str(failure.value) == (
        f"the server of {SERVER} offers no STARTTLS: no password is sent to it; give smtps://, or no password"
    )
    assert (sink.logins, sink.mails) == ([], [])


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_server_that_nobody_vouches_for_gets_nothing(certificate: Path, scheme: str) -> None:
    with (
        mail_sink(certificate, is_tls=scheme == "smtps") as sink,
        pytest.raises(ChannelError, match=f"^the server of {SERVER} cannot be used: SSLCertVerificationError$"),
    ):
        make_channel(sink, scheme, LOGIN).send(make_letter("mail"))
    assert (sink.logins, sink.mails) == ([], [])


def test_a_wrong_password_is_told_by_its_code(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_sink(certificate, needs_login=True, AUTH="no") as sink, pytest.raises(ChannelError) as failure:
        make_channel(sink, login=LOGIN).send(make_letter("mail"))
    assert str(failure.value) == f"the server of {SERVER} answers 535 (SMTPAuthenticationError)"


@pytest.mark.parametrize(
    ("refusals", "message", "is_of_the_letter"),
    [
        (
            {"RCPT": "550 no ada@example.org here"},
            f"the server of {SERVER} answers 550 to every address of {TO}",
            False,
        ),
        ({"DATA": "554 spam from nightly"}, f"the server of {SERVER} answers 554 to the mail", True),
        ({"DATA": "451 later"}, f"the server of {SERVER} answers 451 to the mail", False),
    ],
)
def test_what_a_server_refuses_is_told_by_its_code(
    refusals: dict[str, str], message: str, is_of_the_letter: bool
) -> None:
    with mail_sink(**refusals) as sink, pytest.raises(ChannelError) as failure:  # type: ignore[arg-type]
        make_channel(sink).send(make_letter("mail"))
    assert str(failure.value) == message
    assert isinstance(failure.value, LetterRefusedError) is is_of_the_letter
    assert failure.value.__cause__ is None


def test_a_server_that_is_silent_and_one_that_is_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ChannelError, match=f"^the server of {SERVER} does not answer within 0 s$"):
            make_channel(None, port=port).send(make_letter("mail"))
    with pytest.raises(ChannelError, match=f"^the server of {SERVER} cannot be used: ConnectionRefusedError$"):
        make_channel(None, port=port).send(make_letter("mail"))


def test_an_address_of_a_server_has_a_port_by_its_scheme_and_a_password_in_percent_codes() -> None:
    assert parse_server(SERVER, "smtp://mail.example.org") == MailServer("mail.example.org", 587, False)
    assert parse_server(SERVER, "smtps://mail.example.org/") == MailServer("mail.example.org", 465, True)
    with_login = parse_server(SERVER, f"smtp://{LOGIN}mail.example.org:25")
    assert with_login == MailServer("mail.example.org", 25, False, USER, PASSWORD)
    assert PASSWORD not in repr(with_login)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "mail.example.org",
        "http://host",
        "smtp://",
        "smtp://host/s3cr3t",
        "smtp://host?s3cr3t",
        "smtp://u:s3c/r3t@host",
        "smtp://host:s3cr3t",
        "smtp://host:99999",
        "smtp://user@host",
        "smtp://:s3cr3t@host",
        "smtp://[s3cr3t",
    ],
)
def test_an_address_of_a_server_that_is_none_is_one_line_that_does_not_hold_it(address: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_server(SERVER, address)
    assert str(refusal.value).startswith(
        f"{SERVER} is not an address like smtp://user:password@host:587 or smtps://host;"
    )
    assert "s3cr3t" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_mail_addresses_may_have_names_and_a_sender_is_one() -> None:
    assert parse_addresses(TO, '"Lovelace, Ada" <ada@example.org>, ben@example.org') == [
        "ada@example.org",
        "ben@example.org",
    ]
    assert parse_sender(FROM, "Nightly <nightly@example.org>") == "nightly@example.org"
    with pytest.raises(UsageError, match=f"^{FROM} has 2 mail addresses; give one$"):
        parse_sender(FROM, "a@example.org, b@example.org")


@pytest.mark.parametrize(
    "text", ["", "ada", "ada@", "ada@example.org, ben", "ada@example.org\nBcc: eve@example.org", ","]
)
def test_a_mail_address_that_is_none_is_one_line_that_does_not_hold_it(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_addresses(TO, text)
    assert str(refusal.value) == f"{TO} is not a list of mail addresses like ada@example.org, ben@example.org"
