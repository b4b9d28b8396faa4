"""Records cross to another version of the code by the names of their fields, or not at all."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import pytest
from records import make_measurement, make_trial

from kernels.spec import Case, Layer
from tasks.bench import Contender
from tasks.commits.committed import CommitBench, flatten, rebuild
from tasks.sampling import Reading, Readings

LAYER = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 256})


@pytest.mark.parametrize(
    "value",
    [
        Case(LAYER, 16, {"token_strategy": "uniform"}),
        [Contender("a", "torch", {"BLOCK": 16, "swap": True}), Contender("b", "torch")],
        make_measurement(relative_error=0.01).check,
        Readings({"torch": Reading((1.5, 2.5), (make_trial(),))}, {"copy": (5.0,)}, 1),
        (None, 1, 2.5, "text", datetime(2026, 1, 1, tzinfo=UTC), ((), [], {})),
    ],
    ids=["a case", "contenders", "a check", "readings", "plain values"],
)
def test_what_is_flattened_can_be_rebuilt(value: object) -> None:
    rebuilt = rebuild(flatten(value))
    assert rebuilt == value
    assert type(rebuilt) is type(value)
    assert repr(rebuilt) == repr(value)  # also what does not count for equality


def test_a_record_is_told_by_names_and_without_what_is_at_its_default() -> None:
    kind, module, name, fields = flatten(LAYER)
    assert (kind, module, name) == ("record", "kernels.spec", "Layer")
    assert "module" not in fields
    assert list(fields)[:2] == ["kernel", "model"]
    assert "options" not in flatten(Case(LAYER, 16))[3]


class Color(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Newer:
    """A record that has one field more than Older."""

    fresh: Mapping[str, int] = field(default_factory=dict)
    one: int = 1
    color: Color = Color.RED


@dataclass(frozen=True, slots=True)
class Older:
    """A record in an older version."""

    one: int = 1


def as_older(flat: tuple) -> tuple:
    """As if the class were called so there."""
    kind, module, _, fields = flat
    return kind, module, "Older", fields


def test_a_field_that_is_new_is_not_told_at_its_default_and_refused_otherwise() -> None:
    assert rebuild(as_older(flatten(Newer(one=5)))) == Older(5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'fresh'"):
        rebuild(as_older(flatten(Newer({"a": 1}))))


def test_a_class_that_is_not_there_is_refused() -> None:
    for module, name, error in (("tasks.records", "Gone", AttributeError), ("tasks.gone", "Gone", ImportError)):
        with pytest.raises(error, match=r"[Gg]one"):
            rebuild(("record", module, name, {}))
    with pytest.raises(ValueError, match="'blue' is not a valid"):
        rebuild(("enum", Color.__module__, "Color", "blue"))


def test_code_of_another_folder_than_the_processes_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no code; ours was imported before
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ImportError, match=rf"bench\.py was imported, not that of {tmp_path}$"):
        CommitBench("cpu")
