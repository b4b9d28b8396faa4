"""prefect.yaml on a real Prefect server: every deployment is accepted, and the nightly one is really scheduled."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PREFECT = str(Path(sys.executable).parent / "prefect")

pytestmark = pytest.mark.timeout(120)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask(url: str, body: object | None = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def wait_for(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask(url)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "DO_NOT_TRACK": "1",
    }


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[str]:
    """A server of its own with its services running; gives the address of its API."""
    url = environment["PREFECT_API_URL"]
    port = url.removesuffix("/api").rpartition(":")[2]
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_for(f"{url}/health", 60)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def run_prefect(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PREFECT, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def deployed(server: str, environment: dict[str, str]) -> str:
    """The server with everything of prefect.yaml deployed, by the commands that its first lines give."""
    before = (ROOT / "prefect.yaml").read_bytes()
    pool = run_prefect("work-pool", "create", "--type", "process", "gpu", environment=environment)
    assert pool.returncode == 0, pool.stdout + pool.stderr
    deploy = run_prefect("--no-prompt", "deploy", "--all", environment=environment)
    assert deploy.returncode == 0, deploy.stdout + deploy.stderr
    assert (ROOT / "prefect.yaml").read_bytes() == before
    return server


def test_every_deployment_is_accepted(deployed: str) -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    known = ask(f"{deployed}/deployments/filter", {})
    assert isinstance(known, list)
    assert {entry["name"] for entry in known} == {entry["name"] for entry in declared}
    assert {entry["entrypoint"] for entry in known} == {entry["entrypoint"] for entry in declared}
    assert {entry["work_pool_name"] for entry in known} == {"gpu"}


def test_the_parameters_of_every_deployment_are_the_flows_own(deployed: str) -> None:
    known = ask(f"{deployed}/deployments/filter", {})
    assert isinstance(known, list)
    for entry in known:
        assert set(entry["parameters"]) <= set(entry["parameter_openapi_schema"]["properties"])


def test_the_nightly_is_scheduled_every_night(deployed: str) -> None:
    nightly = ask(f"{deployed}/deployments/name/nightly/nightly")
    assert isinstance(nightly, dict)
    assert [schedule["schedule"]["cron"] for schedule in nightly["schedules"]] == ["0 2 * * *"]
    wanted = {"deployments": {"id": {"any_": [nightly["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    deadline = time.monotonic() + 30
    runs: object = []
    while not runs and time.monotonic() < deadline:
        time.sleep(0.5)
        runs = ask(f"{deployed}/flow_runs/filter", wanted)
    assert isinstance(runs, list)
    assert len(runs) >= 2
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert {run["expected_start_time"][11:16] for run in runs} == {"02:00"}
    assert runs[0]["parameters"]["suite"] == "nightly"
