"""The schedule, set up on a host as docs/operations.md says, word for word: server, worker, deployments, runs.

Only systemd is stood in for (tests/units.py), and installing, which this environment has behind it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from consoles import make_environment, make_model
from servers import ROOT, ask, free_port
from units import list_session

from tasks.storage.store import Store

pytestmark = pytest.mark.timeout(420)  # more than the deadlines of any test here, which end with the logs

COPIED = (
    *("flows", "dashboards", "tasks", "kernels", "deploy", "docs"),
    *("Makefile", "constraints.txt", "pyproject.toml", "prefect.yaml", ".gitignore"),
)
SECTION = "Every night, by Prefect"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOKEN = "T0K3Nsecret"
LONG = 2**19
"""An intermediate size that takes seconds to check and time: a run can be stopped meanwhile."""
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
CREATED = re.compile(r"UUID: ([0-9a-f-]{36})")
"""What `prefect deployment run` says of the run."""


def git(*arguments: str, cwd: Path) -> None:
    author = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    subprocess.run(["git", *author, *arguments], cwd=cwd, check=True, capture_output=True)


@dataclass(frozen=True)
class Host:
    """A user's home folder, and what it takes to type commands there."""

    home: Path
    environment: dict[str, str]
    ports: dict[str, str]
    """The page's, and those in their place."""

    @property
    def clone(self) -> Path:
        return self.home / "kernel-nightly"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['4200']}/api"

    def log(self, unit: str) -> str:
        return (self.home / f"{unit}.log").read_text()

    def type(self, commands: str, answer: str = "") -> str:
        """What a shell in the clone prints, in which the page's `export` was typed; its first failure ends it."""
        path = f"{self.clone / '.venv' / 'bin'}:{self.environment['PATH']}"
        environment = {**self.environment, "PATH": path, "PREFECT_API_URL": self.api}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=self.clone, env=environment, input=answer,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def find(self, what: str, **wanted: Any) -> list[dict[str, Any]]:
        found = ask(f"{self.api}/{what}/filter", wanted)
        assert isinstance(found, list)
        return found

    def read(self, what: str) -> dict[str, Any]:
        found = ask(f"{self.api}/{what}")
        assert isinstance(found, dict)
        return found

    def start(self, command: str) -> str:
        """The id of the flow run that a command of the page starts."""
        printed = self.type(command)
        created = CREATED.findall(printed)
        assert len(created) == 1, printed
        return str(created[0])

    def wait_for(self, run_id: str, wanted: str = "COMPLETED", seconds: float = 120) -> dict[str, Any]:
        """A flow run that has ended as it should, or what is known of why it has not."""
        deadline, found, state = time.monotonic() + seconds, {}, "never answered for"
        while state not in FINAL and time.monotonic() < deadline:
            time.sleep(1)
            try:
                found = self.read(f"flow_runs/{run_id}")
                state = found["state_type"]
            except OSError as error:  # the server is busy
                state = f"not known: {error}"
        server = "\n".join(self.log("kernel-nightly-server").splitlines()[-40:])
        assert state == wanted, f"{state} {found}\n{self.log('kernel-nightly-worker')}\n{server}"
        return found


def read_blocks(host: Host, title: str = SECTION) -> list[str]:
    """The commands of one section of the page, with this host's ports."""
    page = (host.clone / "docs" / "operations.md").read_text()
    [section] = [part for part in re.split(r"^##+ ", page, flags=re.MULTILINE) if part.startswith(f"{title}\n")]
    return BLOCK.findall(section)


