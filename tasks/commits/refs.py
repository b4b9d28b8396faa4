"""Commits of the git repository that this code is a checkout of: by name, in order, and in words."""

import subprocess
from pathlib import Path

from tasks.checkout import CHECKOUT
from tasks.commits.archive import PACKAGES
from tasks.errors import UsageError

SHORT = 12
"""Digits of a commit that people read."""


def find_commit(ref: str, option: str, checkout: Path = CHECKOUT) -> str:
    """The full hash of a branch, a tag or a commit.

    Args:
        option: where the ref was given, for the message.
    Raises:
        UsageError: there is no such ref, or no repository.
    """
    found = _run(checkout, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode == 0:
        return found.stdout.strip()
    if found.stderr.strip():
        raise UsageError(f"{option} {ref!r} is not found: {found.stderr.strip().splitlines()[-1]}")
    raise UsageError(f"{option} {ref!r} is no branch, tag or commit here; see git branch --all, or git fetch it first")


def find_branch(checkout: Path = CHECKOUT) -> str:
    """The name of the branch that is checked out; "HEAD" where none is."""
    return _run(checkout, "rev-parse", "--abbrev-ref", "HEAD").stdout.strip() or "HEAD"


def have_same_code(one: str, other: str, checkout: Path = CHECKOUT) -> bool:
    """Whether nothing that is run differs between two commits."""
    return _run(checkout, "diff", "--quiet", one, other, "--", *PACKAGES).returncode == 0


def find_merge_base(base: str, head: str, checkout: Path = CHECKOUT) -> str:
    """The commit that two have in common; "" if there is none."""
    return _run(checkout, "merge-base", base, head).stdout.strip()


def list_commits(good: str, bad: str, checkout: Path = CHECKOUT) -> list[str]:
    """The commits after `good` up to `bad` that changed our packages, oldest first.

    Of a merge only the merge itself: what came in with it is one step of the line that `bad` stands at the end of.

    Raises:
        UsageError: `good` is not on that line, or runs the same code.
    """
    line = _run(checkout, "rev-list", "--first-parent", bad).stdout.split()
    if good not in line:
        common = next((commit for commit in line if commit == find_merge_base(good, bad, checkout)), "")
        hint = f"; --good {common[:SHORT]} is where they part" if common else ""
        raise UsageError(f"--good {good[:SHORT]} is not on the first-parent line of --bad {bad[:SHORT]}{hint}")
    if have_same_code(good, bad, checkout):
        told = f"--good {good[:SHORT]} and --bad {bad[:SHORT]} run the same code, nothing of {' and '.join(PACKAGES)}"
        raise UsageError(f"{told} differs; give commits from before and after the change")
    asked = ("rev-list", "--first-parent", "--reverse", f"{good}..{bad}", "--", *PACKAGES)
    return _run(checkout, *asked).stdout.split()


def tell_commit(commit: str, checkout: Path = CHECKOUT) -> str:
    """A commit's short hash and the first line of its message; of a tree its short hash."""
    told = _run(checkout, "log", "--max-count=1", "--format=%s", commit, "--").stdout.strip()
    return f"{commit[:SHORT]} {told}".strip()


def _run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("git is not installed: no branch or commit can be found") from error
