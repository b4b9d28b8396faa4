"""Which channels are open: the console always, the others as the command line and the environment say."""

from collections.abc import Mapping

from rich.console import Console

from tasks.channels.console import ConsoleChannel
from tasks.channels.events import EventChannel
from tasks.channels.files import AlertFiles, JsonLinesChannel
from tasks.channels.letters import Channel
from tasks.channels.mail import MailChannel
from tasks.channels.secrets import Secret
from tasks.channels.webhooks import SlackChannel, WebhookChannel
from tasks.errors import UsageError

WEBHOOK_URL, SLACK_URL = "KERNEL_NIGHTLY_WEBHOOK_URL", "KERNEL_NIGHTLY_SLACK_URL"
MAIL = ("KERNEL_NIGHTLY_SMTP_URL", "KERNEL_NIGHTLY_MAIL_FROM", "KERNEL_NIGHTLY_MAIL_TO")


def open_channels(files: AlertFiles, environ: Mapping[str, str], console: Console) -> list[Channel]:
    """Every channel that is asked for; nothing is sent, connected to or written yet.

    Args:
        environ: holds the secrets, and PREFECT_API_URL where a server shows the run.
    Raises:
        UsageError: an option or a variable is malformed; names it, and never the value of a variable.
    """
    for option, path in (("json", files.json), ("junit", files.junit), ("markdown", files.markdown)):
        if path and path.is_dir():
            raise UsageError(f"--alert-{option} {path} is a folder; give a file in it")
    named = [path.absolute() for path in (files.json, files.junit, files.markdown) if path]
    if len(set(named)) < len(named):
        raise UsageError(f"--alert-json, --alert-junit and --alert-markdown name {named[0]} twice; give each a file")
    given = {name: Secret(name, value) for name, value in environ.items() if value.strip()}
    channels: list[Channel] = [ConsoleChannel(console)]
    if files.json:
        channels.append(JsonLinesChannel(files.json))
    if WEBHOOK_URL in given:
        channels.append(WebhookChannel(given[WEBHOOK_URL]))
    if SLACK_URL in given:
        channels.append(SlackChannel(given[SLACK_URL]))
    missing = [name for name in MAIL if name not in given]
    if not missing:
        server, sender, recipients = (given[name] for name in MAIL)
        channels.append(MailChannel(server, sender, recipients))
    elif len(missing) < len(MAIL):
        has = " and ".join(name for name in MAIL if name in given)
        raise UsageError(f"{has} is set without {' and '.join(missing)}; mail needs all three, or none")
    if "PREFECT_API_URL" in given:
        channels.append(EventChannel())
    return channels
