"""Alerts on the console: one line each, and what else there is to say beneath it."""

from rich.console import Console

from tasks.channels.letters import Letter
from tasks.channels.messages import read_message
from tasks.judgement.incidents import Kind
from tasks.lines import STYLES, print_line
from tasks.records import State


class ConsoleChannel:
    """Prints alerts above the progress bar of a run."""

    name = "console"

    def __init__(self, console: Console) -> None:
        self._console = console

    def send(self, letter: Letter) -> None:
        """Print a letter."""
        message = read_message(letter)
        style = "green" if message.kind == Kind.RESOLVED else STYLES.get(State(message.state), "yellow")
        print_line(self._console, message.title, style)
        for line in message.details:
            print_line(self._console, f"  {line}", "dim")
