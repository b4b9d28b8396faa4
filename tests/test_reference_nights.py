"""The trend of the reference kernels, read back from its SVG."""

from datetime import timedelta

from nights import STARTED
from records import make_run

from dashboards.reference_nights import draw_reference_nights
from dashboards.series.calendar import make_calendar
from dashboards.svg import Drawing, Mark
from tasks.records import Point

CALENDAR = make_calendar([make_run(f"run-{n}", n) for n in range(3)])


def draw(slow: float = 0.02, **medians: tuple[float, ...]) -> Drawing:
    trends = {
        name: tuple(Point(f"run-{n}", STARTED + timedelta(days=n), us, us, us) for n, us in enumerate(found))
        for name, found in medians.items()
    }
    return draw_reference_nights(trends, {name: Mark(n) for n, name in enumerate(medians)}, CALENDAR, slow, "r0")


def test_a_night_on_a_slow_machine_is_told_in_words_and_in_colour() -> None:
    drawing = draw(copy=(141.0, 141.2, 146.0), gemm=(190.0, 190.0, 190.4))
    assert drawing.label.endswith("copy +3.5%, gemm +0.2%.")
    assert "var(--bad)" in drawing.svg
    assert drawing.svg.count("<title>copy, 2026-11-2") == 3


def test_a_change_that_the_device_is_too_noisy_for_has_no_colour() -> None:
    assert "var(--bad)" not in draw(copy=(141.0, 141.0, 143.0)).svg
    assert "var(--bad)" not in draw(slow=0.2, copy=(141.0, 141.0, 165.0)).svg


def test_one_night_is_a_point_and_nights_of_another_seed_are_left_out() -> None:
    assert draw(copy=(141.0,)).svg.count("<title>") == 1
    assert draw(copy=(141.0,) * 5).svg.count("<title>") == 3
