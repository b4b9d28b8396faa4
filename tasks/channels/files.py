"""Alerts and summaries in files: each write is whole or not at all."""

import errno
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.channels.letters import Letter
from tasks.errors import ChannelError, UsageError


@dataclass(frozen=True, slots=True)
class AlertFiles:
    """Files that a run is asked to write its alerts and summaries to; None where it is not."""

    __pydantic_config__: ClassVar = {"use_attribute_docstrings": True}  # they describe the fields of Prefect's form

    json: Path | None = None
    """Gets one line per alert, a JSON object."""
    junit: Path | None = None
    """Becomes the night as JUnit XML."""
    markdown: Path | None = None
    """Becomes the night as GitHub-flavoured Markdown."""


class JsonLinesChannel:
    """Appends each alert to a file, one JSON object a line.

    A script can follow the file, or pick a run by its run_id; nothing in it is overwritten by a later night, and an
    alert that could not be written then is appended by the next run. One that is there twice has one alert_id.
    """

    name = "json"

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, letter: Letter) -> None:
        """Append a letter's body; a line that does not fit on the disk is taken back."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _append_line(handle, letter.body)
            finally:
                os.close(handle)
        except OSError as error:
            raise ChannelError(f"cannot write {self._path}: {error.strerror}; see --alert-json") from None


def refuse_unwritable(path: Path | None, option: str) -> None:
    """Raise before anything is measured for a file that could not be written then; leaves nothing behind.

    Raises:
        UsageError: it cannot be written; names the option that asks for it.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(above for above in path.absolute().parents if above.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give {option} another file") from None


def write_whole(path: Path, text: str, option: str) -> None:
    """Replace a file by a text at once, making its folder; whoever reads it finds the old one or the new one.

    Raises:
        ChannelError: it cannot be written; names the option that asked for it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ChannelError(f"cannot write {path}: {error.strerror}; see {option}") from None


def _append_line(handle: int, line: str) -> None:
    """Append a line to an open file, whole, after whatever an interrupted writer has left; a pipe just gets it."""
    state = os.fstat(handle)
    is_file = stat.S_ISREG(state.st_mode)
    is_torn = is_file and state.st_size > 0 and os.pread(handle, 1, state.st_size - 1) != b"\n"
    data = ("\n" * is_torn + line + "\n").encode()
    try:
        while data:
            data = data[os.write(handle, data) :]
        if is_file:
            os.fsync(handle)
    except OSError:
        if is_file:
            os.ftruncate(handle, state.st_size)
        raise
