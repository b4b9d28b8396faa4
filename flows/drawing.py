"""The picture of a flow, drawn from its code: which task follows which, and what is handed from one to the other.

python -m flows.drawing README.md docs/operations.md      draw the nightly anew in these pages
"""

import argparse
import ast
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import Flow, Task

from kernels.errors import BenchmarkError
from tasks.errors import UsageError

BLOCK = re.compile(r"(?<=^```mermaid\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
"""What stands between the fences of a page's picture."""


@dataclass(frozen=True, slots=True)
class Step:
    """A task where a flow, or another task, runs it."""

    name: str = ""
    """Of its function."""
    takes: tuple[str, ...] = ()
    """Variables among its arguments."""
    gives: str = ""
    """The variable that its result becomes."""
    when: str = ""
    """The condition under which it runs, as the code spells it; "" is always."""
    each: str = ""
    """The loop that it runs in, as the code spells it; "" is once."""


Tasks = Mapping[str, Task[..., Any]]
"""By the name of their function, the tasks that a module knows."""
Functions = Mapping[str, ast.FunctionDef]


def draw_flow(drawn: Flow[..., Any]) -> str:
    """A flow as a flowchart of Mermaid: a box per task, a frame around the tasks that a task runs.

    A line with a name hands over what the name stands for; one without is only the order. What is neither is in the
    database.
    """
    module = inspect.getmodule(drawn.fn)
    tasks = {name: value for name, value in vars(module).items() if isinstance(value, Task)}
    tree = ast.parse(inspect.getsource(module)) if module else ast.Module([], [])
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    lines = _draw_steps(drawn.fn.__name__, tasks, functions, Counter(), indent="    ")
    return "\n".join(["flowchart TD", *lines]) + "\n"


def _draw_steps(function: str, tasks: Tasks, functions: Functions, uses: Counter[str], indent: str) -> Iterator[str]:
    """The boxes of what a function runs, and the lines between them.

    Args:
        uses: of each task so far, counted on here: one that is used again is another box.
    """
    steps = list(find_steps(functions[function], tasks))
    boxes = [_name_box(step.name, uses) for step in steps]
    for step, box in zip(steps, boxes, strict=True):
        told = tasks[step.name].name
        told += f": for {step.each}" if step.each else ""
        told += f"<br>if {step.when}" if step.when else ""
        if step.name in functions and any(find_steps(functions[step.name], tasks)):
            yield f'{indent}subgraph {box}["{told}"]'
            yield from _draw_steps(step.name, tasks, functions, uses, indent + "    ")
            yield f"{indent}end"
        else:
            yield f'{indent}{box}["{told}"]'
    for index, step in enumerate(steps[1:], 1):
        yield f"{indent}{boxes[index - 1]} -->{_label(steps[index - 1], step)} {boxes[index]}"
        for giver, box in zip(steps[: index - 1], boxes, strict=False):
            if label := _label(giver, step):
                yield f"{indent}{box} -->{label} {boxes[index]}"


def _name_box(task: str, uses: Counter[str]) -> str:
    """A name of its own for each use of a task: Mermaid draws boxes of one name as one."""
    uses[task] += 1
    return task if uses[task] == 1 else f"{task}_{uses[task]}"


def _label(giver: Step, taker: Step) -> str:
    """What one step hands to another, as Mermaid writes it on a line."""
    return f"|{giver.gives}|" if giver.gives and giver.gives in taker.takes else ""


def find_steps(node: ast.AST, tasks: Tasks, around: Step | None = None) -> Iterator[Step]:
    """Every call of a task, or with a task among its arguments, in the order of the code.

    Args:
        around: what is known of a step from the code around the node.
    """
    around = around or Step()
    if isinstance(node, ast.Assign):
        around = replace(around, gives=ast.unparse(node.targets[0]))
    if isinstance(node, ast.If):
        otherwise = ast.UnaryOp(ast.Not(), node.test)
        yield from find_steps(node.test, tasks, around)
        for test, branch in ((node.test, node.body), (otherwise, node.orelse)):
            for statement in branch:
                yield from find_steps(statement, tasks, replace(around, when=_join_conditions(around.when, test)))
        return
    if isinstance(node, ast.ListComp | ast.For):
        loop = node.generators[0] if isinstance(node, ast.ListComp) else node
        around = replace(around, each=f"{ast.unparse(loop.target).strip('()')} in {ast.unparse(loop.iter)}")
    if isinstance(node, ast.Call):
        named = [part.id for part in (node.func, *node.args) if isinstance(part, ast.Name)]
        for name in [name for name in named if name in tasks][:1]:
            yield replace(around, name=name, takes=tuple(named))
    for child in ast.iter_child_nodes(node):
        yield from find_steps(child, tasks, around)


def _join_conditions(when: str, test: ast.expr) -> str:
    """That both hold, as the code would spell it."""
    return ast.unparse(ast.BoolOp(ast.And(), [ast.parse(when, mode="eval").body, test]) if when else test)


def redraw(page: Path, picture: str) -> None:
    """Put a picture in the place of the one that a page has.

    Raises:
        UsageError: it has none, or cannot be read or written.
    """
    try:
        text = page.read_text(encoding="utf-8")
        if not BLOCK.search(text):
            raise UsageError(f"{page} has no ```mermaid block to draw into; write an empty one where it is to be")
        page.write_text(BLOCK.sub(lambda _: picture, text, count=1), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot draw into {page}: {told}; name a Markdown file") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the nightly anew in some pages; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m flows.drawing", description="Draw the nightly, as its code is, in pages."
    )
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE", help="a Markdown file with a picture in it")
    pages = parser.parse_args(argv).pages
    from flows.nightly import nightly

    try:
        for page in pages:
            redraw(page, draw_flow(nightly))
    except BenchmarkError as error:
        sys.stderr.write(f"flows.drawing: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
