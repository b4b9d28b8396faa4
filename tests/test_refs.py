"""Refs of a real repository: by name, in order, in words."""

from pathlib import Path

import pytest
from test_archive import commit
from test_checkout import git

from tasks.commits.refs import find_branch, find_commit, find_merge_base, have_same_code, list_commits, tell_commit
from tasks.errors import UsageError


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """main: first - kernels - docs - merge of two commits of topic - tasks."""
    folder = tmp_path_factory.mktemp("refs")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    for name in ("README", "kernels/a.py", "docs/a.md"):
        write(folder, name)
    git(folder, "checkout", "--quiet", "-b", "topic")
    for name in ("kernels/b.py", "kernels/c.py"):
        write(folder, name)
    git(folder, "checkout", "--quiet", "main")
    git(folder, "merge", "--quiet", "--no-ff", "--message", "Merge topic", "topic")
    write(folder, "tasks/a.py")
    return folder


def write(folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(name)
    return commit(folder)


def test_a_ref_is_its_commit_and_one_that_is_not_there_is_told_in_one_line(checkout: Path, tmp_path: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert find_commit("main", "--base", checkout) == find_commit(head[:9], "--base", checkout) == head
    with pytest.raises(UsageError, match=r"^--base 'nowhere' is no branch, tag or commit here; see git branch --all"):
        find_commit("nowhere", "--base", checkout)
    with pytest.raises(UsageError, match=r"^branch '--all' is no branch"):
        find_commit("--all", "branch", checkout)
    with pytest.raises(UsageError, match=r"^--base 'main' is not found: fatal: not a git repository"):
        find_commit("main", "--base", tmp_path)


def test_commits_between_two_are_those_of_the_first_parent_line_that_change_what_runs(checkout: Path) -> None:
    first, last = (find_commit(ref, "--good", checkout) for ref in ("main~4", "main"))
    told = [tell_commit(one, checkout).partition(" ")[2] for one in list_commits(first, last, checkout)]
    assert told == ["another", "Merge topic", "another"]


def test_commits_that_run_the_same_code_are_refused_before_it_is_measured(checkout: Path) -> None:
    last = find_commit("main", "--good", checkout)
    write(checkout, "docs/b.md")
    later = find_commit("main", "--bad", checkout)
    git(checkout, "reset", "--quiet", "--hard", last)
    for bad in (last, later):
        assert have_same_code(last, bad, checkout)
        with pytest.raises(UsageError, match=r"run the same code, nothing of kernels and tasks differs; give commits"):
            list_commits(last, bad, checkout)
    assert not have_same_code("main~1", "main", checkout)
    assert not have_same_code("nowhere", "main", checkout)


def test_a_good_commit_off_the_line_is_refused_with_the_one_that_is_on_it(checkout: Path) -> None:
    side, last = (find_commit(ref, "--good", checkout) for ref in ("topic", "main"))
    with pytest.raises(UsageError, match=r"is not on the first-parent line of --bad [0-9a-f]{12}$"):
        list_commits(side, last, checkout)
    earlier = find_commit("main~2", "--bad", checkout)
    assert find_merge_base(side, earlier, checkout) == earlier
    with pytest.raises(UsageError, match=f"; --good {earlier[:12]} is where they part$"):
        list_commits(side, earlier, checkout)


def test_the_branch_that_is_checked_out_has_a_name(checkout: Path, tmp_path: Path) -> None:
    assert find_branch(checkout) == "main"
    assert find_branch(tmp_path) == "HEAD"


def test_without_git_no_ref_is_found(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed"):
        find_commit("main", "--base", checkout)
