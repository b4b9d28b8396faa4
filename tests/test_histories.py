"""Histories as columns say what the points of their series say."""

import numpy as np
import pytest
from nights import STARTED, make_histories
from records import make_points, make_series

from tasks.judgement.histories import Histories, narrow_histories


def test_the_points_of_a_series_come_out_as_they_went_in() -> None:
    points = make_points([10.0, 11.0, 12.0], ["a", "b", "a"])
    histories = make_histories({make_series(): points, make_series("torch"): points[1:]})
    assert dict(histories) == {make_series(): points, make_series("torch"): points[1:]}
    assert len(histories) == 2
    assert histories.get(make_series("gone"), ()) == ()
    assert [run.started_at for run in histories.runs] == [point.started_at for point in points]
    assert dict(Histories()) == {}
    assert points[0].started_at.date() == STARTED.date()


def test_only_the_wanted_series_are_kept() -> None:
    histories = make_histories({make_series(name): make_points([10.0]) for name in ("torch", "triton")})
    assert list(narrow_histories(histories, [make_series("triton"), make_series("gone")])) == [make_series("triton")]


def test_a_floor_is_the_slower_of_copy_and_gemm_and_unknown_without_a_ceiling() -> None:
    made = make_histories({make_series(): make_points([10.0, 10.0])})
    nothing = np.full((2, len(made.hosts)), np.nan)
    copy, gemm = nothing.copy(), nothing.copy()
    copy[:] = 4000.0
    gemm[1] = 100.0
    rates = {"copy": copy, "bfloat16 gemm": gemm}
    histories = Histories(made.runs, made.hosts, made.settings, made.columns, rates)
    history = histories.columns[make_series()]
    assert histories.find_floors_us(history, 4_000_000, 0, "").tolist() == [1.0, 1.0]
    before, after = histories.find_floors_us(history, 4_000_000, 500_000_000, "bfloat16")
    assert np.isnan(before)
    assert after == pytest.approx(5.0)
    assert np.isnan(histories.find_floors_us(history, 1, 1, "int8")).all()