def make_origin(folder: Path, ports: dict[str, str]) -> None:
    """What is here as a repository to clone, with ports of its own."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for path in [*(folder / "deploy").iterdir(), folder / "docs" / "operations.md"]:
        text = path.read_text()
        for ours, theirs in ports.items():
            text = text.replace(ours, theirs)
        path.write_text(text)
    git("init", "--initial-branch", "main", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--message", "first", cwd=folder)


def lend_packages(environment: Path) -> None:
    """A virtual environment with the packages of this one, which `make` takes for installed."""
    environment.mkdir()
    ours = Path(sys.executable).parent.parent
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(ours / name)
    (environment / ".installed").touch()
    tomorrow = time.time() + 86400
    os.utime(environment / ".installed", (tomorrow, tomorrow))


def make_commands(folder: Path) -> None:
    """What stands in for systemd's commands."""
    folder.mkdir()
    (folder / "systemctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/units.py" "$@"\n')
    (folder / "loginctl").write_text('#!/bin/sh\n[ "$*" = enable-linger ]\n')
    for command in folder.iterdir():
        command.chmod(0o755)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host on which the page's first commands were typed: server, worker and site are up, everything is deployed."""
    folder = tmp_path_factory.mktemp("host")
    ports = {port: str(free_port()) for port in ("4200", "4201")}
    for name in ("origin", "home"):
        (folder / name).mkdir()
    make_origin(folder / "origin", ports)
    made = Host(folder / "home", make_host_environment(folder / "home"), ports)
    git("clone", str(folder / "origin"), str(made.clone), cwd=folder)
    lend_packages(made.clone / ".venv")
    make_commands(made.home / "bin")
    (made.home / ".config").mkdir()
    (made.home / ".config" / "kernel-nightly.env").write_text(
        f"KERNEL_NIGHTLY_WEBHOOK_URL=http://127.0.0.1:9/{TOKEN}\n"
    )
    try:
        made.type(read_blocks(made)[0])
        yield made
    finally:
        for pid in made.home.glob("*.pid"):
            while found := list_session(int(pid.read_text())):
                for process in found:
                    os.kill(process, signal.SIGKILL)
                time.sleep(0.05)


def make_host_environment(home: Path) -> dict[str, str]:
    """The user's, and what makes Prefect look more often than every ten seconds or every minute.

    Not every second: every look of the worker is a write, and where the disk is slow SQLite then locks the others out.
    """
    return make_environment(
        HOME=str(home),
        PATH=f"{home / 'bin'}:{os.environ['PATH']}",
        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="5",
        PREFECT_WORKER_QUERY_SECONDS="3",
    )


# What is deployed


def test_every_deployment_is_accepted_as_declared(host: Host) -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    known = host.find("deployments")
    assert {entry["name"] for entry in known} == {entry["name"] for entry in declared}
    assert {entry["entrypoint"] for entry in known} == {entry["entrypoint"] for entry in declared}
    assert {entry["work_pool_name"] for entry in known} == {"gpu"}
    assert subprocess.run(["git", "diff", "--quiet"], cwd=host.clone, check=False).returncode == 0


def test_the_form_of_every_deployment_describes_each_of_its_fields(host: Host) -> None:
    for entry in host.find("deployments"):
        form = entry["parameter_openapi_schema"]
        assert set(entry["parameters"]) <= set(form["properties"])
        fields = {entry["name"]: form["properties"]}
        fields |= {name: made.get("properties", {}) for name, made in form.get("definitions", {}).items()}
        bare = [
            f"{name}.{field}"
            for name, found in fields.items()
            for field in found
            if not found[field].get("description")
        ]
        assert bare == []


@pytest.mark.parametrize(
    ("name", "cron", "moments", "days"),
    [("nightly", "0 2 * * *", "02:00", timedelta(1)), ("retune", "0 6 * * 0", "Sunday 06:00", timedelta(7))],
)
def test_what_has_a_schedule_is_scheduled_one_at_a_time(
    name: str, cron: str, moments: str, days: timedelta, host: Host
) -> None:
    deployment = host.read(f"deployments/name/{name}/{name}")
    assert [schedule["schedule"]["cron"] for schedule in deployment["schedules"]] == [cron]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    wanted = {"id": {"any_": [deployment["id"]]}}
    deadline, runs = time.monotonic() + 30, []
    while len(runs) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
        runs = host.find("flow_runs", deployments=wanted, flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}})
    starts = sorted(datetime.fromisoformat(run["expected_start_time"]) for run in runs)
    assert len(starts) >= 2
    assert all(f"{start:%A %H:%M}".endswith(moments) for start in starts)
    assert {later - start for start, later in pairwise(starts)} == {days}
    assert all(run["parameters"] == deployment["parameters"] for run in runs)


def test_systemd_takes_the_units(host: Host, tmp_path: Path) -> None:
    """`systemd-analyze` loads them without starting them; where it is missing, the tests below run what they say."""
    if command := shutil.which("systemd-analyze"):
        units = sorted(map(str, (host.home / ".config" / "systemd" / "user").iterdir()))
        environment = {**host.environment, "XDG_RUNTIME_DIR": str(tmp_path)}
        verify = [command, "--user", "--man=no", "verify", *units]
        done = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


