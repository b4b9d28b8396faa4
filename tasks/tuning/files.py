"""vLLM's files of tuned configurations, listed and written; kernels/moe/vllm_config_files.py reads them."""

import json
import os
from dataclasses import replace
from pathlib import Path

from kernels.moe.vllm_config_files import (
    FLYDSL_VALUES,
    TRITON_VALUES,
    Config,
    ConfigFile,
    Reading,
    parse_config_file,
    read_config_file,
)
from tasks.errors import TunedFileError

PLACES = {name: place for place, name in enumerate((*TRITON_VALUES, *FLYDSL_VALUES))}
"""Where a name stands in an entry that vLLM's tuner writes."""


def list_config_files(folder: Path) -> list[Reading]:
    """Every JSON file of a folder, read, in the order of their names.

    Raises:
        TunedFileError: the folder cannot be listed.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise TunedFileError(f"cannot list {folder}: {error.strerror}; give a folder of tuned configurations") from None
    return [read_config_file(path) for path in paths]


def find_entry(file: ConfigFile, batch_size: int) -> Config:
    """The entry that vLLM takes of a file that has any."""
    return file.configs[find_place(file, batch_size)]


def find_place(file: ConfigFile, batch_size: int) -> int:
    """The batch size of that entry: the nearest, of two the one that the file has first."""
    return min(file.configs, key=lambda size: abs(size - batch_size))


def format_config_file(file: ConfigFile) -> str:
    """The text as vLLM's tuner writes it: triton_version first, batch sizes ascending, indented by 4."""
    version = {"triton_version": file.triton_version} if file.triton_version else {}
    entries = {str(size): sort_config(file.configs[size]) for size in sorted(file.configs)}
    return json.dumps({**version, **entries}, indent=4) + "\n"


def sort_config(config: Config) -> dict[str, int]:
    """The entry in the order of vLLM's tuner; names that it does not have come last."""
    return {name: config[name] for name in sorted(config, key=lambda name: (PLACES.get(name, len(PLACES)), name))}


def write_config_file(folder: Path, file: ConfigFile) -> Path:
    """Write the file whole, under its name, into a folder that is made if it is not there.

    Entries of an older file for other batch sizes stay. The version is the new one's: a file has but one.

    Returns:
        Where it is.
    Raises:
        TunedFileError: vLLM could not use what is to be written, the older file is broken, which is left as it is,
            or the disk refuses.
    """
    path = folder / file.key.file_name
    try:
        if path.exists():
            file = replace(file, configs={**read_older(path).configs, **file.configs})
        text = format_config_file(file)
        faults = parse_config_file(path, text).faults
        if faults:
            raise TunedFileError(f"not written: {faults[0].line}; vLLM could not use it")
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(path, text)
    except OSError as error:
        raise TunedFileError(f"cannot write {path}: {error.strerror}; give another --save-dir") from None
    return path


def read_older(path: Path) -> ConfigFile:
    """A file that is to be merged with.

    Raises:
        TunedFileError: it is broken, and left as it is.
    """
    reading = read_config_file(path)
    if reading.file is None or reading.faults:
        raise TunedFileError(f"not overwritten: {reading.faults[0].line}; correct or remove it, then write again")
    return reading.file


def _write_whole(path: Path, text: str) -> None:
    """Replace the file at once: after a crash there is the old one or the new one, on the disk and not on its way."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
