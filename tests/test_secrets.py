"""A secret is read by who needs it, shown to nobody, and not there for processes that have no use for it."""

import os
import subprocess
import sys

import pytest

from tasks.channels.secrets import SECRET_VARIABLES, Secret, hide_secrets
from tasks.channels.webhooks import parse_url
from tasks.errors import ChannelError, UsageError

NAME = "KERNEL_NIGHTLY_SLACK_URL"


def test_a_secret_is_parsed_and_not_shown() -> None:
    secret = Secret(NAME, " https://example.org/s3cr3t\n")
    assert secret.parse(lambda variable, value: (variable, value)) == (NAME, "https://example.org/s3cr3t")
    assert "s3cr3t" not in f"{secret} {secret!r} {vars(type(secret))}"
    assert repr(secret) == f"Secret('{NAME}')"


def test_a_malformed_secret_is_refused_when_it_is_checked_and_fails_when_it_is_used() -> None:
    secret = Secret(NAME, "s3cr3t")
    with pytest.raises(UsageError, match=f"^{NAME} is not an address"):
        secret.check(parse_url)
    with pytest.raises(ChannelError, match=f"^{NAME} is not an address"):
        secret.parse(parse_url)


def test_the_name_of_a_block_is_not_checked_until_it_is_used() -> None:
    Secret(NAME, "block:slack").check(parse_url)
    with pytest.raises(UsageError, match=f"^{NAME} is block: without a name; give block:NAME$"):
        Secret(NAME, "block:").check(parse_url)


def test_processes_that_are_started_meanwhile_do_not_have_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRET_VARIABLES:
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("KERNEL_NIGHTLY_COMMIT", "abc")
    command = [
        sys.executable,
        "-c",
        "import os; print(sorted(n for n in os.environ if n.startswith('KERNEL_NIGHTLY')))",
    ]
    with hide_secrets(os.environ):
        hidden = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert hidden.strip() == "['KERNEL_NIGHTLY_COMMIT']"
    assert all(name in seen for name in SECRET_VARIABLES)


def test_secrets_come_back_after_a_failure() -> None:
    environ = {NAME: "s3cr3t"}
    with pytest.raises(KeyError), hide_secrets(environ):
        assert environ == {}
        raise KeyError
    assert environ == {NAME: "s3cr3t"}
