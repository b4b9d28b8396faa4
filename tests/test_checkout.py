"""The checkout that a number came from: real git repositories."""

import subprocess
from pathlib import Path

import pytest

from tasks.checkout import read_git_state


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "tracked.txt").write_text("one\n")
    git(tmp_path, "add", "tracked.txt")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    commit, dirty = read_git_state(checkout)
    assert commit == git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert not dirty


def test_a_changed_file_makes_a_checkout_dirty(checkout: Path) -> None:
    (checkout / "tracked.txt").write_text("two\n")
    assert read_git_state(checkout) == (git(checkout, "rev-parse", "HEAD"), True)


def test_a_staged_file_makes_a_checkout_dirty(checkout: Path) -> None:
    (checkout / "new.txt").write_text("new\n")
    git(checkout, "add", "new.txt")
    assert read_git_state(checkout)[1]


def test_results_beside_the_tracked_files_do_not_make_it_dirty(checkout: Path) -> None:
    (checkout / "untracked.txt").write_text("results\n")
    assert not read_git_state(checkout)[1]


def test_a_folder_outside_any_checkout_has_no_commit(tmp_path: Path) -> None:
    assert read_git_state(tmp_path) == ("", False)


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert read_git_state(tmp_path) == ("", False)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_git_state(checkout) == ("", False)
