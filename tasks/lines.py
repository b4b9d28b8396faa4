"""Lines on a console: whole, however narrow it is, and as they are, whatever they hold."""

from rich.console import Console
from rich.text import Text

from tasks.records import State

STYLES = {State.SLOW: "red", State.WRONG: "red", State.FAILED: "red", State.MISSING: "yellow", State.FAST: "green"}
"""Of what is told of a state; the others have none."""


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print a line, above a progress bar if there is one; nothing in it is markup, an emoji or colored by itself."""
    console.print(Text(line, style), soft_wrap=True)
