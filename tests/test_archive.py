"""Past commits out of real git repositories; what is not at hand says why."""

from pathlib import Path

import pytest
from test_checkout import git

from tasks.commits.archive import FOLDER, open_archive
from tasks.errors import UsageError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with three commits: without our packages, with them, with them changed."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "README").write_text("hello")
    commit(tmp_path)
    for package in ("kernels", "tasks", "flows"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("VERSION = 1\n")
    commit(tmp_path)
    (tmp_path / "kernels" / "__init__.py").write_text("VERSION = 2\n")
    commit(tmp_path)
    return tmp_path


@pytest.fixture
def save_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def commit(checkout: Path) -> str:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "another")
    return git(checkout, "rev-parse", "HEAD")


def test_the_packages_of_a_commit_are_unpacked_once_and_are_gone_afterwards(checkout: Path, save_dir: Path) -> None:
    older, before = git(checkout, "rev-parse", "HEAD~1"), git(checkout, "worktree", "list")
    with open_archive(save_dir, checkout) as archive:
        folder, reason = archive.find(older)
        assert reason == ""
        assert folder is not None
        assert (folder / "kernels" / "__init__.py").read_text() == "VERSION = 1\n"
        assert sorted(path.name for path in folder.iterdir()) == ["kernels", "tasks"]
        (folder / "kernels" / "mark").touch()
        assert archive.find(older) == (folder, "")
        assert (folder / "kernels" / "mark").exists()
        other, _ = archive.find(git(checkout, "rev-parse", "HEAD"))
        assert other is not None
        assert (other / "kernels" / "__init__.py").read_text() == "VERSION = 2\n"
    assert list(save_dir.iterdir()) == []
    assert git(checkout, "worktree", "list") == before
    assert git(checkout, "status", "--porcelain") == ""


def test_what_a_killed_run_left_is_removed(checkout: Path, save_dir: Path) -> None:
    left = save_dir / FOLDER / "abababababab" / "kernels"
    left.mkdir(parents=True)
    with open_archive(save_dir, checkout) as archive:
        assert not left.exists()
        assert archive.find(git(checkout, "rev-parse", "HEAD"))[0] is not None


def test_a_commit_that_is_not_there_says_so_in_one_line(checkout: Path, save_dir: Path) -> None:
    first = git(checkout, "rev-parse", "HEAD~2")
    with open_archive(save_dir, checkout) as archive:
        assert archive.find("") == (
            None,
            "no commit was asked for, since none is known without edits or others tell for this series",
        )
        assert archive.find("--output=/tmp/x") == (None, "'--output=/tmp/x' is no commit")
        folder, reason = archive.find("ab" * 20)
        assert folder is None
        assert reason.startswith("commit abababababab is not at hand: fatal: not a ")
        folder, reason = archive.find(first)
        assert folder is None
        assert reason.startswith(
            f"commit {first[:12]} is not at hand: fatal: pathspec 'kernels' did not match any files"
        )


def test_code_that_is_no_checkout_has_no_past(tmp_path: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_archive(save_dir, tmp_path) as archive:
        folder, reason = archive.find("ab" * 20)
        assert folder is None
        assert reason.startswith("commit abababababab is not at hand: fatal: not a git repository")
    monkeypatch.setenv("PATH", str(tmp_path))
    with open_archive(save_dir, tmp_path) as archive:
        assert archive.find("ab" * 20) == (None, "git is not installed: no past commit is at hand")


def test_uncommitted_work_is_a_tree_and_the_repository_notes_nothing_of_it(checkout: Path, save_dir: Path) -> None:
    (checkout / ".gitignore").write_text("*.log\n")
    (checkout / "kernels" / "__init__.py").write_text("VERSION = 3\n")
    (checkout / "kernels" / "new.py").write_text("NEW = True\n")
    (checkout / "kernels" / "noise.log").write_text("noise")
    (checkout / "kernels" / "staged.py").touch()
    git(checkout, "add", "kernels/staged.py")
    before = git(checkout, "status", "--porcelain"), git(checkout, "count-objects")
    with open_archive(save_dir, checkout) as archive:
        tree = archive.take_snapshot()
        folder, reason = archive.find(tree)
        assert reason == ""
        assert folder is not None
        found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        assert found == {
            "kernels/__init__.py": "VERSION = 3\n",
            "kernels/new.py": "NEW = True\n",
            "kernels/staged.py": "",
            "tasks/__init__.py": "VERSION = 1\n",
        }
        assert archive.find(git(checkout, "rev-parse", "HEAD"))[0] is not None
        assert archive.take_snapshot() == tree
    assert (git(checkout, "status", "--porcelain"), git(checkout, "count-objects")) == before


def test_uncommitted_work_needs_a_checkout(tmp_path: Path, save_dir: Path) -> None:
    with (
        open_archive(save_dir, tmp_path) as archive,
        pytest.raises(UsageError, match="--worktree needs a git checkout at "),
    ):
        archive.take_snapshot()
