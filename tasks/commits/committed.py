"""The Bench of another commit, and the plain values it is spoken to in.

This file is sent by value to processes whose packages `kernels` and `tasks` are another commit's, so it imports nothing
of ours. Records cross as their class's name and their fields by name, never as pickles: a pickle of a frozen dataclass
with slots is a list of values, which another version of the class would take for other fields without a word. Fields at
their default stay at home, so that a field that is new keeps no older code from answering; any other difference raises.
"""

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any


def flatten(value: Any) -> Any:
    """A value as tuples of plain values, the first of which says how to rebuild it."""
    if is_dataclass(value) and not isinstance(value, type):
        given = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        told = {entry.name: flatten(given[entry.name]) for entry in fields(value) if not at_default(entry, given)}
        return ("record", type(value).__module__, type(value).__name__, told)
    if isinstance(value, Enum):
        return ("enum", type(value).__module__, type(value).__name__, value.value)
    if isinstance(value, Mapping):
        return ("mapping", [(flatten(key), flatten(entry)) for key, entry in value.items()])
    if isinstance(value, tuple):
        return ("tuple", [flatten(entry) for entry in value])
    if isinstance(value, list):
        return ("list", [flatten(entry) for entry in value])
    return ("plain", value)


def at_default(entry: "Field[Any]", given: Mapping[str, Any]) -> bool:
    """Whether a field has the value it would have if it were not given."""
    missing = dataclasses.MISSING  # out of its module, since one that was sent by value would be another
    if entry.default_factory is not missing:
        return bool(given[entry.name] == entry.default_factory())
    return entry.default is not missing and bool(given[entry.name] == entry.default)


def rebuild(flat: Any) -> Any:
    """The value that was flattened, of the classes that have the same names here.

    Raises:
        ImportError, AttributeError, TypeError, ValueError: there is no such class, or it has other fields or values.
    """
    kind, *rest = flat
    match kind:
        case "record":
            module, name, told = rest
            made = getattr(importlib.import_module(module), name)
            return made(**{field: rebuild(value) for field, value in told.items()})
        case "enum":
            module, name, value = rest
            return getattr(importlib.import_module(module), name)(value)
        case "mapping":
            return {rebuild(key): rebuild(value) for key, value in rest[0]}
        case "tuple":
            return tuple(rebuild(value) for value in rest[0])
        case "list":
            return [rebuild(value) for value in rest[0]]
    return rest[0]


class CommitBench:
    """The Bench of the packages in the folder that the process was started in."""

    def __init__(self, device_type: str) -> None:
        folder = Path.cwd()
        sys.path.insert(0, str(folder))  # Ray puts the folder of the command before it
        module = importlib.import_module("tasks.bench")
        found = Path(str(module.__file__)).resolve()
        if not found.is_relative_to(folder.resolve()):
            raise ImportError(f"{found} was imported, not that of {folder}")
        self._bench: Any = module.Bench(device_type)

    def answer(self, method: str, arguments: Any) -> Any:
        """What a method of the Bench returns; both ways as `flatten` makes it."""
        return flatten(getattr(self._bench, method)(*rebuild(arguments)))

    def find_device(self) -> tuple[str, str]:
        """Name and UUID of the device that it is on."""
        host = self._bench.host()
        return host.device.name, host.device_uuid
