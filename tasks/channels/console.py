"""Alerts on the console: one line each, and what else there is to say beneath it."""

from rich.console import Console
from rich.text import Text

from tasks.incidents import Kind
from tasks.letters import Letter
from tasks.messages import read_message
from tasks.records import State

STYLES = {State.SLOW: "red", State.WRONG: "red", State.FAILED: "red", State.MISSING: "yellow", State.FAST: "green"}
"""Of the first line, unless the incident is over."""


class ConsoleChannel:
    """Prints alerts above the progress bar of a run."""

    name = "console"

    def __init__(self, console: Console) -> None:
        self._console = console

    def send(self, letter: Letter) -> None:
        """Print a letter."""
        message = read_message(letter)
        style = "green" if message.kind == Kind.RESOLVED else STYLES.get(State(message.state), "yellow")
        told = Text(message.title, style)
        told.append("".join(f"\n  {line}" for line in message.details), "dim")
        self._console.print(told, soft_wrap=True, highlight=False)
