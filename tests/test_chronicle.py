"""What happened to a series is told from its history: regimes, events, and the two sides of a change."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from records import make_case, make_measurement, make_points, make_run, make_series, make_unit, make_verdict

from dashboards.arrangement import arrange_night
from dashboards.series.chronicle import find_events, find_provenance, find_regimes, number_kinds, shorten
from dashboards.series.render import render_series
from dashboards.series.views import find_model, list_views, make_background, tell_command
from flows.arguments import make_parser, read_selection

from nights import make_histories  # isort: skip
from kernels.registry import find_kernel
from tasks.judgement.histories import Histories, Setting
from tasks.judgement.history import Mark
from tasks.planning.cases import Selection, plan_units, resolve_shapes
from tasks.planning.suites import SUITES
from tasks.records import Run, State
from tasks.storage.store import Store

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


def test_the_command_names_the_folder_that_a_model_was_read_from_and_what_it_takes_to_read_it() -> None:
    asked = {"models": ["Mixtral-8x7B", "./mine/OLMo"], "trust_remote_code": True, "model_prefix": "text_config"}
    words = tell_command(make_run(arguments=asked), make_case(model="OLMo"), SERIES, {}).split()
    assert words[words.index("--model") + 1] == "./mine/OLMo"
    assert words[words.index("--model-prefix") + 1] == "text_config"
    assert "--trust-remote-code" in words
    assert "--allow-download" not in words
    assert find_model("Mixtral-8x7B", make_run(arguments=asked)) == "Mixtral-8x7B"
    assert find_model("DeepSeek-V3", make_run(arguments={"models": ["deepseek-ai/DeepSeek-V3"]})).startswith("deepseek")
    assert find_model("Qwen3-30B-A3B", make_run()) == "Qwen3-30B-A3B"


def test_a_missing_series_is_measured_again_as_in_the_last_run_that_had_it(tmp_path: Path) -> None:
    commits, providers = ("a" * 40, "b" * 40), (("torch", "triton"), ("torch",))
    with Store.open(tmp_path) as store:
        for number, (commit, present) in enumerate(zip(commits, providers, strict=True)):
            run = store.begin_run(make_run(f"run-{number}", number, git_commit=commit, git_dirty=not number))
            store.commit_unit(run.run_id, make_unit([make_measurement(run.run_id, provider=name) for name in present]))
        store.journal.commit_verdicts("run-1", [make_verdict(State.MISSING, make_series("triton"), run_id="run-1")])
        night = store.night("run-1")
    kernels = arrange_night(night)
    views = {view.series.provider: view for view in list_views(night, kernels, {})}
    assert set(night.missing_cases) == {make_case().key}
    assert (views["torch"].commit, views["torch"].is_dirty) == (commits[1], False)
    assert (views["triton"].commit, views["triton"].is_dirty) == (commits[0], True)
    assert "--provider triton" in views["triton"].command
    page = render_series(views["triton"], make_background(night, kernels, ""))[views["triton"].path].decode()
    assert "git checkout aaaaaaaaaaaa</code> (it was measured with uncommitted changes besides)" in page
    assert views["torch"].command == views["triton"].command.replace("triton", "torch")


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