# A run by hand


@pytest.fixture(scope="module")
def tried(host: Host) -> dict[str, Any]:
    """The run that the page starts to try it all, finished."""
    run = host.wait_for(host.start(read_blocks(host)[1]))
    ended = host.find("flow_runs", flow_runs={"state": {"type": {"any_": sorted(FINAL)}}})
    assert [other["id"] for other in ended] == [run["id"]]
    return run


def test_a_run_by_hand_completes_with_the_parameters_that_it_was_given(host: Host, tried: dict[str, Any]) -> None:
    assert tried["parameters"]["selection"]["batch_sizes"] == [1]
    with Store.read(host.clone / "results") as store:
        night = store.night()
    assert (night.run.status, night.run.suite) == ("complete", "smoke")
    assert {(m.check.case.layer.kernel, m.check.case.num_tokens) for m in night.measurements} == {("silu_mul_fp8", 1)}


def test_a_run_shows_its_progress_its_verdicts_and_its_site(host: Host, tried: dict[str, Any]) -> None:
    found = host.find("artifacts", flow_runs={"id": {"any_": [tried["id"]]}})
    shown = {artifact["key"]: artifact for artifact in found}
    assert set(shown) == {"nightly-progress", "nightly-verdicts", "nightly-site"}
    assert shown["nightly-progress"]["data"] == 100
    assert shown["nightly-progress"]["description"] == "2 of 2 units are measured"
    assert "| kernel | NEW | UNSUPPORTED |" in shown["nightly-verdicts"]["data"]
    assert "| `silu_mul_fp8` | " in shown["nightly-verdicts"]["data"]
    site = f"http://127.0.0.1:{host.ports['4201']}/index.html"
    assert shown["nightly-site"]["data"] == f"[{site}]({site})"
    served = subprocess.run(["curl", "--fail", "--silent", site], capture_output=True, text=True, check=True)
    assert "silu_mul_fp8" in served.stdout
    assert TOKEN not in json.dumps(found) + host.log("kernel-nightly-worker") + host.log("kernel-nightly-server")


