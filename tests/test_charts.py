"""Charts are read back from the SVG that a browser gets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from nights import (
    CPU,
    H200,
    PROVIDERS,
    find_made_up_kernel,
    make_measurement,
    make_night,
    moe_layer,
    silu_layer,
)

from dashboards.arrangement import arrange_night, make_row
from dashboards.charts import THROUGHPUT, assign_marks, draw_curves, draw_speedups
from dashboards.comparisons import compare_rows
from dashboards.rows import KernelRows, Panel, Row
from dashboards.svg import NUM_COLOURS, Drawing, Mark
from kernels.registry import kernels
from kernels.spec import Case
from tasks.records import Measurement, Status, Trial

MARKS = assign_marks([PROVIDERS])


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def arrange(num_nights: int = 3) -> KernelRows:
    return arrange_night(make_night(num_nights))[0]


def make_panel(measurements: Sequence[Measurement]) -> Panel:
    rows = compare_rows([make_row(m.series, m, None) for m in measurements], "torch")
    return Panel("", "NVIDIA H200", "graph", tuple(rows))


def svg_of(drawing: Drawing | None) -> str | None:
    return drawing.svg if drawing else None


def draw_rates(panel: Panel, marks: Mapping[str, Mark], chart_id: str) -> Drawing | None:
    return draw_curves(panel, marks, chart_id, THROUGHPUT)


def titles(svg: str | None) -> list[str]:
    assert svg is not None
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]


def words(svg: str | None) -> list[str]:
    assert svg is not None
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


def test_every_timed_case_is_one_point_with_its_median_in_the_tooltip() -> None:
    panel = arrange().layers[0].panels[0]
    told = titles(svg_of(draw_curves(panel, MARKS, "c0", THROUGHPUT)))
    timed = [row for row in panel.rows if row.median_us is not None]
    assert len(told) == len(timed) == 19
    for row in timed:
        assert any(f"{row.provider}, M={row.num_tokens}: {row.median_us:.4g} us" in tip for tip in told)


def test_a_point_carries_the_provider_that_the_filter_looks_for() -> None:
    svg = svg_of(draw_curves(arrange().layers[0].panels[0], MARKS, "c0", THROUGHPUT))
    assert svg is not None
    groups = [g for g in ElementTree.fromstring(svg).iter("g") if g.get("data-provider")]
    assert {g.get("data-provider") for g in groups} == set(PROVIDERS)
    for g in groups:
        assert all(str(title.text).startswith(f"{g.get('data-provider')},") for title in g.iter("title"))


def test_a_case_that_was_not_timed_leaves_a_gap_in_the_curve() -> None:
    statuses = [Status.OK, Status.OK, Status.WRONG, Status.OK, Status.OK]
    tokens = [1, 4, 16, 64, 256]
    cases = [Case(moe_layer(), count) for count in tokens]
    svg = svg_of(
        draw_curves(
            make_panel([make_measurement(c, "torch", s) for c, s in zip(cases, statuses, strict=True)]),
            MARKS,
            "c0",
            THROUGHPUT,
        )
    )
    assert svg is not None
    (curve,) = [
        g
        for g in ElementTree.fromstring(svg).iter("g")
        if g.find(".//title") is not None and g.find("path") is not None
    ]
    path = curve.find("path")
    assert path is not None
    assert str(path.get("d")).count("M") == 2
    assert len(titles(svg)) == 4


def test_bars_are_labelled_with_the_speed_up_against_the_fastest_vllm_provider() -> None:
    case = Case(moe_layer(), 16)
    times = {"torch": 400.0, "triton": 50.0, "vllm-cutlass": 120.0, "vllm-triton-shipped": 100.0}
    panel = make_panel([make_measurement(case, name, usual_us=usual) for name, usual in times.items()])
    assert {row.reference for row in panel.rows} == {"vllm-triton-shipped"}
    shown = [word for word in words(svg_of(draw_speedups(panel, MARKS, "c0"))) if word.endswith("\u00d7")]
    expected = [f"{row.speedup.ratio:.2f}\u00d7" for row in panel.rows if row.speedup]
    assert len(expected) == 4
    assert set(expected) <= set(shown)
    speedups = {row.provider: row.speedup.ratio for row in panel.rows if row.speedup}
    assert speedups["triton"] == pytest.approx(2, rel=0.03)
    assert speedups["torch"] == pytest.approx(0.25, rel=0.03)


def with_trials(measurement: Measurement, *trials: Trial) -> Measurement:
    return replace(measurement, trials=trials)


def test_a_speed_up_is_the_median_of_the_ratios_of_shared_rounds() -> None:
    case = Case(moe_layer(), 16)
    rounds = {
        "torch": [[80.0, 84.0], [88.0, 88.0], [100.0, 104.0]],
        "triton": [[41.0, 41.0], [40.0, 44.0], [50.0, 50.0]],
    }
    measured = [
        replace(
            make_measurement(case, name),
            samples_us=tuple(sample for samples in found for sample in samples),
            trials=tuple(Trial(number, len(samples)) for number, samples in enumerate(found)),
        )
        for name, found in rounds.items()
    ]
    torch, triton = make_panel(measured).rows
    assert triton.speedup is not None
    assert triton.speedup.ratio == pytest.approx(102 / 50)  # of 82/41, 88/42 and 102/50
    assert triton.speedup.half_width is None, "three rounds have no interval"
    assert torch.speedup is not None
    assert (torch.speedup.ratio, torch.speedup.half_width) == (1.0, None)


def test_a_speed_up_over_enough_rounds_has_an_interval_around_it() -> None:
    case = Case(moe_layer(), 16)
    _, triton = make_panel([make_measurement(case, name) for name in ("torch", "triton")]).rows
    assert triton.speedup is not None
    assert triton.speedup.interval is not None
    assert triton.speedup.interval.low < triton.speedup.ratio < triton.speedup.interval.high
    assert not triton.speedup.is_timed_alone


def test_providers_that_share_no_round_are_compared_by_their_medians_and_marked() -> None:
    case = Case(moe_layer(), 16)
    torch, triton = make_measurement(case, "torch"), make_measurement(case, "triton")
    later = tuple(replace(trial, round=trial.round + 100) for trial in triton.trials)
    for trials, alone in ((later, True), ((), False)):  # nights of before say nothing of rounds
        _, row = make_panel([torch, with_trials(triton, *trials)]).rows
        assert row.speedup is not None
        assert row.speedup.ratio == (torch.median_us or 0) / (triton.median_us or 1)
        assert row.speedup.half_width is None
        assert row.speedup.is_timed_alone is alone


def test_a_tooltip_tells_how_well_median_and_speed_up_are_known() -> None:
    case = Case(moe_layer(), 16)
    svg = svg_of(draw_speedups(make_panel([make_measurement(case, name) for name in ("torch", "triton")]), MARKS, "c0"))
    (tip,) = [tip for tip in titles(svg) if tip.startswith("triton")]
    assert re.fullmatch(r"triton, M=16: [\d.]+ us \u00b1[\d.]+% \(p20 .*\), [\d.]+\u00d7 \u00b1[\d.]+% torch", tip)


def test_timers_are_never_compared() -> None:
    case = Case(moe_layer(), 16)
    rows = [make_measurement(case, "torch", timer="cold"), make_measurement(case, "triton")]
    cold, graph = make_panel(rows).rows
    assert (cold.reference, graph.reference) == ("torch", "")
    assert graph.speedup is None


def test_without_a_vllm_row_the_baseline_is_the_reference_and_without_both_there_are_no_bars() -> None:
    case = Case(moe_layer(), 16)
    panel = make_panel([make_measurement(case, name) for name in ("torch", "triton")])
    assert {row.reference for row in panel.rows} == {"torch"}
    alone = make_panel([make_measurement(case, "triton")])
    assert alone.rows[0].speedup is None
    assert svg_of(draw_speedups(alone, MARKS, "c0")) is None


def test_a_wrong_vllm_row_is_no_reference_and_is_named_by_its_status() -> None:
    case = Case(moe_layer(), 16)
    panel = make_panel([make_measurement(case, "torch"), make_measurement(case, "vllm-cutlass", Status.WRONG)])
    assert {row.reference for row in panel.rows} == {"torch"}
    assert "wrong" in words(svg_of(draw_speedups(panel, MARKS, "c0")))


def test_providers_on_different_devices_are_never_compared() -> None:
    case = Case(moe_layer(), 16)
    rows = [make_measurement(case, "torch", device=CPU), make_measurement(case, "vllm-cutlass")]
    on_cpu, on_gpu = make_panel(rows).rows
    assert (on_cpu.reference, on_gpu.reference) == ("torch", "vllm-cutlass")


def test_shares_are_of_the_floor_and_empty_for_what_was_not_measured() -> None:
    night = make_night(1, (H200, CPU))
    moe, silu = (kernel.rows for kernel in arrange_night(night))
    for row in (row for row in moe if row.median_us and row.measurement):
        check = row.measurement.check
        if row.series.device_name == H200.name:
            floor_us = max(check.bytes_moved / 4000e3, check.flops / 1400e6)
            assert row.share_of_floor == pytest.approx(floor_us / row.median_us)
        else:
            assert row.share_of_floor is None  # a CPU has no float8 rate
    assert all(row.share_of_floor for row in silu)  # only copies: every device has a rate
    gone = arrange_night(replace(night, ceilings=()))
    assert {row.floor_us for kernel in gone for row in kernel.rows} == {None}


def test_nothing_timed_is_no_chart() -> None:
    panel = make_panel([make_measurement(Case(moe_layer(), 16), "torch", Status.HUNG)])
    assert svg_of(draw_curves(panel, MARKS, "c0", THROUGHPUT)) is None
    assert svg_of(draw_speedups(panel, MARKS, "c0")) is None


def test_a_chart_is_the_same_bytes_twice_and_all_its_ids_start_with_its_own() -> None:
    panel = arrange().layers[0].panels[0]
    for draw in (draw_rates, draw_speedups):
        svg = svg_of(draw(panel, MARKS, "c7"))
        assert svg is not None
        assert svg == svg_of(draw(panel, MARKS, "c7"))
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert ids
        assert all(found.startswith("c7-") for found in ids)
        references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert references == set(ids)


def test_a_chart_follows_the_theme_of_the_page_and_says_what_it_shows() -> None:
    svg = svg_of(draw_curves(arrange().layers[0].panels[0], MARKS, "c0", THROUGHPUT))
    assert svg is not None
    assert not re.findall(r"#[0-9a-f]{6}\b", svg), "a fixed colour would not follow dark mode"
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert "TFLOP/s by tokens" in str(root.get("aria-label"))
    assert "<style" not in svg
    assert "http" not in svg


def test_seventy_two_providers_differ_in_colour_or_marker() -> None:
    marks = assign_marks([[f"provider-{n:02}" for n in range(72)]])
    assert len({(mark.colour, mark.marker) for mark in marks.values()}) == 72


def test_a_provider_looks_the_same_whatever_the_order() -> None:
    assert assign_marks([reversed(PROVIDERS)]) == MARKS


def test_providers_of_one_kernel_share_no_colour() -> None:
    pages = {name: list(kernel.providers) for name, kernel in kernels().items()}
    marks = assign_marks(pages.values())
    assert len(marks) > NUM_COLOURS, "else every provider could have a colour of its own"
    for name, providers in pages.items():
        assert len({marks[provider].colour for provider in providers}) == len(providers), name
        assert len({marks[provider].marker for provider in providers}) == len(providers), name
    assert len(set(marks.values())) == len(marks)


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        ((40.0, 2000.0), ["1/16\u00d7", "1/4\u00d7", "1\u00d7", "4\u00d7"]),
        ((80.0, 300.0), ["1/2\u00d7", "1\u00d7"]),
        ((85.0, 110.0), ["0.8\u00d7", "0.9\u00d7", "1\u00d7", "1.1\u00d7", "1.25\u00d7"]),
        ((70.0, 160.0), ["0.6\u00d7", "0.8\u00d7", "1\u00d7", "1.25\u00d7"]),
    ],
)
def test_ticks_of_the_speed_ups_are_few_and_exact(times: tuple[float, float], labels: list[str]) -> None:
    case = Case(moe_layer(), 16)
    usual = {"vllm-cutlass": 100.0, "triton": times[0], "torch": times[1]}
    panel = make_panel([make_measurement(case, name, usual_us=us) for name, us in usual.items()])
    shown = words(svg_of(draw_speedups(panel, MARKS, "c0")))
    bars = {f"{row.speedup.ratio:.2f}\u00d7" for row in panel.rows if row.speedup}
    assert [word for word in shown if word.endswith("\u00d7") and word not in bars] == labels


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        ((1, 16, 64, 256, 1024, 4096), ["4096", "1024", "256", "64", "16", "1"]),
        ((1, 16, 64, 256, 1024, 2048), ["2048", "256", "64", "16", "1"]),
        (
            (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096),
            ["4096", "1536", "512", "128", "64", "32", "16", "8", "4", "2", "1"],
        ),
    ],
)
def test_batch_sizes_whose_labels_would_touch_are_left_out_but_for_the_last(
    tokens: tuple[int, ...], labels: list[str]
) -> None:
    panel = make_panel([make_measurement(Case(moe_layer(), count), "torch") for count in tokens])
    svg = svg_of(draw_curves(panel, MARKS, "c0", THROUGHPUT))
    shown = [word for word in words(svg) if word in map(str, tokens)]
    assert shown[: len(labels)] == labels


def test_rates_follow_from_the_median_and_the_cost_of_the_case() -> None:
    (row,) = make_panel([make_measurement(Case(moe_layer(), 16), "torch")]).rows
    assert isinstance(row, Row)
    assert row.measurement is not None
    assert row.median_us is not None
    assert row.tflops == pytest.approx(row.measurement.check.flops / (row.median_us * 1e-6) / 1e12)
    assert row.gbytes_per_second == pytest.approx(row.measurement.check.bytes_moved / (row.median_us * 1e-6) / 1e9)


def test_a_single_number_of_tokens_is_left_to_the_table_and_the_bars() -> None:
    case = Case(silu_layer(), 64, {"token_strategy": "uniform"})
    panel = make_panel([make_measurement(case, provider) for provider in ("torch", "triton")])
    assert draw_rates(panel, MARKS, "one") is None
    assert svg_of(draw_speedups(panel, MARKS, "one")) is not None
