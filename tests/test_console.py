"""An alert on the console: what happened in one line, why beneath it."""

import io

from letterboxes import make_alert, make_incident
from rich.console import Console

from tasks.channels.console import ConsoleChannel
from tasks.channels.messages import write_letter
from tasks.judgement.incidents import Alert, Kind
from tasks.records import State


def show(alert: Alert, *, colors: bool = False) -> str:
    printed = io.StringIO()
    console = Console(file=printed, width=60, force_terminal=colors, color_system="standard" if colors else None)
    ConsoleChannel(console).send(write_letter(alert, "console"))
    return printed.getvalue()


def test_an_alert_is_one_line_with_its_details_beneath_it_however_narrow_the_console() -> None:
    assert show(make_alert()).splitlines() == [
        "opened slow-3f9a1c: 3 series of fused_moe triton on NVIDIA H200: SLOW, +4.1% to +6.3%, since run run-7",
        "  changed with it: triton 3.6.0 -> 3.7.1; config of M=64",
        "  evidence: 11.9 us against 11.2 us (+6.3%), 12 earlier nights",
        "  told by: run run-9 of suite nightly",
    ]


def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    assert "[bold]x[/bold] [/nothing]" in show(make_alert(make_incident(evidence="[bold]x[/bold] [/nothing]")))


def test_a_regression_is_red_and_its_end_is_green() -> None:
    red, green, yellow = "\x1b[31m", "\x1b[32m", "\x1b[33m"
    assert show(make_alert(), colors=True).startswith(red)
    assert show(make_alert(kind=Kind.RESOLVED), colors=True).startswith(green)
    assert show(make_alert(make_incident(state=State.AMBIGUOUS)), colors=True).startswith(yellow)
