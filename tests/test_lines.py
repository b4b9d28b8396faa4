"""What others wrote (a commit's title, a file's keys, a model's folder) is printed as it is, wherever it is printed."""

import ast
import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from records import make_case, make_host
from rich.console import Console
from test_architecture import ROOT, SOURCES

from tasks.lines import print_line
from tasks.progress import RunProgress
from tasks.records import WorkUnit

STRANGE = "[silu] do it twice [/x] :bug: [link=file]"


@pytest.mark.parametrize("line", [STRANGE, "{'[/b]': {}}", "ends with \\", "[" + "a long line " * 30 + "]"])
@pytest.mark.parametrize("style", ["", "bold"])
def test_a_line_is_printed_whole_and_as_it_is(line: str, style: str) -> None:
    printed = io.StringIO()
    print_line(Console(file=printed, width=40), line, style)
    assert printed.getvalue() == f"{line}\n"


def test_only_what_is_asked_for_is_colored() -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=40, force_terminal=True, color_system="standard")
    print_line(console, "12 of 'x'")
    print_line(console, "12", "red")
    assert printed.getvalue() == "12 of 'x'\n\x1b[31m12\x1b[0m\n"


def test_the_bar_of_a_run_shows_a_strange_model_as_it_is() -> None:
    case = make_case()
    unit = WorkUnit(replace(case.layer, model=STRANGE), (case,), ("torch",), ("wall",))
    printed = io.StringIO()
    with RunProgress(Console(file=printed, width=200, force_terminal=True), {"a CPU": [unit]}) as progress:
        progress.begin_stage("verify", unit)
        progress.end_unit(unit, make_host().device.name, "1 ok")
    assert printed.getvalue().count(STRANGE) > 1


def list_prints() -> Iterator[tuple[str, str]]:
    """Where the four packages call a method `print`, and on what."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "print":
                yield str(path.relative_to(ROOT)), ast.unparse(node)


def test_lines_are_printed_in_one_place_and_elsewhere_only_tables() -> None:
    elsewhere = [(path, call) for path, call in list_prints() if path != "tasks/lines.py"]
    assert [found for found in elsewhere if "table" not in found[1]] == []
