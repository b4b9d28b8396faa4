"""The code of commits at hand, out of the git repository that this code is a checkout of.

`git archive` and not `git worktree`: a worktree is noted in the repository, where a killed run would leave it behind.
"""

import os
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.checkout import CHECKOUT
from tasks.errors import UsageError

PACKAGES = ("kernels", "tasks")
"""What a worker imports of ours."""
FOLDER = ".kernel-nightly-code"
COMMIT = re.compile(r"[0-9a-f]{7,64}")


class Archive:
    """Folders with the packages of commits, each unpacked when it is first asked for. Any thread may ask."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self._folder = folder
        self._checkout = checkout
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Path | None, str]] = {}
        self._environment: dict[str, str] = {}
        """For git, once objects of our own are in the folder."""

    def take_snapshot(self) -> str:
        """The tree of the checkout with the packages as they lie there now, edits and new files included.

        A tree serves as a commit for `find`, and the same files give the same one. Its objects are in the folder of
        this archive: the repository and its index stay as they are.

        Raises:
            UsageError: there is no checkout to take it of.
        """
        objects = self._folder / "objects"
        objects.mkdir(exist_ok=True)
        self._environment = {}
        theirs = self._ask("rev-parse", "--path-format=absolute", "--git-path", "objects")
        self._environment = {
            "GIT_INDEX_FILE": str(self._folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": theirs,
        }
        self._ask("read-tree", "HEAD")
        self._ask("add", "--all", "--", *PACKAGES)
        return self._ask("write-tree")

    def _ask(self, *arguments: str) -> str:
        """What git prints."""
        try:
            done = self._run(*arguments)
        except FileNotFoundError as error:
            raise UsageError("git is not installed, and --worktree needs it; name a commit on its machine") from error
        if done.returncode:
            raise UsageError(f"--worktree needs a git checkout at {self._checkout}: {_last_line(done.stderr)}")
        return done.stdout.strip()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self._checkout), *arguments]
        environment = {**os.environ, **self._environment}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def find(self, commit: str) -> tuple[Path | None, str]:
        """The folder of a commit and "", or None and in one line why its code is not at hand."""
        with self._lock:
            if commit not in self._found:
                self._found[commit] = self._unpack(commit)
            return self._found[commit]

    def _unpack(self, commit: str) -> tuple[Path | None, str]:
        if not commit:
            return None, "no commit was asked for, since none is known without edits or others tell for this series"
        if not COMMIT.fullmatch(commit):
            return None, f"{commit!r} is no commit"
        packed, folder = self._folder / f"{commit}.zip", self._folder / commit
        try:
            done = self._run("archive", "--format=zip", f"--output={packed}", commit, *PACKAGES)
        except FileNotFoundError:
            return None, "git is not installed: no past commit is at hand"
        if done.returncode:
            return None, f"commit {commit[:12]} is not at hand: {_last_line(done.stderr)}"
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        packed.unlink()
        return folder, ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["git failed and did not say why"])[-1]


@contextmanager
def open_archive(save_dir: Path, checkout: Path = CHECKOUT) -> Iterator[Archive]:
    """Commits in a folder beside the database, whose lock the caller holds: what a killed run left there is removed.

    The repository is only read, and nothing is noted in it.
    """
    folder = save_dir.absolute() / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield Archive(folder, checkout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
