"""Which channels are open follows from the options and the environment, and what is malformed is told at once."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from flows import report
from flows.arguments import make_parser, read_alert_files
from tasks import alerts
from tasks.channels.files import AlertFiles
from tasks.channels.messages import Message
from tasks.channels.secrets import SECRET_VARIABLES
from tasks.channels.settings import MAIL, SLACK_URL, WEBHOOK_URL, open_channels
from tasks.errors import UsageError

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "alerts.md").read_text()
EVERYTHING = {
    "KERNEL_NIGHTLY_WEBHOOK_URL": "https://example.org/s3cr3t",
    "KERNEL_NIGHTLY_SLACK_URL": "https://hooks.slack.com/services/s3cr3t",
    "KERNEL_NIGHTLY_SMTP_URL": "smtp://user:s3cr3t@mail.example.org",
    "KERNEL_NIGHTLY_MAIL_FROM": "nightly@example.org",
    "KERNEL_NIGHTLY_MAIL_TO": "ada@example.org",
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
}


def names_of(environ: dict[str, str], files: AlertFiles | None = None) -> list[str]:
    return [channel.name for channel in open_channels(files or AlertFiles(), environ, Console())]


def refuse(environ: dict[str, str], files: AlertFiles | None = None) -> str:
    with pytest.raises(UsageError) as refusal:
        names_of(environ, files)
    assert "s3cr3t" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_without_settings_there_is_the_console() -> None:
    assert names_of({}) == ["console"]
    assert names_of(dict.fromkeys(EVERYTHING, " ")) == ["console"]


def test_every_setting_opens_its_channel(tmp_path: Path) -> None:
    files = AlertFiles(tmp_path / "alerts.json", tmp_path / "junit.xml", tmp_path / "night.md")
    assert names_of(EVERYTHING, files) == ["console", "json", "webhook", "slack", "mail", "prefect"]
    assert list(tmp_path.iterdir()) == []


def test_opening_reads_no_block() -> None:
    assert names_of(dict.fromkeys(SECRET_VARIABLES, "block:a-name")) == ["console", "webhook", "slack", "mail"]


def test_the_variables_that_are_read_are_those_that_are_kept_from_workers() -> None:
    assert set(SECRET_VARIABLES) == {WEBHOOK_URL, SLACK_URL, *MAIL}


@pytest.mark.parametrize("name", SECRET_VARIABLES)
@pytest.mark.parametrize("value", ["s3cr3t", "block:"])
def test_a_malformed_value_is_one_line_that_names_its_variable(name: str, value: str) -> None:
    assert refuse({**EVERYTHING, name: value}).startswith(f"{name} is ")


def test_half_of_the_settings_of_mail_name_the_other_half() -> None:
    smtp, sender, recipients = MAIL
    assert refuse({smtp: EVERYTHING[smtp]}) == (
        f"{smtp} is set without {sender} and {recipients}; mail needs all three, or none"
    )
    assert refuse({name: EVERYTHING[name] for name in (sender, recipients)}) == (
        f"{sender} and {recipients} is set without {smtp}; mail needs all three, or none"
    )


@pytest.mark.parametrize("option", ["json", "junit", "markdown"])
def test_a_folder_is_refused_where_a_file_is_asked_for(tmp_path: Path, option: str) -> None:
    assert refuse({}, AlertFiles(**{option: tmp_path})) == (
        f"--alert-{option} {tmp_path} is a folder; give a file in it"
    )


def test_the_options_of_run_are_the_files() -> None:
    parse = make_parser().parse_args
    assert read_alert_files(parse(["run"])) == AlertFiles()
    argv = ["run", "--alert-json", "a.json", "--alert-junit", "ci/j.xml", "--alert-markdown", "n.md"]
    assert read_alert_files(parse(argv)) == AlertFiles(Path("a.json"), Path("ci/j.xml"), Path("n.md"))


def test_the_page_about_alerts_names_every_channel_variable_option_and_field(tmp_path: Path) -> None:
    files = AlertFiles(*(tmp_path / name for name in ("a", "b", "c")))
    assert [name for name in names_of(EVERYTHING, files) if f"| `{name}` |" not in PAGE] == []
    assert [name for name in ("junit", "markdown", "github") if f"| `{name}` |" not in PAGE] == []
    assert [name for name in (*SECRET_VARIABLES, "GITHUB_STEP_SUMMARY") if f"`{name}`" not in PAGE] == []
    assert [name for name in ("json", "junit", "markdown") if f"--alert-{name}" not in PAGE] == []
    assert [entry.name for entry in fields(Message) if f"`{entry.name}`" not in PAGE] == []


def test_the_page_about_alerts_tells_the_limits_and_exit_codes_of_the_code() -> None:
    waits = " and ".join(f"{seconds:.0f} s" for seconds in alerts.WAITS_SECONDS)
    assert f"after {waits}" in PAGE
    assert f"{alerts.CHANNEL_SECONDS:.0f} s" in PAGE
    assert f"{alerts.KEPT.days} days" in PAGE
    codes = [int(code) for code in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)]
    assert codes == [report.EXIT_OK, report.EXIT_REGRESSION, report.EXIT_USAGE, report.EXIT_INCOMPLETE]
