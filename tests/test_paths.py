"""Paths are told as shortly as it goes, and are still the same lines."""

import math

from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

from dashboards.paths import tell_outline, tell_path


def test_a_line_is_told_in_steps_of_tenths_and_level_parts_at_once() -> None:
    line = Path([(1.04, 2), (2.06, 2), (3, 2), (3.5, 1.75), (3.5, 4), (4, 4)])
    assert tell_path(line, IdentityTransform()) == "M1 2h2l.5-.2v2.2h.5"


def test_what_is_not_a_number_is_a_gap() -> None:
    line = Path([(math.nan, 1), (0, 1), (5, 1), (math.nan, math.nan), (6, 2), (7, 3)])
    assert tell_path(line, IdentityTransform()) == "M0 1h5M6 2l1 1"
    assert tell_path(Path([(math.nan, math.nan)] * 2), IdentityTransform()) == ""
    assert tell_path(Path([(1, 1)]), IdentityTransform()) == ""


def test_an_area_is_closed_and_the_next_one_begins_where_it_is() -> None:
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    corners = [(0, 0), (2, 0), (2, -1.5), (0, -1.5), (0, 0)]
    assert tell_path(Path(corners, codes), IdentityTransform()) == "M0 0h2v-1.5h-2z"
    twice = Path(corners + [(x + 4, y) for x, y in corners], codes * 2)
    assert tell_path(twice, IdentityTransform()) == "M0 0h2v-1.5h-2zM4 0h2v-1.5h-2z"


def test_a_shape_keeps_its_curves() -> None:
    circle = tell_outline(Path.unit_circle(), IdentityTransform())
    assert circle.startswith("M0-1C0.27-1 ")
    assert circle.endswith("Z")
