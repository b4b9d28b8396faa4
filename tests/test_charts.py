"""Charts are read back from the SVG that a browser gets."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from nights import (
    CPU,
    H200,
    PROVIDERS,
    STARTED,
    find_made_up_kernel,
    make_measurement,
    make_night,
    make_trend,
    moe_layer,
    silu_layer,
)

from dashboards.arrangement import arrange_night, make_row
from dashboards.charts import assign_marks, draw_errors, draw_latency, draw_speedups, draw_trend
from dashboards.comparisons import compare_rows
from dashboards.rows import KernelRows, Panel, Row
from dashboards.svg import NUM_COLOURS
from kernels.registry import kernels
from kernels.spec import Case
from tasks.records import Measurement, Night, Point, Status

MARKS = assign_marks([PROVIDERS])


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def arrange(num_nights: int = 3) -> KernelRows:
    return arrange_night(make_night(num_nights))[0]


def make_panel(measurements: Sequence[Measurement]) -> Panel:
    rows = compare_rows([make_row(m.series, m, None) for m in measurements], "torch")
    return Panel("", "NVIDIA H200", "cuda-graph-warm", tuple(rows))


def titles(svg: str | None) -> list[str]:
    assert svg is not None
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]


def words(svg: str | None) -> list[str]:
    assert svg is not None
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


def test_every_timed_case_is_one_point_with_its_median_in_the_tooltip() -> None:
    panel = arrange().layers[0].panels[0]
    told = titles(draw_latency(panel, MARKS, "c0"))
    timed = [row for row in panel.rows if row.median_us is not None]
    assert len(told) == len(timed) == 19
    for row in timed:
        assert any(f"{row.provider}, M={row.num_tokens}: {row.median_us:.4g} us" in tip for tip in told)


def test_a_point_carries_the_provider_that_the_filter_looks_for() -> None:
    svg = draw_latency(arrange().layers[0].panels[0], MARKS, "c0")
    assert svg is not None
    groups = [g for g in ElementTree.fromstring(svg).iter("g") if g.get("data-provider")]
    assert {g.get("data-provider") for g in groups} == set(PROVIDERS)
    for g in groups:
        assert all(str(title.text).startswith(f"{g.get('data-provider')},") for title in g.iter("title"))


def test_a_case_that_was_not_timed_leaves_a_gap_in_the_curve() -> None:
    statuses = [Status.OK, Status.OK, Status.WRONG, Status.OK, Status.OK]
    tokens = [1, 4, 16, 64, 256]
    cases = [Case(moe_layer(), count) for count in tokens]
    svg = draw_latency(
        make_panel([make_measurement(c, "torch", s) for c, s in zip(cases, statuses, strict=True)]), MARKS, "c0"
    )
    assert svg is not None
    (curve,) = [
        g
        for g in ElementTree.fromstring(svg).iter("g")
        if g.find(".//title") is not None and g.find("path") is not None
    ]
    path = curve.find("path")
    assert path is not None
    assert str(path.get("d")).count("M ") == 2
    assert len(titles(svg)) == 4


def test_bars_are_labelled_with_the_speed_up_against_the_fastest_vllm_provider() -> None:
    case = Case(moe_layer(), 16)
    times = {"torch": 400.0, "triton": 50.0, "vllm-cutlass": 120.0, "vllm-triton-shipped": 100.0}
    panel = make_panel([make_measurement(case, name, usual_us=usual) for name, usual in times.items()])
    assert {row.reference for row in panel.rows} == {"vllm-triton-shipped"}
    shown = [word for word in words(draw_speedups(panel, MARKS, "c0")) if word.endswith("\u00d7")]
    expected = [f"{row.speedup:.2f}\u00d7" for row in panel.rows if row.speedup is not None]
    assert len(expected) == 4
    assert set(expected) <= set(shown)
    speedups = {row.provider: row.speedup for row in panel.rows}
    assert speedups["triton"] == pytest.approx(2, rel=0.03)
    assert speedups["torch"] == pytest.approx(0.25, rel=0.03)


def test_without_a_vllm_row_the_baseline_is_the_reference_and_without_both_there_are_no_bars() -> None:
    case = Case(moe_layer(), 16)
    panel = make_panel([make_measurement(case, name) for name in ("torch", "triton")])
    assert {row.reference for row in panel.rows} == {"torch"}
    alone = make_panel([make_measurement(case, "triton")])
    assert alone.rows[0].speedup is None
    assert draw_speedups(alone, MARKS, "c0") is None


def test_a_wrong_vllm_row_is_no_reference_and_is_named_by_its_status() -> None:
    case = Case(moe_layer(), 16)
    panel = make_panel([make_measurement(case, "torch"), make_measurement(case, "vllm-cutlass", Status.WRONG)])
    assert {row.reference for row in panel.rows} == {"torch"}
    assert "wrong" in words(draw_speedups(panel, MARKS, "c0"))


def test_providers_on_different_devices_are_never_compared() -> None:
    case = Case(moe_layer(), 16)
    rows = [make_measurement(case, "torch", device=CPU), make_measurement(case, "vllm-cutlass")]
    on_cpu, on_gpu = make_panel(rows).rows
    assert (on_cpu.reference, on_gpu.reference) == ("torch", "vllm-cutlass")


def test_a_slow_last_night_is_told_in_percent_on_the_trend() -> None:
    kernel = arrange()
    rows = [row for row in kernel.layers[0].rows if row.num_tokens == 64]
    svg = draw_trend(rows, kernel.trends, MARKS, "c0")
    assert any(re.fullmatch(r"\+1[0-4]%", word) for word in words(svg))
    assert svg is not None
    assert "var(--bad)" in svg
    nights = [tip for tip in titles(svg) if tip.startswith("triton")]
    assert len(nights) == 4  # three nights, and the last one again as the highlighted point
    assert "2026-11-18 02:00 UTC" in nights[0]


def test_one_night_is_no_trend() -> None:
    kernel = arrange(num_nights=1)
    assert draw_trend(kernel.layers[0].rows, kernel.trends, MARKS, "c0") is None


def errors_of(*series: tuple[Measurement, tuple[float, ...]]) -> str | None:
    """The chart of errors of made-up series, each with its errors night by night."""
    trends = {}
    for m, errors in series:
        points = make_trend(m if m.samples_us else ok(m.check.provider), len(errors))
        trends[m.series] = tuple(replace(p, relative_error=e) for p, e in zip(points, errors, strict=True))
    tonight = [
        replace(m, check=replace(m.check, relative_error=errors[-1])) if m.status is Status.OK else m
        for m, errors in series
    ]
    night = replace(make_night(1, measurements=tonight), trends=trends)
    kernel = arrange_night(night)[0]
    return draw_errors(kernel.rows, kernel.trends, MARKS, "e0")


def ok(provider: str, tokens: int = 64) -> Measurement:
    return make_measurement(Case(moe_layer(), tokens), provider)


def test_an_error_that_jumps_within_tolerance_is_told_in_words() -> None:
    svg = errors_of((ok("triton"), (0.01, 0.01, 0.018)), (ok("torch"), (0.002, 0.002, 0.002)))
    assert "M=64 1.8\u00d7" in words(svg)
    assert svg is not None
    assert "var(--bad)" in svg
    assert "jumps tonight: triton at M=64 1.8" in svg
    told = [tip for tip in titles(svg) if tip.startswith("triton")]
    assert len(told) == 3
    assert "relative error 0.018 (1.8\u00d7), 99.98% close, run run-3" in told[-1]
    assert "2026-11-20 02:00 UTC" in told[-1]


def test_errors_that_stay_are_drawn_without_a_word() -> None:
    svg = errors_of((ok("triton"), (0.01, 0.01, 0.0101)), (ok("torch"), (0.0, 0.0, 0.0)))
    assert svg is not None
    assert "jumps tonight: none" in svg
    assert not any("M=" in word for word in words(svg))
    assert len(titles(svg)) == 6


def test_an_error_out_of_nothing_is_at_the_end_of_the_axis() -> None:
    svg = errors_of((ok("triton"), (0.0, 0.0, 1e-5)))
    assert "M=64 from 0" in words(svg)


def test_of_each_provider_the_largest_jump_has_the_word() -> None:
    series = [(ok("triton", tokens), (0.01, 0.01 * ratio)) for tokens, ratio in ((1, 1.6), (16, 4.0), (64, 0.5))]
    svg = errors_of(*series)
    assert [word for word in words(svg) if "M=" in word] == ["M=16 4\u00d7"]
    assert svg is not None
    assert all(f"triton at M={tokens}" in svg for tokens in (1, 16, 64))


def test_a_wrong_night_is_no_jump_of_its_own() -> None:
    wrong = make_measurement(Case(moe_layer(), 64), "triton", Status.WRONG)
    svg = errors_of((wrong, (0.01, 0.01)))  # its error tonight is 0.31
    assert svg is not None
    assert "jumps tonight: none" in svg


def test_one_night_of_errors_is_no_trend_and_neither_are_nights_without_errors() -> None:
    assert errors_of((ok("triton"), (0.01,))) is None
    kernel = arrange_night(without_errors(make_night(3)))[0]
    assert draw_errors(kernel.rows, kernel.trends, MARKS, "e0") is None


def without_errors(night: Night) -> Night:
    """As from a store whose nights were never compared."""
    trends = {
        series: tuple(replace(point, relative_error=None) for point in points)
        for series, points in night.trends.items()
    }
    return replace(night, trends=trends)


@pytest.mark.parametrize(
    ("apart", "labels"),
    [
        (timedelta(days=2), ["18 Nov", "20 Nov"]),
        (timedelta(hours=1), ["20 Nov 01:00", "20 Nov 02:00"]),
        (timedelta(seconds=40), ["20 Nov 02:00:10", "20 Nov 02:00:50"]),
        (timedelta(days=365), ["20 Nov 2025", "20 Nov 2026"]),
    ],
)
def test_two_nights_never_share_a_label(apart: timedelta, labels: list[str]) -> None:
    measurement = ok("triton")
    last = replace(make_trend(measurement, 1)[0], started_at=STARTED + timedelta(seconds=50))
    first: Point = replace(last, run_id="run-2", started_at=last.started_at - apart)
    night = replace(make_night(1, measurements=[measurement]), trends={measurement.series: (first, last)})
    kernel = arrange_night(night)[0]
    for draw in (draw_trend, draw_errors):
        shown = words(draw(kernel.rows, kernel.trends, MARKS, "t0"))
        assert [word for word in shown if "Nov" in word] == labels


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
    assert draw_latency(panel, MARKS, "c0") is None
    assert draw_speedups(panel, MARKS, "c0") is None


def test_a_chart_is_the_same_bytes_twice_and_all_its_ids_start_with_its_own() -> None:
    panel = arrange().layers[0].panels[0]
    for draw in (draw_latency, draw_speedups):
        svg = draw(panel, MARKS, "c7")
        assert svg is not None
        assert svg == draw(panel, MARKS, "c7")
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert ids
        assert all(found.startswith("c7-") for found in ids)
        references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert references == set(ids)


def test_a_chart_follows_the_theme_of_the_page_and_says_what_it_shows() -> None:
    svg = draw_latency(arrange().layers[0].panels[0], MARKS, "c0")
    assert svg is not None
    assert not re.findall(r"#[0-9a-f]{6}\b", svg), "a fixed colour would not follow dark mode"
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert "microseconds per call" in str(root.get("aria-label"))
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
    shown = words(draw_speedups(panel, MARKS, "c0"))
    bars = {f"{row.speedup:.2f}\u00d7" for row in panel.rows}
    assert [word for word in shown if word.endswith("\u00d7") and word not in bars] == labels


def test_rates_follow_from_the_median_and_the_cost_of_the_case() -> None:
    (row,) = make_panel([make_measurement(Case(moe_layer(), 16), "torch")]).rows
    assert isinstance(row, Row)
    assert row.measurement is not None
    assert row.median_us is not None
    assert row.tflops == pytest.approx(row.measurement.check.flops / (row.median_us * 1e-6) / 1e12)
    assert row.gbytes_per_second == pytest.approx(row.measurement.check.bytes_moved / (row.median_us * 1e-6) / 1e9)


def test_a_single_number_of_tokens_is_drawn_inside_the_axes() -> None:
    case = Case(silu_layer(), 64, {"token_strategy": "uniform"})
    panel = make_panel([make_measurement(case, provider) for provider in ("torch", "triton")])
    svg = draw_latency(panel, MARKS, "one")
    assert svg is not None
    points = [float(x) for x in re.findall(r'<use x="([\d.]+)"[^>]* class="point"', svg)]
    gridline, axis = (float(x) for x in re.findall(r'<use x="([\d.]+)"', svg)[:2])  # at 64 tokens; the y axis
    assert points == [gridline, gridline]
    assert gridline > axis
