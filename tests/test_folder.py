"""A folder is drawn anew only where something has changed, by one process or by several."""

import os
from functools import partial
from pathlib import Path

import pytest

from dashboards.drawing import draw_pages
from dashboards.folder import MANIFEST, Files, Page, find_unchanged, keep_file, refuse_foreign, swap_in
from tasks.errors import UsageError


def draw(name: str, text: str) -> Files:
    return {f"series/{name}.html": text.encode(), "figures/who.png": str(os.getpid()).encode()}


def make_pages(**texts: str) -> list[Page]:
    return [Page(f"series/{name}.html", text, partial(draw, name, text)) for name, text in texts.items()]


def write(pages: list[Page], folder: Path) -> set[str]:
    """Which pages were drawn."""
    unchanged = find_unchanged(pages, folder)
    swap_in(pages, draw_pages([page for page in pages if page.path not in unchanged]), unchanged, folder)
    return {page.path for page in pages} - set(unchanged)


def test_only_what_has_changed_is_drawn_and_what_is_gone_goes(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    assert len(write(make_pages(one="a", two="b"), folder)) == 2
    assert write(make_pages(one="a", two="c"), folder) == {"series/two.html"}
    assert (folder / "series/one.html").read_text() == "a"
    assert write(make_pages(two="c"), folder) == set()
    assert not (folder / "series/one.html").exists()
    (folder / "series/two.html").unlink()
    assert write(make_pages(two="c"), folder) == {"series/two.html"}
    (folder / MANIFEST).write_text("[]")
    assert write(make_pages(two="c"), folder) == {"series/two.html"}
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_page_without_a_digest_is_drawn_every_time(tmp_path: Path) -> None:
    page = make_pages(one="")
    assert write(page, tmp_path / "site") == write(page, tmp_path / "site") == {"series/one.html"}


def test_other_files_are_refused_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"series/thesis\.tex"):
        refuse_foreign(tmp_path)


def test_a_file_is_kept_where_links_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    keep_file(tmp_path / "old", tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == (tmp_path / "old").stat().st_ino
    (tmp_path / "taken").write_text("in the way")
    keep_file(tmp_path / "old", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "kept"


def test_several_processes_draw_what_one_does() -> None:
    pages = [Page(f"series/{n}.html", "x", partial(os.path.join, "series", str(n))) for n in range(401)]  # type: ignore[arg-type]
    assert sorted(map(str, draw_pages(pages, num_cores=2))) == sorted(map(str, draw_pages(pages, num_cores=1)))
