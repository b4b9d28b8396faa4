"""The whole flow through the real console command, on a very small model and the CPU: run, resume, kill, interrupt."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from consoles import ONE_UNIT, make_model, run_command, start_command
from units import list_session

from flows.cli import main
from tasks.nights import Night
from tasks.records import Measurement, State, Status
from tasks.storage.store import Store

pytestmark = pytest.mark.timeout(280)


@dataclass(frozen=True)
class Nights:
    """Two nights of the same run in one folder."""

    folder: Path
    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]

    @property
    def results(self) -> Path:
        return self.folder / "results"


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    make_model(folder / "tiny")
    asked = ("run", "--model", "./tiny", "--batch-size", 1, 4, "--scheme", "fp8_w8a8", "fp8_group128", "--seed", 3)
    return Nights(folder, run_command(*asked, cwd=folder, embedded=True), run_command(*asked, cwd=folder))


def read_night(save_dir: Path, run_id: str = "") -> Night:
    with Store.read(save_dir) as store:
        return store.night(run_id)


def read_nights(nights: Nights) -> list[Night]:
    with Store.read(nights.results) as store:
        return [store.night(run.run_id) for run in store.runs()]


def test_a_run_ends_well_and_says_nothing_on_stderr(nights: Nights) -> None:
    for ended in (nights.first, nights.second):
        assert (ended.returncode, ended.stderr) == (0, "")
    assert "unit 2/2" in nights.first.stdout
    assert "site: results/site/index.html" in nights.first.stdout


def test_the_store_holds_every_provider_of_every_case(nights: Nights) -> None:
    first, _ = read_nights(nights)
    assert (first.run.status, first.run.suite, first.run.seed) == ("complete", "smoke", 3)
    assert first.run.arguments["batch_sizes"] == [1, 4]
    assert list(first.run.stage_seconds) == [
        "start",
        "start workers",
        "measure ceilings",
        "generate weights",
        "verify",
        "time",
        "persist",
        "find stale configs",
        "find suspects",
        "judge",
        "alert",
    ]
    measured = Counter((m.check.case.layer.kernel, m.check.case.num_tokens) for m in first.measurements)
    assert set(measured) == {(kernel, tokens) for kernel in ("fused_moe", "silu_mul_fp8") for tokens in (1, 4)}
    by_status = Counter(m.status for m in first.measurements)
    assert set(by_status) == {Status.OK, Status.UNSUPPORTED}
    assert all(m.samples_us for m in first.measurements if m.status is Status.OK)
    assert {m.timer for m in first.measurements} == {"wall"}
    assert [ceiling.name for ceiling in first.ceilings] == ["bfloat16 gemm", "copy", "float32 gemm"]
    assert {ceiling.host_id for ceiling in first.ceilings} == {host.host_id for host in first.hosts}
    assert len(first.receipts) == 2
    assert {receipt.seed for receipt in first.receipts} == {3}
    assert len(first.hosts) == 1


def test_the_model_is_split_as_its_config_says(nights: Nights) -> None:
    first, _ = read_nights(nights)
    [layer] = {m.check.case.layer.key for m in first.measurements if m.check.case.layer.kernel == "fused_moe"}
    sizes = "num_experts=8,top_k=2,hidden_size=256,intermediate_size=256"
    assert layer == f"fused_moe/tiny/tp1/ep1/fp8_w8a8/bfloat16/{sizes}"


def test_the_same_seed_gives_the_same_weights_every_night(nights: Nights) -> None:
    first, second = ({r.layer_key: r.sha256 for r in night.receipts} for night in read_nights(nights))
    assert first == second
    assert any(first.values())


def test_the_first_night_is_new_and_the_second_has_a_history(nights: Nights) -> None:
    first, second = read_nights(nights)
    assert {verdict.state for verdict in first.verdicts} == {State.NEW, State.UNSUPPORTED}
    assert {verdict.state for verdict in second.verdicts} <= {State.SAME, State.AMBIGUOUS, State.UNSUPPORTED}
    assert {len(points) for points in second.trends.values()} == {2}
    assert len(first.verdicts) == len(first.measurements)


def test_the_site_is_drawn_without_a_second_command(nights: Nights) -> None:
    site = nights.results / "site"
    assert {"index.html", "kernel-fused_moe.html", "kernel-silu_mul_fp8.html"} <= {path.name for path in site.iterdir()}
    _, second = read_nights(nights)
    assert second.run.run_id in (site / "index.html").read_text()


def test_a_finished_run_leaves_only_its_results(nights: Nights) -> None:
    assert {path.name for path in nights.folder.iterdir()} == {"results", "tiny"}
    assert not list(nights.results.glob("*.tmp"))


Print = Callable[..., str]


@pytest.fixture
def say(nights: Nights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Print:
    """What a command that measures nothing prints; it ends well."""
    monkeypatch.chdir(nights.folder)

    def run(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return run


def test_show_prints_the_run_asked_for(nights: Nights, say: Print) -> None:
    first, second = read_nights(nights)
    shown = run_command("show", cwd=nights.folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    older = say("show", first.run.run_id)
    assert f"run {second.run.run_id}" in shown.stdout
    assert f"run {first.run.run_id}" in older
    assert "torch" in older
    assert "NEW" in older
    assert "NEW" not in shown.stdout
    tables = say("show", "--table", "all")
    assert "at best on cpu: " in tables
    assert "median us per call" in tables
    assert re.search(r"^ +fused_moe +tiny TP1 +fp8_w8a8 .* 2\.00x", tables, re.MULTILINE)


def test_runs_are_listed_oldest_first(nights: Nights, say: Print) -> None:
    listed = say("list", "runs").splitlines()
    assert [line.split()[0] for line in listed] == [night.run.run_id for night in read_nights(nights)]
    assert all(line.split()[1:3] == ["smoke", "complete"] for line in listed)


def test_an_export_draws_the_same_site(nights: Nights, say: Print) -> None:
    say("export", "tables")
    say("site", "--from", "tables", "--out", "elsewhere")
    assert say("show", "--from", "tables") == say("show")
    ours, theirs = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (nights.results / "site", nights.folder / "elsewhere")
    )
    assert ours == theirs
    for path in (nights.folder / "tables", nights.folder / "elsewhere"):
        shutil.rmtree(path)


# Runs that do not end by themselves

THREE_UNITS = ("run", *ONE_UNIT, "--run-id", "stopped", "--model", "./one", "./two", "./three")
SECONDS_LONG = 2**21
"""An intermediate size that takes seconds to check and time: a run that is to be stopped meanwhile does not get past
it, however busy the machine is."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_model(tmp_path / "one")
    for name in ("two", "three"):
        make_model(tmp_path / name, intermediate_size=SECONDS_LONG)
    return tmp_path


