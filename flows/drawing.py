"""The picture of a flow, drawn from its code: which task follows which, and what is handed from one to the other.

python -m flows.drawing README.md docs/operations.md      draw the nightly anew in these pages
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import Flow, Task

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
    return "\n".join(["flowchart TD", *_draw_steps(drawn.fn.__name__, tasks, functions, indent="    ")]) + "\n"


def _draw_steps(function: str, tasks: Tasks, functions: Functions, indent: str) -> Iterator[str]:
    """The boxes of what a function runs, and the lines between them."""
    steps = list(find_steps(functions[function], tasks))
    for step in steps:
        told = tasks[step.name].name
        told += f": for {step.each}" if step.each else ""
        told += f"<br>if {step.when}" if step.when else ""
        if step.name in functions and any(find_steps(functions[step.name], tasks)):
            yield f'{indent}subgraph {step.name}["{told}"]'
            yield from _draw_steps(step.name, tasks, functions, indent + "    ")
            yield f"{indent}end"
        else:
            yield f'{indent}{step.name}["{told}"]'
    for index, step in enumerate(steps[1:], 1):
        before = steps[index - 1]
        yield f"{indent}{before.name} -->{_label(before, step)} {step.name}"
        for giver in steps[: index - 1]:
            if label := _label(giver, step):
                yield f"{indent}{giver.name} -->{label} {step.name}"


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
        around = replace(around, when=ast.unparse(node.test))
    if isinstance(node, ast.ListComp | ast.For):
        loop = node.generators[0] if isinstance(node, ast.ListComp) else node
        around = replace(around, each=f"{ast.unparse(loop.target).strip('()')} in {ast.unparse(loop.iter)}")
    if isinstance(node, ast.Call):
        named = [part.id for part in (node.func, *node.args) if isinstance(part, ast.Name)]
        for name in [name for name in named if name in tasks][:1]:
            yield replace(around, name=name, takes=tuple(named))
    for child in ast.iter_child_nodes(node):
        yield from find_steps(child, tasks, around)


def redraw(page: Path, picture: str) -> None:
    """Put a picture in the place of the one that a page has.

    Raises:
        UsageError: it has none.
    """
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise UsageError(f"{page} has no ```mermaid block to draw into; write an empty one where it is to be")
    page.write_text(BLOCK.sub(lambda _: picture, text, count=1), encoding="utf-8")


def main(pages: Sequence[str]) -> None:
    """Draw the nightly anew in some pages."""
    from flows.nightly import nightly

    for page in pages:
        redraw(Path(page), draw_flow(nightly))


if __name__ == "__main__":
    main(sys.argv[1:])
