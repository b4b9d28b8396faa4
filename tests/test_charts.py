"""Charts are read back from the SVG that a browser gets."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from nights import CPU, PROVIDERS, make_measurement, make_night, moe_layer, silu_layer

from dashboards.charts import assign_marks, draw_latency, draw_speedups, draw_trend
from dashboards.rows import KernelRows, Panel, Row, arrange_night, compare_rows, make_row
from kernels.spec import Case
from tasks.records import Measurement, Status

MARKS = assign_marks(PROVIDERS)


def arrange(num_nights: int = 3) -> KernelRows:
    return arrange_night(make_night(num_nights), lambda _: ("", "torch"))[0]


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
    marks = assign_marks(f"provider-{n:02}" for n in range(72))
    assert len({(mark.colour, mark.marker) for mark in marks.values()}) == 72


def test_a_provider_looks_the_same_whatever_the_order() -> None:
    assert assign_marks(reversed(PROVIDERS)) == MARKS


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
