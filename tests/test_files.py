"""Files of alerts: whole lines and whole files, whatever happens while they are written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from letterboxes import make_letter

from tasks.channels.files import JsonLinesChannel, refuse_unwritable, write_whole
from tasks.errors import ChannelError, UsageError

WRITE_WITH_LITTLE_SPACE = """
import resource, signal, sys
from pathlib import Path
from tasks.channels.files import JsonLinesChannel
from tasks.errors import ChannelError
from tasks.channels.letters import Letter
from datetime import datetime
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    JsonLinesChannel(Path(sys.argv[1])).send(Letter("a", "json", "x" * 990, datetime.now()))
except ChannelError as error:
    print(error)
"""


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_alert_is_a_line_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "new" / "alerts.json"
    for name in ("a-1", "b-2"):
        JsonLinesChannel(path).send(make_letter("json", incident_id=name))
    assert [line["incident_id"] for line in lines_of(path)] == ["a-1", "b-2"]
    assert {"alert_id", "kind", "headline", "causes", "series", "run_id"} <= set(lines_of(path)[0])


def test_a_line_that_was_torn_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    path.write_text('{"incident_id": "torn", "head')
    JsonLinesChannel(path).send(make_letter("json"))
    torn, whole = path.read_text().splitlines()
    assert (torn, json.loads(whole)["incident_id"]) == ('{"incident_id": "torn", "head', "slow-3f9a1c")


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    path.write_text("y" * 99 + "\n")
    command = [sys.executable, "-c", WRITE_WITH_LITTLE_SPACE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write {path}: File too large; see --alert-json\n"
    assert path.read_text() == "y" * 99 + "\n"


def test_a_pipe_gets_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        JsonLinesChannel(path).send(make_letter("json"))
        assert json.loads(os.read(reader, 100_000))["incident_id"] == "slow-3f9a1c"
    finally:
        os.close(reader)


@pytest.mark.parametrize("path", ["file/alerts.json", "folder"])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ChannelError, match=r"^cannot write [^\n]+: [^\n]+; see --alert-json$"):
        JsonLinesChannel(tmp_path / path).send(make_letter("json"))
    with pytest.raises(ChannelError, match=r"^cannot write [^\n]+: [^\n]+; see --alert-junit$"):
        write_whole(tmp_path / path, "text", "--alert-junit")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("path", ["file/x.md", "file/below/x.md", "folder", "/proc/nope/x.md"])
def test_a_file_that_could_not_be_written_is_refused_before_it_is_needed(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=rf"^cannot write .*{path}: .*; give --markdown another file$"):
        refuse_unwritable(tmp_path / path, "--markdown")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_that_can_be_written_is_not_made_yet(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("old")
    for path in (None, tmp_path / "there.md", tmp_path / "new" / "folder" / "x.md"):
        refuse_unwritable(path, "--markdown")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def test_a_file_is_replaced_at_once_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "ci" / "night.md"
    write_whole(path, "old", "--alert-markdown")
    before = path.open()
    write_whole(path, "n\N{LATIN SMALL LETTER E WITH ACUTE}w", "--alert-markdown")
    with before:
        assert before.read() == "old"
    assert path.read_bytes() == b"n\xc3\xa9w"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert list(path.parent.iterdir()) == [path]
