"""The commands `branch` and `bisect`, on a scratch repository with a planted slow commit.

The processes that are measured run light code (tests/lightcode.py): their times are real, and they start without torch.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from consoles import run_command
from lightcode import commit_benches, make_bench, write_light_code
from test_provenance import git
from test_story import clone_checkout

from flows.listings import list_lines
from tasks.comparison_store import ComparisonStore

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
    """What the commands printed."""

    folder: Path
    commits: dict[str, str]
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
    branch = run_command("branch", "last", "--base", "good", *ASKED, "--markdown", "pr.md", cwd=folder)
    words = ("silu_mul_fp8", "num_tokens=16", "torch")
    bisect = run_command("bisect", *words, "--good", "good", "--bad", "last", cwd=folder)
    return Commands(folder, commits, branch, bisect)


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
    assert list_lines("runs", commands.folder / "results") == []
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
