"""The search for a culprit, beside trying every commit in turn."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.bisection import Answer, Culprit, find_culprit


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
