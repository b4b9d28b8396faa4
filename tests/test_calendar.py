"""Nights have places by their time, and dates that tell them apart."""

from datetime import timedelta
from itertools import pairwise

import pytest
from nights import STARTED
from records import make_run

from dashboards.series.calendar import make_calendar


@pytest.mark.parametrize(
    ("apart", "labels"),
    [
        (timedelta(days=2), ["20 Nov", "22 Nov"]),
        (timedelta(hours=1), ["20 Nov 02:00", "20 Nov 03:00"]),
        (timedelta(seconds=40), ["20 Nov 02:00:00", "20 Nov 02:00:40"]),
        (timedelta(days=365), ["20 Nov 2026", "20 Nov 2027"]),
    ],
)
def test_two_nights_never_share_a_label(apart: timedelta, labels: list[str]) -> None:
    calendar = make_calendar([make_run("a", started_at=STARTED), make_run("b", started_at=STARTED + apart)])
    assert calendar.ticks == ((0.0, labels[0]), (1.0, labels[1]))


def test_a_year_has_a_few_dates_that_stand_clear_of_each_other() -> None:
    places = [place for place, _ in make_calendar([make_run(str(n), n) for n in range(365)]).ticks]
    assert 4 <= len(places) <= 7
    assert min(later - earlier for earlier, later in pairwise(places)) >= 1 / 6


def test_one_night_is_in_the_middle_and_none_is_nowhere() -> None:
    assert make_calendar([make_run()]).places.tolist() == [0.5]
    assert make_calendar([]).ticks == ()
