"""The commands `branch` and `bisect`, on a scratch repository with a planted slow commit.

The processes that are measured run light code (tests/lightcode.py): their times are real, and they start without torch.
"""

import os
import signal
import subprocess
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from consoles import run_command, start_command
from lightcode import commit_benches, make_bench, write_light_code
from records import make_run, make_series
from test_checkout import git
from test_story import clone_checkout
from units import list_session

from flows.branch import branch
from flows.culprit import Finding, tell_headline
from flows.listings import list_lines
from tasks.commits.comparisons import Comparison, Sitting
from tasks.comparison_session import Outcome
from tasks.planning.cases import Plan
from tasks.records import State
from tasks.storage.comparison_store import ComparisonStore
from tasks.storage.store import Store

pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.skipif(not (Path(__file__).parent.parent / ".git").exists(), reason="there is no checkout to clone"),
]
ASKED = (
    *("--kernel", "silu_mul_fp8", "--scheme", "fp8_group128", "--provider", "torch", "--limit-n", 512),
    *("--batch-size", 16, "--option", "token_strategy=uniform", "--least-change", 1),
)
"""One series, and a change by which it doubles."""


@dataclass(frozen=True)
class Commands:
    """What the commands printed; the first one was killed, and asked again."""

    folder: Path
    commits: dict[str, str]
    killed_process: int
    killed: Comparison
    """As the killed command left it."""
    before: list[Sitting]
    branch: subprocess.CompletedProcess[str]
    bisect: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """main's code, and beside it a line of light commits: good - slow - broken - mended - last."""
    folder = tmp_path_factory.mktemp("branch") / "clone"
    ours = clone_checkout(folder)
    git(folder, "checkout", "--quiet", "--orphan", "light")
    git(folder, "rm", "-r", "--force", "--quiet", ".")
    write_light_code(folder)
    benches = {
        "good": make_bench(),
        "slow": make_bench(loops=32),
        "broken": "raise RuntimeError('no bench yet')",
        "mended": make_bench(loops=32) + "# again\n",
        "last": make_bench(loops=32) + "# an edit\n",
    }
    commits = commit_benches(folder, benches)
    git(folder, "checkout", "--quiet", "--force", ours)
    with Store.open(folder / "results") as nights:
        nights.finish_run(nights.begin_run(make_run("night")))
    asked = ("branch", "last", "--base", "good", *ASKED, "--markdown", "pr.md")
    with start_command(*asked, cwd=folder, embedded=True) as process:
        assert process.stdout
        assert any(line.startswith("sitting 2 of ") for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
    with ComparisonStore.open(folder / "results") as store:
        [killed] = store.comparisons()
        before = store.sittings(killed.comparison_id)
    branch = run_command(*asked, cwd=folder)
    words = ("silu_mul_fp8", "num_tokens=16", "torch")
    bisect = run_command("bisect", *words, "--good", "good", "--bad", "last", cwd=folder)
    return Commands(folder, commits, process.pid, killed, before, branch, bisect)


@pytest.mark.parametrize(
    ("head", "worktree", "name"),
    [("HEAD", False, "topic"), ("v1", False, "v1"), ("HEAD", True, "topic, uncommitted work")],
)
def test_a_comparison_is_called_after_its_branch_and_says_what_it_leaves_out(
    head: str,
    worktree: bool,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = SimpleNamespace(take_snapshot=lambda: "a" * 40)
    workers = SimpleNamespace(devices=dict, refuse_leftovers=lambda: None)
    session = SimpleNamespace(archive=archive, workers=workers)
    replaced = {
        "list_cases": lambda *_: Plan((), ("a kernel [/x] on a layer: too narrow",)),
        "resolve_shapes": lambda *_: (),
        "find_branch": lambda: "topic",
        "find_commit": lambda *_: "b" * 40,
        "open_comparisons": lambda *_: nullcontext(session),
        "compare": lambda _session, question, *_: Outcome(question, (), 0, 0.0),
    }
    for function, stand_in in replaced.items():
        monkeypatch.setattr(f"flows.branch.{function}", stand_in)
    outcome = branch.fn(head, worktree=worktree, device="cpu", save_dir=tmp_path)
    assert outcome.comparison.head == name
    printed = capsys.readouterr().out
    assert printed.startswith("left out: a kernel [/x] on a layer: too narrow\n")
    assert f"## kernel-nightly: `{name}` against `main`: " in printed


def test_a_commit_in_doubt_is_not_told_as_one_that_has_nothing_to_look_for() -> None:
    told = {state: tell_headline(Finding(make_series(), "good", "bad", state, ())) for state in State}
    assert told[State.SAME] == "nothing has changed"
    assert told[State.AMBIGUOUS] == "the bad commit could not be told from the good one; give more --budget"
    assert told[State.NEW] == "the bad commit is NEW: there is nothing to look for"


def test_a_slow_branch_ends_with_1_and_a_table_for_its_pull_request(commands: Commands) -> None:
    assert (commands.branch.returncode, commands.branch.stderr) == (1, "")
    text = (commands.folder / "pr.md").read_text()
    assert text.startswith("## kernel-nightly: `last` against `good`: 1 SLOW\n")
    assert commands.branch.stdout.endswith(text + "\n")
    assert commands.commits["last"][:12] in text


def test_it_is_kept_under_the_branchs_name_and_is_no_run(commands: Commands) -> None:
    with ComparisonStore.read(commands.folder / "results") as store:
        first, *_ = store.comparisons()
        assert (first.head, first.head_commit, first.status) == ("last", commands.commits["last"], "complete")
        assert len(store.sittings(first.comparison_id)) >= 3
    with Store.read(commands.folder / "results") as nights:
        assert ([run.run_id for run in nights.runs()], nights.measurements("night")) == (["night"], [])
    listed = list_lines("branches", commands.folder / "results")
    assert listed[0].startswith(f"{first.comparison_id}  last ({first.head_commit[:12]}) against good ")


def test_the_slow_commit_is_found_around_one_that_does_not_build(commands: Commands) -> None:
    assert (commands.bisect.returncode, commands.bisect.stderr) == (1, "")
    headline, *rest = commands.bisect.stdout[commands.bisect.stdout.index("## ") :].splitlines()
    assert headline == f"## kernel-nightly: `{commands.commits['slow'][:12]} another` made it SLOW"
    assert any(line.startswith("Beside the commit before it its time changes by +") for line in rest)
    rows = {line[3:15]: line.rpartition(" | ")[2] for line in rest if line.startswith("| `")}
    assert list(rows) == [commands.commits[name][:12] for name in ("last", "broken", "slow")]
    assert rows[commands.commits["slow"][:12]] == "SLOW |"
    assert rows[commands.commits["broken"][:12]].startswith("FAILED `crashed: ")
    assert rows[commands.commits["broken"][:12]].endswith("no bench yet` |")


def test_what_was_measured_before_is_remembered(commands: Commands) -> None:
    assert f"| `{commands.commits['last'][:12]} another` |" in commands.bisect.stdout
    assert commands.bisect.stdout.count("SLOW (measured before) |") == 1
    assert commands.bisect.stdout.count("sitting 1 of ") == 2, "the broken one, and the slow one"


def test_a_killed_branch_leaves_what_it_has_measured_and_goes_on_when_it_is_asked_again(commands: Commands) -> None:
    assert commands.killed.status == "running"
    assert len(commands.before) == 2
    assert "sitting 3 of " in commands.branch.stdout
    assert "sitting 2 of " not in commands.branch.stdout
    with ComparisonStore.read(commands.folder / "results") as store:
        ended = store.comparisons()[0]
        assert ended == replace(commands.killed, status="complete", finished_at=ended.finished_at)
        assert store.sittings(ended.comparison_id)[:2] == commands.before


def test_a_killed_branch_leaves_no_process_no_code_and_no_worktree(commands: Commands) -> None:
    agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    assert find_commands(commands.killed_process) <= agents, "they end within a minute"
    assert not list((commands.folder / "results").glob(".*"))
    assert len(git(commands.folder, "worktree", "list").splitlines()) == 1


def find_commands(session: int) -> set[str]:
    """First words of what still runs in a session."""
    found = [Path(f"/proc/{process}/cmdline") for process in list_session(session)]
    return {path.read_bytes().split(b"\0")[0].decode().strip() for path in found if path.exists()}
