"""The table of seconds against the made-up seconds."""

import re
from dataclasses import replace
from io import StringIO

import pytest
from nights import COST_SECONDS, make_night
from rich.console import Console

from flows.costs import find_busy_share, make_cost_table
from tasks.nights import Night
from tasks.records import UnitCost


def print_costs(night: Night) -> list[list[str]]:
    """Cells of every row, the heading first."""
    stream = StringIO()
    Console(file=stream, width=300).print(make_cost_table(night))
    return [re.split(r"\s{2,}", line.strip()) for line in stream.getvalue().splitlines() if line.strip(" \u2500")]


def test_every_unit_has_a_row_the_longest_first_and_all_have_one_together() -> None:
    night = make_night(1)
    first, longest, third = night.costs
    seconds = {**COST_SECONDS, "total": 60.0, "time": 10.0}
    heading, *rows, together = print_costs(replace(night, costs=(first, replace(longest, seconds=seconds), third)))
    assert heading[:5] == ["unit", "total", "weights", "verify", "time"]
    assert rows[0][:2] == ['fused_moe <script>alert("x")</script> & $co TP2 fp8_block', "60.00"]
    assert [row[1] for row in rows] == ["60.00", "11.50", "11.50"]
    assert together[:5] == ["all 3 units", "83.00", "4.50", "18.00", "18.00"]
    assert [row[-1] for row in (*rows, together)] == ["33%", "82%", "82%", "55%"]


def test_layers_of_a_grid_are_told_apart_by_their_sizes() -> None:
    rows = print_costs(make_night(1))
    assert "silu_mul_fp8 grid fp8_group128 num_experts=32,hidden_size=7168" in [row[0] for row in rows]


def test_several_machines_have_a_column() -> None:
    night = make_night(1)
    here, there, _ = night.costs
    heading, *rows = print_costs(replace(night, costs=(here, replace(there, host_id="another host"))))
    assert heading[1] == "machine"
    assert {row[1] for row in rows[:2]} == {"NVIDIA H200", "another host"}


def test_what_was_not_noted_stays_empty() -> None:
    lost = UnitCost("run-3", "a layer that is gone", "host", {"generate weights": 1.0, "total": 1.0})
    _, row, _ = print_costs(replace(make_night(1), costs=(lost,)))
    assert row == ["a layer that is gone", "1.00", "1.00", "0.00"]


def test_the_busy_share_is_of_the_time_stage() -> None:
    assert find_busy_share({"time": 4.0, "kernels": 3.3}) == pytest.approx(0.825)
    assert find_busy_share({"verify": 4.0}) is None
