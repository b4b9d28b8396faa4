"""Errors against their own earlier nights."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.judgement.accuracy import ERROR_JUMP, compare_errors, is_jump, usual_error


def test_the_usual_error_is_the_median_of_the_nights_that_know_theirs() -> None:
    assert usual_error(np.array([0.01, np.nan, 0.03, 0.02])) == 0.02
    assert usual_error(np.array([np.nan])) is None
    assert usual_error(np.array([])) is None


@pytest.mark.parametrize(
    ("error", "earlier", "ratio"), [(0.02, 0.01, 2.0), (0.0, 0.01, 0.0), (0.0, 0.0, 1.0), (1e-9, 0.0, math.inf)]
)
def test_errors_compare_as_a_multiple_also_from_zero(error: float, earlier: float, ratio: float) -> None:
    assert compare_errors(error, earlier) == ratio


@pytest.mark.parametrize(
    ("ratio", "jump"), [(1.0, False), (1.5, False), (1.51, True), (0.67, False), (0.66, True), (0.0, True)]
)
def test_a_jump_is_more_than_half_as_much_again_up_or_down(ratio: float, jump: bool) -> None:
    assert is_jump(ratio) is jump
    assert is_jump(math.inf)
    assert is_jump(math.nan)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-12, 1.0), st.floats(1e-12, 1.0))
def test_a_jump_one_way_is_a_jump_the_other_way(one: float, other: float) -> None:
    there, back = compare_errors(one, other), compare_errors(other, one)
    if abs(max(there, back) / ERROR_JUMP - 1) > 1e-9:
        assert is_jump(there) == is_jump(back)
