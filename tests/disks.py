"""Real file systems that are full when a test wants them to be."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MEGABYTE = 2**20


class SmallDisk:
    """A tmpfs of few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave so many bytes, in whole pages, and no more; whoever else writes meanwhile may take what was free."""
        with suppress(OSError), self._ballast.open("ab") as ballast:
            ballast.write(bytes(max(0, self.free_bytes - leave_bytes)))

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def mount_small_disk(folder: Path, megabytes: int = 24) -> Iterator[SmallDisk]:
    """Mount one on a new folder; skips the test where this process may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.splitlines()[0]}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
