"""prefect.yaml on a real Prefect server: every deployment is accepted, and the nightly one is really scheduled."""

import time
from collections.abc import Iterator

import pytest
import yaml
from servers import ROOT, ask, make_server_environment, run_prefect, serving

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_server_environment(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[str]:
    """A server of its own with its services running; gives the address of its API."""
    with serving(environment) as url:
        yield url


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
