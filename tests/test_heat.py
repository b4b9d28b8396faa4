"""The heat map compares with a month ago; sparks draw the month."""

import numpy as np
from nights import make_histories, make_night
from records import make_points, make_series

from dashboards.arrangement import arrange_night
from dashboards.heat import Cell, find_ratio, find_ratios, make_cell, map_heat, tell_cell, tell_heat
from dashboards.sparks import draw_spark
from tasks.judgement.histories import History

SERIES = make_series()


def make_history(medians_us: list[float]) -> History:
    return make_histories({SERIES: make_points(medians_us)}).columns[SERIES]


def test_a_ratio_is_against_thirty_nights_ago_or_the_first_night() -> None:
    assert find_ratio(make_history([10.0] * 10 + [20.0] * 29 + [30.0]), 39) == (3.0, 30)
    assert find_ratio(make_history([10.0, 10.0, 11.0]), 2) == (1.1, 2)
    assert find_ratio(make_history([10.0]), 0) is None
    assert find_ratio(make_history([10.0, 11.0]), 5) is None, "it was not timed tonight"


def test_a_cell_tells_its_mean_and_the_series_that_moved_furthest() -> None:
    ratios = {make_series("torch"): (1.0, 30), make_series("triton"): (1.21, 30)}
    cell = make_cell(list(ratios), ratios)
    assert round(cell.mean_change, 3) == 0.1
    assert cell.worst == make_series("triton")
    assert cell.shade == "slower-3"
    assert tell_cell(cell) == "2 series, mean +10.0%, furthest +21.0%"
    assert Cell(-0.03, -0.03, SERIES, 1).shade == "faster-2"
    assert Cell(0.001, 0.2, SERIES, 1).shade == "level"


def test_a_night_is_a_map_of_kernels_and_models() -> None:
    night = make_night(3)
    [found] = map_heat(arrange_night(night), find_ratios(night))
    assert found.kernels == ("fused_moe", "silu_mul_fp8")
    assert "grid" in found.models
    assert found.nights_back == (2, 2)
    assert {line["kernel"] for line in tell_heat([found])} == set(found.kernels)


def test_a_spark_stays_in_its_box_and_noise_is_nearly_level() -> None:
    path = draw_spark(make_history([10.0, 10.01, 10.0]))
    assert path == "M1 7L30 7L59 7"
    heights = [float(step.split()[1]) for step in draw_spark(make_history([10.0] * 5 + [20.0])).strip("M").split("L")]
    assert min(heights) >= 0
    assert max(heights) <= 14
    assert draw_spark(make_history([10.0])) == ""
    assert np.isfinite(heights).all()
