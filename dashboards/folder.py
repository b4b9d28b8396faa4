"""The folder of a site: what may be replaced, what is still as it was, and how the new one takes its place at once."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UsageError

Files = dict[str, bytes]
MANIFEST = "manifest.json"
"""Which page was drawn of what, and its files."""
NAMES = re.compile(
    r"(index|series|rooflines|kernel-[\w-]+)\.html|data-[\w-]+\.csv|(script|nights|series)\.js|style\.css|manifest\.json"
    r"|(series|compare|figures)/[\w-]+\.(html|png|svg)"
)
"""What a site calls its files; nothing else is ever removed."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, or several files that are drawn together."""

    path: str
    """Its name in the manifest, and of its main file."""
    digest: str
    """Of everything that it shows; drawn anew when that has changed. "" for what is cheaper to draw than to compare."""
    draw: Callable[[], Files]
    """What other processes may be asked to do."""


def refuse_foreign(folder: Path) -> None:
    """The old folder is removed later, so it must be empty or hold nothing but an older site.

    Raises:
        UsageError: it is a file, or holds something else; the message names it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"cannot write the site to {folder}: it is a file; choose a new or empty folder")
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    foreign = sorted(name for name in names if not NAMES.fullmatch(name))
    if foreign:
        raise UsageError(f"will not replace {folder}: it holds {foreign[0]!r}, no part of a site; choose a new folder")


def find_unchanged(pages: Iterable[Page], folder: Path) -> dict[str, list[str]]:
    """By path, the files of each page that the folder holds as it would be drawn."""
    known = read_manifest(folder)
    found = {}
    for page in pages:
        digest, files = known.get(page.path, ("", []))
        if page.digest and digest == page.digest and all((folder / name).is_file() for name in files):
            found[page.path] = files
    return found


def read_manifest(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """What is known of a folder; nothing of one that no site, or an older program, has written."""
    try:
        read = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {path: (str(entry["digest"]), [str(name) for name in entry["files"]]) for path, entry in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def swap_in(
    pages: Iterable[Page], drawn: Iterable[tuple[Page, Files]], unchanged: Mapping[str, list[str]], folder: Path
) -> None:
    """Write a new folder beside the old one and rename it; if that fails the old one is back in its place.

    Files that have not changed are linked, not copied, where the file system can.
    """
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{age}") for age in ("new", "old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        for place in ("series", "compare", "figures"):
            (new / place).mkdir(parents=True)
        for names in unchanged.values():
            for name in names:
                keep_file(folder / name, new / name)
        manifest = {path: list(names) for path, names in unchanged.items()}
        for page, files in drawn:
            for name, content in files.items():
                (new / name).write_bytes(content)
            manifest[page.path] = list(files)
        told = {page.path: {"digest": page.digest, "files": manifest[page.path]} for page in pages}
        (new / MANIFEST).write_text(json.dumps(told), encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def keep_file(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where that cannot be."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
