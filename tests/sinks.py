"""Where letters arrive, on loopback: an HTTP and an SMTP server that answer as a test says and keep what comes."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

TOKEN = "T0K3Nsecret"
"""In the path of every HTTP sink."""
USER, PASSWORD = "nightly@example.org", "pa/ss#w0rd%@"
HANG = 0
"""Instead of a status: no answer until the sink is closed."""


@dataclass
class HttpSink:
    """What an HTTP server got; its answers are used up one by one, and the last one is repeated."""

    answers: list[int]
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    """Headers of the requests."""
    closed: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def take_answer(self) -> int:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def http_sink(*answers: int, body: bytes = b"ok", headers: dict[str, str] | None = None) -> Iterator[HttpSink]:
    """A server that answers with these statuses, 200 by default."""
    sink = HttpSink(list(answers) or [200], body, headers or {})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sink.seen.append(dict(self.headers))
            sink.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            status = sink.take_answer()
            if status == HANG:
                sink.closed.wait(30)
                return
            self.send_response(status)
            for name, value in sink.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sink.body)))
            self.end_headers()
            self.wfile.write(sink.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    sink.url = f"http://127.0.0.1:{server.server_port}/services/{TOKEN}?key={TOKEN}"
    try:
        yield sink
    finally:
        sink.closed.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class MailSink:
    """What an SMTP server got, and with which answers it refuses."""

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    """By command ("RCPT", "DATA", "AUTH"), the answer."""
    was_encrypted: list[bool] = field(default_factory=list)
    port: int = 0

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Sequence[str]
    ) -> str:
        if "RCPT" in self.refusals:
            return self.refusals["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if "DATA" in self.refusals:
            return self.refusals["DATA"]
        content = envelope.content
        assert isinstance(content, bytes)
        mail = message_from_bytes(content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(envelope.rcpt_tos)
        self.was_encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append((data.login.decode(), data.password.decode()))
        is_right = data.password.decode() == PASSWORD and "AUTH" not in self.refusals
        return AuthResult(success=is_right, handled=False)


class AnyPort(Controller):
    """A controller of a free port; to find out whether its server starts, it knocks and speaks neither SMTP nor TLS."""

    def find_port(self) -> int:
        return int(self.server.sockets[0].getsockname()[1])

    def _trigger_server(self) -> None:
        socket.create_connection(("127.0.0.1", self.find_port()), timeout=5).close()


@contextmanager
def mail_sink(
    certificate: Path | None = None, *, is_tls: bool = False, needs_login: bool = False, **refusals: str
) -> Iterator[MailSink]:
    """A server without TLS, or with STARTTLS where there is a certificate, or that speaks nothing but TLS."""
    sink = MailSink(refusals=refusals)
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    options: dict[str, object] = {"ssl_context": context} if is_tls else {"tls_context": context}
    if needs_login:
        options |= {"authenticator": sink.authenticate, "auth_required": not is_tls, "auth_require_tls": not is_tls}
    controller = AnyPort(sink, hostname="127.0.0.1", port=0, **options)
    controller.start()
    sink.port = controller.find_port()
    try:
        yield sink
    finally:
        controller.stop()


def make_certificate(path: Path) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself; SSL_CERT_FILE makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path
