"""The picture of a flow: it follows the code, and README and the operations page show the one of today's code."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from flows.drawing import BLOCK, draw_flow, main
from flows.nightly import nightly

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "operations.md")
SOURCE = """
from prefect import flow, task

@task(name="find it")
def find(name): ...

@task
def use(found, why): ...

@task(name="both")
def both(each):
    first = find(each)
    use(first, None)

@flow
def made_up(names, wanted):
    found = find(names)
    futures = [both.submit(name) for name in names]
    if wanted:
        use(found, futures)
    elif names or found:
        if use(found, None):
            find(futures)
    else:
        use(futures, None)
"""


def test_boxes_frames_loops_conditions_and_what_is_handed_over_come_out_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "made_up_flow.py"
    path.write_text(SOURCE.replace("both.submit(name)", "attempt(both, name)"))
    spec = importlib.util.spec_from_file_location("made_up_flow", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "made_up_flow", module)  # where `inspect` looks for its source
    spec.loader.exec_module(module)
    assert draw_flow(module.made_up).splitlines() == [
        "flowchart TD",
        '    find["find it"]',
        '    subgraph both["both: for name in names"]',
        '        find_3["find it"]',
        '        use_4["use"]',
        "        find_3 -->|first| use_4",
        "    end",
        '    use["use<br>if wanted"]',
        '    use_2["use<br>if not wanted and (names or found)"]',
        '    find_2["find it<br>if (not wanted and (names or found)) and use(found, None)"]',
        '    use_3["use<br>if not wanted and (not (names or found))"]',
        "    find --> both",
        "    both -->|futures| use",
        "    find -->|found| use",
        "    use --> use_2",
        "    find -->|found| use_2",
        "    use_2 --> find_2",
        "    both -->|futures| find_2",
        "    find_2 --> use_3",
        "    both -->|futures| use_3",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_shows_the_nightly_of_the_code(page: Path) -> None:
    shown = BLOCK.findall(page.read_text())
    assert shown == [draw_flow(nightly)], "the nightly has changed: make drawing"


def test_every_task_of_the_nightly_is_in_its_picture() -> None:
    source = (ROOT / "flows" / "nightly.py").read_text()
    imported = re.search(r"from tasks\.stages import \((.*?)\)", source, re.DOTALL)
    assert imported
    own = re.findall(r"^@task\(.*\)\ndef (\w+)", source, re.MULTILINE)
    boxes = re.findall(r'^ +(?:subgraph )?(\w+)\["', draw_flow(nightly), re.MULTILINE)
    assert sorted(boxes) == sorted([*re.findall(r"\w+", imported[1]), *own])


def test_one_command_draws_it_anew_and_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Before\n\n```mermaid\nflowchart TD\n    old\n```\n\nAfter \\1.\n")
    main([str(page)])
    assert page.read_text() == f"# Before\n\n```mermaid\n{draw_flow(nightly)}```\n\nAfter \\1.\n"


@pytest.mark.parametrize(
    ("page", "told"), [("page.md", r"page\.md has no ```mermaid block"), ("gone.md", r"gone\.md: .*No such file")]
)
def test_a_page_that_cannot_be_drawn_into_is_refused_in_one_line(
    page: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("# Nothing to see\n")
    assert main([str(tmp_path / page)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"flows\.drawing: .*{told}[^\n]*\n", printed.err)


def test_the_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "PAGE" in capsys.readouterr().out
