"""What `show` prints of a run's sets of configurations."""

from dataclasses import replace
from io import StringIO

from nights import make_night
from rich.console import Console
from test_listed import LISTED

from flows.report import print_report
from flows.tuned import MOST_SETS, print_sets
from tasks.tuning.listed import ListedSet


def show(sets: tuple[ListedSet, ...], width: int = 160) -> str:
    stream = StringIO()
    print_sets(Console(file=stream, width=width), sets)
    return stream.getvalue()


def test_what_is_not_fresh_is_told_with_its_cost_and_why() -> None:
    told = show(LISTED)
    rows = [line for line in told.splitlines() if " of fused_moe E=" in line]
    assert [row.split()[0] for row in rows] == ["stale", "missing"]
    assert "1.5" in rows[0].split()
    assert "Triton was 3.6.0 and is 3.7.1; the default beats it" in rows[0]
    assert told.endswith("sets: 1 fresh, 1 stale, 0 unknown, 1 missing\n")


def test_a_long_list_is_cut_and_none_is_no_line() -> None:
    many = show(LISTED[:1] * (MOST_SETS + 3), width=300)
    assert many.count("stale  ") == MOST_SETS
    assert "and 3 more, which the site has" in many
    assert show(()) == ""
    assert "us lost" not in show(LISTED[2:])


def test_it_is_a_part_of_the_report_of_a_run() -> None:
    stream = StringIO()
    night = replace(make_night(1), measurements=(), tuned_sets=LISTED)
    print_report(Console(file=stream, width=160), night)
    assert show(LISTED) in stream.getvalue()