def test_the_picture_of_the_nightly_has_the_tasks_that_ran(host: Host, tried: dict[str, Any]) -> None:
    ran = host.find("task_runs", flow_runs={"id": {"any_": [tried["id"]]}})
    drawn = re.findall(r'^ +(?:subgraph )?(\w+)\["', (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    only_with_suspects = {"measure_unit_again", "measure_again"}
    assert {run["task_key"].partition("-")[0] for run in ran} == set(drawn) - only_with_suspects


def test_a_branch_is_compared_with_main_by_hand(host: Host, tmp_path: Path) -> None:
    git("branch", "my-branch", cwd=host.clone)
    asked = {
        "head": "my-branch",
        "suite": "smoke",
        "device": "cpu",
        "budget_seconds": 1,
        "save_dir": str(tmp_path),
        "selection": {
            "models": [str(make_model(tmp_path / "one"))],
            "kernels": ["silu_mul_fp8"],
            "providers": ["torch"],
            "schemes": ["fp8_group128"],
            "batch_sizes": [1],
            "options": ["token_strategy=uniform"],
        },
    }
    command = read_blocks(host, "A branch, by hand")[0]
    assert command.startswith('prefect deployment run branch/branch --params \'{"head": "my-branch"')
    run = host.wait_for(host.start(re.sub(r"--params '.*'", f"--params '{json.dumps(asked)}'", command)))
    assert (run["deployment_id"], run["parameters"]["head"]) == (
        host.read("deployments/name/branch/branch")["id"],
        "my-branch",
    )
    [shown] = host.find("artifacts", flow_runs={"id": {"any_": [run["id"]]}})
    assert (shown["key"], shown["description"]) == ("branch-verdicts", "What the branch changes")
    assert "## kernel-nightly: `my-branch` against `main`: 1 " in shown["data"]


# A run that is cancelled


@contextmanager
def holding_benches(session: int) -> Iterator[None]:
    """Have what measures stand still, so that a run is in the middle however long the block takes."""
    benches = [pid for pid in list_session(session) if b"ray::Bench" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert benches
    for bench in benches:
        os.kill(bench, signal.SIGSTOP)
    try:
        yield
    finally:
        for bench in benches:
            with suppress(ProcessLookupError):  # it is gone, as it should be
                os.kill(bench, signal.SIGCONT)


def test_a_cancelled_run_leaves_no_process_and_is_resumed(host: Host, tried: dict[str, Any], tmp_path: Path) -> None:
    worker = int((host.home / "kernel-nightly-worker.pid").read_text())
    models = [make_model(tmp_path / "one"), make_model(tmp_path / "two", intermediate_size=LONG)]
    chosen = {**tried["parameters"]["selection"], "models": list(map(str, models)), "providers": ["torch"]}
    save_dir = str(tmp_path / "results")
    asked = {**tried["parameters"], "selection": chosen, "save_dir": save_dir, "run_id": "20261120T220000Z"}
    nightly = host.read("deployments/name/nightly/nightly")
    started = ask(f"{host.api}/deployments/{nightly['id']}/create_flow_run", {"parameters": asked})
    assert isinstance(started, dict)
    before = len(host.log("kernel-nightly-worker"))
    deadline = time.monotonic() + 90
    while "unit 1/2" not in host.log("kernel-nightly-worker")[before:] and time.monotonic() < deadline:
        time.sleep(0.1)

    look_and_cancel, resume = read_blocks(host, "Cancel, and go on")
    with holding_benches(worker):
        host.type(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", started["id"], look_and_cancel))
    host.wait_for(started["id"], "CANCELLED", 90)
    assert "SystemExit" not in host.log("kernel-nightly-worker")[before:], "Ray's handler of SIGTERM got it"
    deadline = time.monotonic() + 15
    while list_session(worker) != [worker] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list_session(worker) == [worker]
    with Store.read(Path(save_dir)) as store:
        [run] = store.runs()
        assert (run.status, len(store.measured_units(run.run_id))) == ("interrupted", 1)

    with_all = re.sub(r"--params '.*'", f"--params '{json.dumps(asked)}'", resume)
    assert '{"run_id": "20261120T220000Z"}' in resume
    host.wait_for(host.start(with_all))
    assert "2 units, 1 of them measured before" in host.log("kernel-nightly-worker")
    with Store.read(Path(save_dir)) as store:
        [run] = store.runs()
        assert (run.status, len(store.measured_units(run.run_id))) == ("complete", 2)


# What else the page has typed on this host

ENOUGH_ONCE = "systemctl() { :; }; prefect() { :; }\n"
"""For a block whose calls of these were made above, as they are or of the same kind: the rest of it is executed."""


def test_an_upgrade_keeps_a_copy_and_takes_the_new_code(host: Host, tried: dict[str, Any]) -> None:
    origin = host.home.parent / "origin"
    (origin / "deploy" / "kernel-nightly-new.service").write_text("[Unit]\nDescription=new\n")
    git("add", "--all", cwd=origin)
    git("commit", "--message", "second", cwd=origin)
    [upgrade] = read_blocks(host, "Upgrade")
    host.type(ENOUGH_ONCE + upgrade)
    assert (host.clone / "before-upgrade.duckdb").stat().st_size > 0
    assert (host.home / ".config" / "systemd" / "user" / "kernel-nightly-new.service").is_file()


def test_a_secret_is_changed_without_a_restart(host: Host) -> None:
    [change] = read_blocks(host, "Secrets, and how to change one")
    assert TOKEN not in host.type(ENOUGH_ONCE + change, answer=f"https://hooks.example.org/{TOKEN}\n")
    blocks = host.find("block_documents", include_secrets=False)
    assert [block["name"] for block in blocks] == ["slack"]
    assert TOKEN not in json.dumps(blocks)
    env = host.home / ".config" / "kernel-nightly.env"
    assert env.read_text().endswith("\nKERNEL_NIGHTLY_SLACK_URL=block:slack\n")


def test_a_copy_of_the_database_is_a_backup_and_can_be_moved(host: Host, tried: dict[str, Any]) -> None:
    copy, _parquet = read_blocks(host, "Back up and move")
    host.type("kernel-nightly() { :; }\n" + copy)
    with Store.open(host.clone / "nights") as store:
        assert [run.status for run in store.runs()] == ["complete"]
    assert (host.clone / "backup.duckdb").stat().st_size > 0
