"""The search for a culprit, beside trying every commit in turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_case, make_series

from tasks.commits.bisection import Answer, Culprit, decide, find_culprit, find_size, is_sought
from tasks.commits.comparisons import Contrast
from tasks.records import State


@given(st.integers(1, 40), st.data())
def test_the_first_bad_commit_is_among_the_suspects_and_alone_where_its_neighbours_can_be_told(
    number: int, data: st.DataObject
) -> None:
    first_bad = data.draw(st.integers(0, number - 1))
    untold = data.draw(st.sets(st.integers(0, number)))
    commits = [f"commit {place}" for place in range(number)]
    asked = []

    def ask(commit: str) -> Answer:
        place = commits.index(commit)
        asked.append(place)
        if place in untold:
            return Answer.UNKNOWN
        return Answer.BAD if place >= first_bad else Answer.GOOD

    found = find_culprit("good", commits, ask)
    told = [place for place in range(number) if place not in untold or place == number - 1]
    first_told = min(place for place in told if place >= first_bad)
    last_good = max((place for place in told if place < first_bad), default=-1)
    assert found == Culprit(
        tuple(commits[last_good + 1 : first_told + 1]), "good" if last_good < 0 else commits[last_good]
    )
    assert found.commit == commits[first_told]
    assert len(asked) == len(set(asked)), "no commit is tried twice"
    assert number - 1 not in asked
    assert untold or len(asked) <= number.bit_length()


def make_contrast(state: State, change: float | None = None, *, is_regression: bool = False) -> Contrast:
    return Contrast(make_series(), make_case(), state, is_regression=is_regression, change=change)


@pytest.mark.parametrize(
    ("sought", "found", "answer"),
    [
        (State.SLOW, State.SLOW, Answer.BAD),
        (State.SLOW, State.SAME, Answer.GOOD),
        (State.SLOW, State.FAST, Answer.GOOD),
        (State.SLOW, State.FAILED, Answer.UNKNOWN),
        (State.SLOW, State.AMBIGUOUS, Answer.UNKNOWN),
        (State.WRONG, State.SLOW, Answer.GOOD),
        (State.FAILED, State.FAILED, Answer.BAD),
    ],
)
def test_a_commit_is_bad_as_the_bad_one_is_and_good_if_it_runs(sought: State, found: State, answer: Answer) -> None:
    assert decide(make_contrast(found), sought) is answer


def test_each_commit_is_asked_for_the_whole_change_in_either_direction() -> None:
    assert find_size(make_contrast(State.SLOW, 0.5), 0.01) == pytest.approx(0.5)
    assert find_size(make_contrast(State.FAST, -0.5), 0.01) == pytest.approx(1.0)
    assert find_size(make_contrast(State.WRONG), 0.01) == 0.01


def test_what_fails_on_both_sides_or_is_in_doubt_is_nothing_to_look_for() -> None:
    assert is_sought(make_contrast(State.SLOW, 0.5, is_regression=True))
    assert is_sought(make_contrast(State.FAST, -0.5))
    assert not any(map(is_sought, map(make_contrast, (State.FAILED, State.SAME, State.AMBIGUOUS, State.NEW))))
