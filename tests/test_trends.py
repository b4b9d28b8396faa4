"""Trends are read back from the SVG that a browser gets."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from nights import (
    PROVIDERS,
    STARTED,
    find_made_up_kernel,
    make_measurement,
    make_night,
    make_trend,
    moe_layer,
)

from dashboards.arrangement import arrange_night
from dashboards.charts import assign_marks
from dashboards.rows import KernelRows
from dashboards.svg import Mark
from dashboards.trends import draw_errors, draw_references, draw_trend
from kernels.spec import Case
from tasks.nights import Night
from tasks.records import Measurement, Point, Status

MARKS = assign_marks([PROVIDERS])


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def arrange(num_nights: int = 3) -> KernelRows:
    return arrange_night(make_night(num_nights))[0]


def titles(svg: str | None) -> list[str]:
    assert svg is not None
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]


def words(svg: str | None) -> list[str]:
    assert svg is not None
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


def test_the_first_night_of_each_regime_has_a_ring_that_tells_the_change() -> None:
    kernel = arrange()
    [row, *_] = [row for row in kernel.layers[0].rows if row.num_tokens == 64 and row.provider == "triton"]
    us = [100.0 + 0.3 * math.sin(7 * night) + 6.0 * (night >= 40) for night in range(80)]
    nights = tuple(
        Point(f"run-{night}", STARTED + timedelta(days=night), median_us, median_us, median_us)
        for night, median_us in enumerate(us)
    )
    rings = [tip for tip in titles(draw_trend([row], {row.series: nights}, MARKS, "c0")) if " on, run " in tip]
    assert rings == ["triton +5.9% from 2026-12-30 on, run run-40"]
    assert not [tip for tip in titles(draw_trend([row], {row.series: nights[:40]}, MARKS, "c0")) if " on, run " in tip]


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


def test_a_line_with_its_date_stands_where_a_change_begins() -> None:
    kernel = arrange(5)
    by_tokens = {
        row.num_tokens: [r for r in kernel.layers[0].rows if r.num_tokens == row.num_tokens] for row in kernel.rows
    }
    for tokens, provider in ((64, "triton"), (256, "vllm-cutlass")):
        svg = draw_trend(by_tokens[tokens], kernel.trends, MARKS, "c0")
        assert [word for word in words(svg) if word.startswith("since")] == ["since 19 Nov"]
        assert svg is not None
        assert f"{provider} so since 19 Nov, run run-2." in svg
    assert not [word for word in words(draw_trend(by_tokens[1], kernel.trends, MARKS, "c0")) if "since" in word]


def test_changes_of_one_night_share_a_line_and_one_of_a_forgotten_night_has_none() -> None:
    kernel = arrange(5)
    slow = next(row for row in kernel.rows if row.verdict and row.verdict.since_run)
    assert slow.verdict
    both = [slow, *(replace(row, verdict=slow.verdict) for row in kernel.rows if row.num_tokens == 64)][:3]
    svg = draw_trend(both, kernel.trends, MARKS, "c0")
    assert len([word for word in words(svg) if word.startswith("since")]) == 1
    forgotten = replace(slow, verdict=replace(slow.verdict, since_run="long-ago"))
    assert not [word for word in words(draw_trend([forgotten], kernel.trends, MARKS, "c0")) if "since" in word]


@pytest.mark.parametrize("num_nights", [1, 2])
def test_fewer_than_three_nights_are_no_trend(num_nights: int) -> None:
    kernel = arrange(num_nights)
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
    series = [(ok("triton", tokens), (0.01, 0.01, 0.01 * ratio)) for tokens, ratio in ((1, 1.6), (16, 4.0), (64, 0.5))]
    svg = errors_of(*series)
    assert [word for word in words(svg) if "M=" in word] == ["M=16 4\u00d7"]
    assert svg is not None
    assert all(f"triton at M={tokens}" in svg for tokens in (1, 16, 64))


def test_a_wrong_night_is_no_jump_of_its_own() -> None:
    wrong = make_measurement(Case(moe_layer(), 64), "triton", Status.WRONG)
    svg = errors_of((wrong, (0.01, 0.01, 0.01)))  # its error tonight is 0.31
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
    first: Point = replace(last, run_id="run-1", started_at=last.started_at - apart)
    between = replace(last, run_id="run-2", started_at=last.started_at - apart / 2)
    night = replace(make_night(1, measurements=[measurement]), trends={measurement.series: (first, between, last)})
    kernel = arrange_night(night)[0]
    for draw in (draw_trend, draw_errors):
        shown = words(draw(kernel.rows, kernel.trends, MARKS, "t0"))
        assert [word for word in shown if "Nov" in word] == labels


def references_of(medians: dict[str, Sequence[float]], slow: float = 0.02) -> str | None:
    """The chart of made-up reference kernels, night by night."""
    trends = {
        name: tuple(
            Point(f"run-{n}", STARTED + timedelta(days=n), median, median * 0.999, median * 1.001)
            for n, median in enumerate(of_nights)
        )
        for name, of_nights in medians.items()
    }
    return draw_references(trends, {name: Mark(slot) for slot, name in enumerate(medians)}, "r0", slow)


def test_a_night_on_a_slow_machine_is_told_in_words_on_the_trend_of_its_reference() -> None:
    svg = references_of({"copy": (141.0, 141.2, 146.0), "bfloat16 gemm": (190.0, 190.0, 190.4)})
    assert [word for word in words(svg) if re.fullmatch(r"[+-]\d%", word) and word not in ("+2%", "-2%")] == ["+3%"]
    assert svg is not None
    assert "var(--bad)" in svg
    assert "copy +3.5%, bfloat16 gemm +0.2%" in svg
    assert len([tip for tip in titles(svg) if tip.startswith("bfloat16 gemm, 2026-11-2")]) == 4


def test_references_that_stay_within_two_percent_are_drawn_without_a_word() -> None:
    svg = references_of({"copy": (141.0, 141.0, 143.0)})
    assert svg is not None
    assert "var(--bad)" not in svg
    assert "var(--good)" not in svg


def test_a_change_that_the_device_is_too_noisy_for_has_no_colour() -> None:
    svg = references_of({"copy": (141.0, 141.0, 165.0)}, slow=0.2)
    assert svg is not None
    assert "var(--bad)" not in svg


def test_fewer_than_three_nights_of_references_are_no_trend() -> None:
    assert references_of({"copy": (141.0,)}) is None
    assert references_of({"copy": (141.0, 146.0)}) is None
