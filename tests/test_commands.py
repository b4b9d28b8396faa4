"""Every command that a page shows is executed by a test: here, or where ELSEWHERE says."""

import argparse
import re
import shlex
import subprocess
import webbrowser
from dataclasses import replace
from pathlib import Path

import pytest
from records import STARTED, make_host, make_measurement, make_run
from test_docs import ROOT, code_of, make_targets
from test_journal import INCIDENT

from flows.arguments import make_parser, read_selection
from flows.cli import main
from tasks.planning.cases import plan_units, resolve_shapes
from tasks.planning.suites import find_suite
from tasks.records import UnitResult
from tasks.storage.database import TABLES, VERSION_TABLE
from tasks.storage.store import Store

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PROGRAMS = (
    "kernel-nightly",
    "make",
    "prefect",
    "ray",
    "python",
    "systemctl",
    "loginctl",
    "install",
    "cp",
    "mkdir",
    "git",
)
ELSEWHERE = {
    "CONTRIBUTING.md": {
        "python -m pytest": "test_recipes.py, on a copy of the tree with what the recipe has written",
        "kernel-nightly run --suite smoke --model OLMoE-1B-7B": "test_recipes.py, as above",
        "kernel-nightly run --suite smoke --kernel rms_norm_fp8": "test_recipes.py, as above",
        "kernel-nightly run --suite smoke --kernel silu_mul_fp8": "test_recipes.py, as above",
    },
    "alerts.md": {"prefect automation create": "test_events.py, on a server of its own"},
    "branch.md": {"python benchmarks/branch.py": "test_paired.py; takes a GPU, or an hour"},
    "operations.md": {
        "prefect ": "test_deployments.py, on a host that is set up as the page says",
        "install ": "test_deployments.py, as above",
        "cp ": "test_deployments.py, as above",
        "mkdir ": "test_deployments.py, as above",
        "git pull": "test_deployments.py, as above",
        "python -c": "test_deployments.py, as above",
        "systemctl ": "test_deployments.py; needs a session of systemd: tests/units.py does what the units say instead",
        "loginctl ": "test_deployments.py; needs systemd: the arguments are compared instead",
        "ray start": "test_cluster.py; would take a port of its own: the same node is started by ray.cluster_utils",
        "python -m flows": "test_cli.py; `run` needs a GPU: its plan is made here instead",
    },
}
"""By page, what a command begins with, and the test that executes it, or why none can and what is checked instead."""
OWN_TESTS = {"branch": "test_branch.py", "bisect": "test_branch.py", "retune": "test_retune.py"}
"""Commands whose documented lines need commits or hours: parsed here, executed by these tests."""


def read_commands(page: Path) -> list[str]:
    """Every line of code that begins with a program, without the words that explain it two spaces further on."""
    lines = (line.strip() for line in code_of(page))
    found = [
        re.split(r"\s{2,}(?=\S)| +# ", line)[0] for line in lines if line.startswith(tuple(f"{p} " for p in PROGRAMS))
    ]
    return list(dict.fromkeys(found))


def is_elsewhere(page: Path, command: str) -> bool:
    return command.startswith(tuple(ELSEWHERE.get(page.name, {})))


def list_ours(page: Path) -> list[list[str]]:
    """The arguments of every `kernel-nightly` that is to be executed here."""
    spelled = (line.replace("python -m flows ", "kernel-nightly ") for line in read_commands(page))
    return [
        shlex.split(line)[1:] for line in spelled if line.startswith("kernel-nightly ") and not is_elsewhere(page, line)
    ]


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every_page
def test_every_command_of_a_page_is_executed_by_some_test(page: Path) -> None:
    here = ("kernel-nightly ", "make ")
    left = [line for line in read_commands(page) if not line.startswith(here) and not is_elsewhere(page, line)]
    assert left == [], "execute it in a test, and name that in ELSEWHERE"


def test_what_is_executed_elsewhere_is_there_and_still_shown() -> None:
    pages = {page.name: read_commands(page) for page in PAGES}
    for name, beginnings in ELSEWHERE.items():
        for beginning, where in beginnings.items():
            assert (ROOT / "tests" / re.split(r"[,;]", where)[0]).is_file()
            assert any(line.startswith(beginning) for line in pages[name]), f"{name} shows no {beginning!r} any more"


def test_commands_are_found_in_fenced_and_in_indented_code() -> None:
    assert "kernel-nightly list providers" in read_commands(ROOT / "README.md")
    assert "make nightly" in read_commands(ROOT / "README.md")
    assert "kernel-nightly export backup" in read_commands(ROOT / "docs" / "operations.md")


@every_page
def test_every_make_target_that_is_shown_would_run(page: Path) -> None:
    """As far as `make -n` goes, which installs and runs nothing."""
    for line in read_commands(page):
        if line.startswith("make "):
            done = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            assert shlex.split(line)[1] in make_targets()


@every_page
def test_every_run_that_is_shown_is_one_that_can_be_planned(page: Path) -> None:
    """What it would measure on a GPU; measuring takes minutes, and is executed by test_nightly.py on small models."""
    for argv in list_ours(page):
        arguments = make_parser().parse_args(argv)
        if arguments.command == "run":
            suite = find_suite({"auto": "nightly"}.get(arguments.suite, arguments.suite))
            selection = read_selection(arguments)
            plan = plan_units(suite, resolve_shapes(suite, selection), selection, "cuda")
            assert plan.units, argv


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type commands in: two finished runs, an incident, and the examples of the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", lambda _address: True)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with Store.open(tmp_path / "results") as store:
        for number in (1, 2):
            run = make_run(f"run-{number}", number)
            store.begin_run(run)
            store.commit_unit(run.run_id, UnitResult(make_host(), None, (make_measurement(run.run_id),)))
            store.finish_run(replace(run, status="complete", finished_at=STARTED))
        store.journal.commit_incidents([INCIDENT])
        store.publish()
    return tmp_path / "results"


@pytest.mark.usefixtures("results")
@every_page
def test_every_other_command_that_is_shown_ends_well(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the page, on a database that has what it speaks of."""
    for argv in list_ours(page):
        command = make_parser().parse_args(argv).command
        if command == "run" or command in OWN_TESTS:
            continue
        assert main(argv) == 0, argv
        assert capsys.readouterr().err == ""
    if page.name == "operations.md":
        assert {path.stem for path in Path("backup").iterdir()} == {*TABLES, VERSION_TABLE}
        assert Path("site/index.html").is_file()


def test_a_command_with_tests_of_its_own_is_one() -> None:
    [known] = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for command in set(OWN_TESTS) & set(known.choices):
        assert (ROOT / "tests" / OWN_TESTS[command]).is_file()
