"""The charts of a series are read back from the SVG that a browser gets."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from nights import make_histories
from records import make_points, make_series

from dashboards.paper import Paper
from dashboards.series.calendar import make_calendar
from dashboards.series.chronicle import Event, find_regimes
from dashboards.series.render import find_decimals, tell_data
from dashboards.series.sheets import draw_history, draw_samples, draw_spread, measure_spread
from dashboards.svg import Drawing
from tasks.judgement.histories import Histories

SERIES = make_series()
US = [100.0 + (night * 37 % 11) / 10 + 6.0 * (night >= 40) for night in range(80)]


@pytest.fixture(scope="module")
def histories() -> Histories:
    points = tuple(replace(point, relative_error=0.01) for point in make_points(US))
    return make_histories({SERIES: points})


def words(paper: Paper) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(Drawing(paper.figure, "c", "a chart").svg).iter("text")]


def test_a_history_has_its_change_its_events_its_share_and_its_errors(histories: Histories) -> None:
    history = histories.columns[SERIES]
    regimes, calendar = find_regimes(history), make_calendar(histories.runs)
    events = [Event(40, "config", "x"), Event(40, "source", "y")]
    told = words(draw_history(history, np.full(80, 50.0), calendar, regimes, events))
    assert "CS" in told
    assert [word for word in told if re.fullmatch(r"[+]5\.\d%|[+]6\.\d%", word)]
    assert {"share of the roofline", "relative error, as a multiple of 0.01", "20 Nov"} <= set(told)
    bare = words(
        draw_history(replace(history, relative_error=np.full(80, np.nan)), np.full(80, np.nan), calendar, regimes, [])
    )
    assert not [word for word in bare if "share" in word or "error" in word]


def test_one_night_and_two_are_drawn_too(histories: Histories) -> None:
    for nights in (1, 2):
        made = make_histories({SERIES: make_points(US[:nights])})
        history = made.columns[SERIES]
        paper = draw_history(history, np.full(nights, np.nan), make_calendar(made.runs), find_regimes(history), [])
        assert "us per call, median and p20\N{EN DASH}p80" in words(paper)


def test_the_spread_is_around_the_level_of_each_regime(histories: Histories) -> None:
    history = histories.columns[SERIES]
    between, within = measure_spread(history, find_regimes(history))
    assert between < 0.01
    assert within == pytest.approx(0.01, rel=0.01)
    assert "0" in words(draw_spread(history, find_regimes(history)))


def test_samples_are_drawn_in_order_and_counted() -> None:
    assert "last of 1000" in words(draw_samples([10.0 + n % 7 for n in range(1000)]))
    assert "last of 1" in words(draw_samples([10.0]))


def test_numbers_are_told_as_steps_and_what_repeats_is_left_out() -> None:
    points = [replace(point, relative_error=0.01) for point in make_points([100.0, 100.5, 99.0, 99.0])]
    history = make_histories({SERIES: points[:2] + points[3:]}).columns[SERIES]
    history = replace(
        history, nights=np.array([0, 1, 3]), p20_us=history.median_us - 0.25, p80_us=history.median_us + 1
    )
    floors_us = np.array([50.0, 50.0, np.nan])
    assert find_decimals(history) == 3
    assert tell_data(history, floors_us, 3).splitlines() == [
        "0,100000,250,1000,0.01,50",
        ",500,250,1000",
        "3,-1500,250,1000,,none",
    ]
