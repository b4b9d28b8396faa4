"""What happened to a series is told from its history: regimes, events, and the two sides of a change."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from records import make_points, make_series

from dashboards.series.chronicle import find_events, find_provenance, find_regimes, number_kinds, shorten
from dashboards.series.views import tell_command
from flows.arguments import make_parser, read_selection

from nights import make_histories  # isort: skip
from kernels.registry import find_kernel
from tasks.cases import Selection, plan_units, resolve_shapes
from tasks.histories import Histories, Setting
from tasks.history import Mark
from tasks.records import Run
from tasks.suites import SUITES

SERIES = make_series()
COMPILED = (
    '[{"name": "moe_kernel", "num_warps": 4, "registers": %d, "spill_bytes": 0, "shared_bytes": 1, "sha256": "%s"}]'
)


def make_story(medians_us: Sequence[float], settings: Sequence[int], known: Sequence[Setting]) -> Histories:
    """A history of one series, with a setting for each night."""
    made = make_histories({SERIES: make_points(medians_us)})
    history = replace(made.columns[SERIES], settings=np.array(settings))
    runs = tuple(replace(run, git_commit=f"{n:040x}") for n, run in enumerate(made.runs))
    host_id = next(iter(made.hosts))
    return Histories(runs, made.hosts, tuple(replace(one, host_id=host_id) for one in known), {SERIES: history})


def test_a_step_makes_two_regimes_and_a_quiet_history_one() -> None:
    us = [100.0 + 0.3 * math.sin(7 * night) + 6.0 * (night >= 40) for night in range(80)]
    first, second = find_regimes(make_histories({SERIES: make_points(us)}).columns[SERIES])
    assert (first.first, first.last, second.first, second.last) == (0, 39, 40, 79)
    assert round(second.relative_change or 0.0, 2) == 0.06
    assert [first.kind, second.kind] == ["", "step"]
    assert len(find_regimes(make_histories({SERIES: make_points(us[:40])}).columns[SERIES])) == 1
    assert len(find_regimes(make_histories({SERIES: make_points(us[:1])}).columns[SERIES])) == 1


def test_a_new_config_source_and_machine_code_are_events_and_people_too() -> None:
    before = Setting("", '{"BLOCK_SIZE_M": 64}', "a" * 64, COMPILED % (168, "c" * 64))
    after = Setting("", '{"BLOCK_SIZE_M": 128}', "b" * 64, COMPILED % (200, "d" * 64))
    histories = make_story([10.0] * 4, [0, 0, 1, 1], [before, after])
    mark = Mark(SERIES, "night-3", "night-3", "wanted", "Ada")
    events = find_events(histories.columns[SERIES], histories, number_kinds(histories), [mark])
    told = {event.kind: event for event in events}
    assert set(told) == {"config", "source", "machine", "acknowledged"}
    assert told["config"].what == "config BLOCK_SIZE_M 64 \N{RIGHTWARDS ARROW} 128"
    assert "commit 000000000000 \N{RIGHTWARDS ARROW} 000000000000" in told["source"].what
    assert "moe_kernel registers 168 \N{RIGHTWARDS ARROW} 200" in told["machine"].what
    assert (told["acknowledged"].row, told["acknowledged"].what) == (3, "wanted (Ada)")
    assert {event.row for event in events} == {2, 3}


def test_another_card_alone_is_no_event() -> None:
    made = make_histories({SERIES: make_points([10.0] * 3, ["GPU-a", "GPU-b", "GPU-a"])})
    assert find_events(made.columns[SERIES], made, number_kinds(made), []) == ()


def test_the_two_sides_of_a_change_are_told_with_what_is_the_same() -> None:
    us = [100.0 + 0.3 * math.sin(7 * night) + 6.0 * (night >= 40) for night in range(80)]
    known = [Setting("", '{"num_warps": 4}', "a" * 64), Setting("", '{"num_warps": 8}', "a" * 64)]
    histories = make_story(us, [0] * 40 + [1] * 40, known)
    history = histories.columns[SERIES]
    [side] = find_provenance(find_regimes(history), history, histories)
    assert (side.before, side.after) == ("night-39", "night-40")
    assert ("config num_warps", "4", "8") in side.differing
    assert {what for what, _, _ in side.differing} == {"commit", "config num_warps"}
    assert {"source", "triton", "driver"} <= set(side.same)


def test_digests_are_shortened_and_words_are_not() -> None:
    assert shorten("ab" * 20) == "abababababab"
    assert shorten("580.159.04") == "580.159.04"


def test_the_command_of_a_point_plans_that_point_alone() -> None:
    suite = SUITES["nightly"]
    chosen = Selection(models=("Mixtral-8x7B",), tp_sizes=(2,), kernels=("fused_moe",), schemes=("fp8_w8a8",))
    unit = plan_units(suite, resolve_shapes(suite, chosen), chosen, "cuda").units[0]
    case, provider = unit.cases[0], unit.providers[1]
    series = replace(SERIES, case_key=case.key, provider=provider, timer="graph")
    run = Run("r", "nightly", {}, 3, "", False, make_points([1.0])[0].started_at)
    defaults = {name: values[0] for name, values in find_kernel("fused_moe").options.items()}
    arguments = make_parser().parse_args(tell_command(run, case, series, defaults).split()[1:])
    selection = read_selection(arguments)
    units = plan_units(SUITES[arguments.suite], resolve_shapes(suite, selection), selection, "cuda").units
    assert [(c.key, u.providers, u.timers) for u in units for c in u.cases] == [(case.key, (provider,), ("graph",))]
    assert arguments.seed == 3
