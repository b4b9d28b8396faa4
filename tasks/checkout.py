"""The git checkout that this code is: where it is, its commit, and whether it was edited."""

import os
import subprocess
from pathlib import Path

COMMIT_VARIABLE = "KERNEL_NIGHTLY_COMMIT"
CHECKOUT = Path(__file__).resolve().parent.parent


def read_git_state(checkout: Path = CHECKOUT) -> tuple[str, bool]:
    """Commit hash and whether tracked files differ from it.

    Outside a checkout (a copy on an offline GPU host) the environment may name the commit; else it is ("", False).
    """
    commit = _git(checkout, "rev-parse", "HEAD")
    if not commit:
        return os.environ.get(COMMIT_VARIABLE, ""), False
    return commit, bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))


def _git(checkout: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
