"""The code of past commits at hand, out of the git repository that this code is a checkout of."""

import re
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.provenance import CHECKOUT

PACKAGES = ("kernels", "tasks")
"""What a worker imports of ours."""
COMMIT = re.compile(r"[0-9a-f]{7,64}")


class Archive:
    """Folders with the packages of past commits, each unpacked when it is first asked for. Any thread may ask."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self._folder = folder
        self._checkout = checkout
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Path | None, str]] = {}

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
        command = ["git", "-C", str(self._checkout), "archive", "--format=zip", f"--output={packed}", commit, *PACKAGES]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None, "git is not installed: no past commit is at hand"
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["git archive failed"])[-1]
            return None, f"commit {commit[:12]} is not at hand: {told}"
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        packed.unlink()
        return folder, ""


@contextmanager
def open_archive(checkout: Path = CHECKOUT) -> Iterator[Archive]:
    """Past commits in a temporary folder. The repository is only read, and nothing is noted in it."""
    with tempfile.TemporaryDirectory(prefix="kernel-nightly-code-") as folder:
        yield Archive(Path(folder), checkout)
