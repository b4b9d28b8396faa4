"""The sets of launch configurations that a run has listed, as a person reads them in a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.lines import print_line
from tasks.tuning.listed import ListedSet, tell_states

MOST_SETS = 20
"""Of more, those that cost most; the site has all."""


def print_sets(console: Console, sets: tuple[ListedSet, ...]) -> None:
    """Print how many sets there are of each state, and those that are not fresh; nothing for a run that listed none."""
    if not sets:
        return
    print_line(console, "\ntuned configurations", "bold")
    told = [listed for listed in sets if not listed.is_fresh]
    if told:
        console.print(make_set_table(told[:MOST_SETS]))
    if len(told) > MOST_SETS:
        print_line(console, f"  and {len(told) - MOST_SETS} more, which the site has", "dim")
    print_line(console, f"sets: {tell_states([listed.state for listed in sets])}")


def make_set_table(sets: list[ListedSet]) -> Table:
    """One row per set, what costs most first."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("state", no_wrap=True)
    table.add_column("us lost", justify="right", no_wrap=True)
    for column in ("set", "why"):
        table.add_column(column, overflow="fold")
    for listed in sets:
        lost = f"{listed.lost_us:.1f}" if listed.lost_us else ""
        table.add_row(listed.state, lost, escape(listed.key.label), escape("; ".join(listed.reasons)))
    return table
