"""Events and blocks of Prefect, on a real server: alerts.yaml creates automations there, and an alert triggers one."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from letterboxes import make_alert, make_incident
from records import make_series
from servers import ROOT, ask, free_port, make_server_environment, run_prefect, serving

from tasks.channels.events import MOST_SERIES, make_event
from tasks.channels.messages import write_message
from tasks.judgement.incidents import Kind

pytestmark = pytest.mark.timeout(180)

PAGE = (ROOT / "docs" / "alerts.md").read_text()
SEND = """
import sys
from letterboxes import make_alert, make_incident
from tasks.channels.events import EventChannel
from tasks.errors import ChannelError
from tasks.judgement.incidents import Kind
from tasks.channels.messages import write_letter
try:
    for name in sys.argv[1:]:
        EventChannel().send(write_letter(make_alert(make_incident("slow-" + name), Kind(name)), "prefect"))
except ChannelError as error:
    print(error)
"""
READ_BLOCK = """
import sys
from tasks.channels.secrets import Secret
from tasks.channels.webhooks import parse_url
from tasks.errors import ChannelError
for name in sys.argv[1:]:
    try:
        print(Secret("KERNEL_NIGHTLY_SLACK_URL", "block:" + name).parse(parse_url))
    except ChannelError as error:
        print(error)
"""
SAVE_BLOCKS = """
from prefect.blocks.system import Secret
Secret(value="s3cr3t").save("malformed")
Secret(value={"url": "s3cr3t"}).save("no-text")
"""


def run_python(code: str, *arguments: str, environment: dict[str, str]) -> str:
    """In a process of its own: Prefect's settings are those of the environment at its import."""
    path = f"{ROOT}:{ROOT / 'tests'}"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_server_environment(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[str]:
    with serving(environment) as url:
        yield url


@pytest.fixture(scope="module")
def automated(server: str, environment: dict[str, str]) -> str:
    """The server with the automations of alerts.yaml, by the command that its first lines give."""
    command = "prefect automation create --from-file alerts.yaml"
    assert f"#   {command}\n" in (ROOT / "alerts.yaml").read_text()
    assert f"\n{command}\n" in PAGE
    created = run_prefect(*command.split()[1:], environment=environment)
    assert created.returncode == 0, created.stdout + created.stderr
    return server


def find_events(server: str, name: str) -> list[dict[str, object]]:
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    answer = ask(f"{server}/events/filter", {"filter": {"event": {"name": [name]}, "occurred": {"since": since}}})
    assert isinstance(answer, dict)
    return list(answer["events"])


def wait_for_events(server: str, name: str, number: int) -> list[dict[str, object]]:
    deadline = time.monotonic() + 30
    while len(found := find_events(server, name)) < number and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def test_every_automation_of_the_file_is_there_and_enabled(automated: str) -> None:
    declared = yaml.safe_load((ROOT / "alerts.yaml").read_text())["automations"]
    known = ask(f"{automated}/automations/filter", {})
    assert isinstance(known, list)
    assert {entry["name"] for entry in known} == {entry["name"] for entry in declared}
    assert all(entry["enabled"] for entry in known)
    expected = {name for entry in declared for name in entry["trigger"]["expect"]}
    assert expected == {f"kernel-nightly.incident.{kind}" for kind in ("opened", "worse", "resolved")}


def test_an_opened_incident_triggers_the_automation_and_its_reminder_does_not(
    automated: str, environment: dict[str, str]
) -> None:
    printed = run_python(SEND, str(Kind.STILL_OPEN), str(Kind.OPENED), str(Kind.RESOLVED), environment=environment)
    assert printed == ""
    triggered = wait_for_events(automated, "prefect.automation.triggered", 2)
    names = sorted(str(event["resource"]["prefect.resource.name"]) for event in triggered)  # type: ignore[index]
    assert names == ["kernel-nightly incident", "kernel-nightly resolved"]
    [opened] = wait_for_events(automated, "kernel-nightly.incident.opened", 1)
    assert opened["resource"]["prefect.resource.id"] == "kernel-nightly.incident.slow-opened"  # type: ignore[index]
    assert opened["payload"]["title"].startswith("opened slow-opened: 3 series of")  # type: ignore[index]
    assert len(wait_for_events(automated, "kernel-nightly.incident.still-open", 1)) == 1


def test_a_letter_that_is_sent_twice_is_one_event(automated: str, environment: dict[str, str]) -> None:
    run_python(SEND, str(Kind.WORSE), str(Kind.WORSE), environment=environment)
    wait_for_events(automated, "prefect.automation.triggered", 3)
    assert len(find_events(automated, "kernel-nightly.incident.worse")) == 1


def test_a_server_that_is_not_there_is_told_and_not_waited_for(environment: dict[str, str]) -> None:
    nobody = {**environment, "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    started = time.monotonic()
    told = run_python(SEND, str(Kind.OPENED), environment=nobody)
    assert told == "the Prefect server of PREFECT_API_URL takes no event: ConnectError\n"
    assert time.monotonic() - started < 30


def test_secrets_are_read_from_blocks(server: str, environment: dict[str, str]) -> None:
    [as_documented] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    run_python(as_documented, environment=environment)
    run_python(SAVE_BLOCKS, environment=environment)
    told = run_python(READ_BLOCK, "slack", "malformed", "no-text", "nowhere", environment=environment)
    named = "which KERNEL_NIGHTLY_SLACK_URL names"
    assert told.splitlines() == [
        "https://hooks.slack.com/services/T000/B000/XXXX",
        "KERNEL_NIGHTLY_SLACK_URL is not an address like https://host/path; correct it or unset it",
        f"the Secret block 'no-text', {named}, holds no text",
        f"Prefect has no Secret block 'nowhere', {named}; create it",
    ]


def test_a_block_of_a_server_that_is_not_there_is_told(environment: dict[str, str]) -> None:
    nobody = {**environment, "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    [told] = run_python(READ_BLOCK, "slack", environment=nobody).splitlines()
    assert told.startswith("cannot read the Secret block 'slack', which KERNEL_NIGHTLY_SLACK_URL names: ")
    assert told.endswith("; see PREFECT_API_URL")


def test_the_actions_that_the_comments_suggest_are_ones_that_prefect_takes() -> None:
    from prefect.events.schemas.automations import AutomationCore

    text = (ROOT / "alerts.yaml").read_text()
    lines = [
        line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ") and "prefect " not in line
    ]
    suggested = yaml.safe_load("\n".join(lines))
    assert [action["type"] for action in suggested] == ["send-notification", "run-deployment"]
    automation = yaml.safe_load(text)["automations"][0]
    for action in suggested:
        made = AutomationCore.model_validate({**automation, "actions": [action]})
        assert made.actions[0].type == action["type"]


def test_an_event_holds_what_an_automation_can_use() -> None:
    message = write_message(make_alert(make_incident(series=(make_series(),) * 5000)))
    event = make_event(message)
    assert event == make_event(message) | {"occurred": event["occurred"]}
    assert event["related"] == []
    payload = event["payload"]
    assert isinstance(payload, dict)
    assert payload["series"][-1] == f"and {5000 - MOST_SERIES} more"
    assert len(json.dumps(event)) < 100_000