def wait_for_unit(process: subprocess.Popen[str], number: int) -> None:
    """Read stdout until a unit is in the store."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(f"unit {number}/"):
            return
    raise AssertionError(process.communicate()[1])


def kill_session(leader: int) -> None:
    """Kill them all, those too that are started meanwhile."""
    while found := list_session(leader):
        for process in found:
            with suppress(ProcessLookupError):  # it has ended by itself, as its parent is gone
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


@pytest.fixture
def stopped(models: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A run of three units, one of them in the store, which measures the second; maybe with a server of its own."""
    with start_command(*THREE_UNITS, cwd=models, embedded=getattr(request, "param", False)) as process:
        try:
            wait_for_unit(process, 1)
            yield process
        finally:
            kill_session(process.pid)


def measurements_by_key(measurements: tuple[Measurement, ...]) -> dict[str, Measurement]:
    keys = [f"{m.check.case.key} {m.check.provider} {m.timer}" for m in measurements]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, measurements, strict=True))


def test_a_killed_run_is_resumed_without_measuring_twice(models: Path, stopped: subprocess.Popen[str]) -> None:
    kill_session(stopped.pid)
    stopped.wait()
    with Store.open(models / "results") as store:
        assert [run.status for run in store.runs()] == ["running"]
        before = measurements_by_key(tuple(store.measurements("stopped")))
        units_before = len(store.measured_units("stopped"))
        ceilings_before = store.ceilings("stopped")
    assert units_before == 1
    resumed = run_command(*THREE_UNITS, cwd=models)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "3 units, 1 of them measured before" in resumed.stdout
    assert "unit 2/2" in resumed.stdout
    night = read_night(models / "results", "stopped")
    after = measurements_by_key(night.measurements)
    assert night.run.status == "complete"
    assert {m.check.case.layer.model for m in after.values()} == {"one", "two", "three"}
    assert {key: after[key] for key in before} == before
    assert list(night.ceilings) == ceilings_before
    assert len(night.receipts) == 3


@pytest.mark.parametrize(
    ("stopped", "sent"),
    [(True, signal.SIGINT), (False, signal.SIGTERM)],
    indirect=["stopped"],
    ids=["SIGINT", "SIGTERM"],
)
def test_ctrl_c_keeps_what_was_measured_and_leaves_no_process(
    models: Path, stopped: subprocess.Popen[str], sent: signal.Signals
) -> None:
    # a terminal sends to every process of the command, Prefect's server included
    (os.killpg if sent == signal.SIGINT else os.kill)(stopped.pid, sent)
    _, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert stderr == "kernel-nightly: interrupted; what was measured is kept\n"
    night = read_night(models / "results", "stopped")
    assert night.run.status == "interrupted"
    assert night.run.finished_at is not None
    assert [m.check.case.layer.model for m in night.measurements] == ["one"]
    assert {m.status for m in night.measurements} == {Status.OK}
    deadline = time.monotonic() + 15
    while list_session(stopped.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list_session(stopped.pid) == []
