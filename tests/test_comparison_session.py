"""Which units are to sit again, and what is remembered of earlier comparisons; the sittings are made up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from records import make_comparison, make_host
from rich.console import Console
from test_paired import sit

from tasks.commits.archive import Archive
from tasks.commits.comparisons import Comparison
from tasks.comparison_session import ComparisonSession, noting_the_end
from tasks.errors import WorkerError
from tasks.pool import WorkerPool
from tasks.records import State, WorkUnit
from tasks.storage.comparison_store import ComparisonStore

CASE = sit(0, 1.0).head[0].check.case
DEVICE = sit(0, 1.0).device_name
UNIT = WorkUnit(CASE.layer, (CASE,), ("triton",), ("graph",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ComparisonStore]:
    with ComparisonStore.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def session(store: ComparisonStore) -> ComparisonSession:
    """With 45 seconds a unit; it measures nothing, so that it needs no worker."""
    return ComparisonSession(store, cast(WorkerPool, None), cast(Archive, None), Console(), 45.0)


def begin(store: ComparisonStore, *ratios: float, **changes: object) -> Comparison:
    """A comparison with sittings of these ratios, of ten seconds each."""
    begun = store.begin(make_comparison(**{"least_change": 0.01, **changes}))
    for number, ratio in enumerate(ratios):
        made = sit(number, ratio)
        sides = [tuple(replace(m, run_id=begun.comparison_id) for m in side) for side in (made.head, made.base)]
        named = replace(made, comparison_id=begun.comparison_id, head=sides[0], base=sides[1])
        store.commit_sitting(named, make_host())
    return begun


@pytest.mark.parametrize(
    ("ratios", "look", "sits_again"),
    [
        ((), 4, True),
        ((1.0, 1.05, 0.95, 1.0), 4, False),  # as many as the look asks for
        ((1.0, 1.05, 0.95, 1.0), 6, True),
        ((1.0, 1.001, 0.999, 1.0), 6, True),  # too few to say SAME
        ((1.0, 1.001, 0.999, 1.001, 1.0, 1.0), 8, False),
        ((3.0, 3.01, 2.99, 3.0), 6, False),
        ((3.0, 3.01, 3.0), 4, True),  # clear, but interrupted before it may be judged
        ((1.0, 1.05, 0.95, 1.05, 1.05, 0.95), 8, False),  # in doubt, and its 45 seconds are over
    ],
)
def test_a_unit_sits_again_while_it_is_in_doubt_and_has_time(
    session: ComparisonSession, store: ComparisonStore, ratios: tuple[float, ...], look: int, sits_again: bool
) -> None:
    comparison = begin(store, *ratios)
    lines = session.list_undecided(comparison, [UNIT], [DEVICE], look)
    assert lines == ({DEVICE: [UNIT]} if sits_again else {})


def test_every_kind_of_device_has_sittings_of_its_own(session: ComparisonSession, store: ComparisonStore) -> None:
    comparison = begin(store, 3.0, 3.01, 2.99)
    assert session.list_undecided(comparison, [UNIT], [DEVICE, "another"], 3) == {"another": [UNIT]}


def test_what_was_measured_of_the_same_commits_is_remembered_if_it_told(
    session: ComparisonSession, store: ComparisonStore
) -> None:
    series = sit(0, 1.0).head[0].series
    asked = make_comparison(least_change=2.0)
    earlier = begin(store, 3.0, 3.01, 2.99)
    assert session.recall(asked, series) is None, "it has not ended"
    store.finish(replace(earlier, status="complete"))
    recalled = session.recall(asked, series)
    assert recalled is not None
    assert [contrast.state for contrast in recalled.contrasts] == [State.SLOW]
    assert recalled.comparison.least_change == 2.0
    assert session.recall(replace(asked, seed=1), series) is None
    assert session.recall(replace(asked, head_commit="c" * 40), series) is None
    assert session.recall(asked, replace(series, timer="cold")) is None


def test_how_a_comparison_ends_is_stored(store: ComparisonStore) -> None:
    ended = ((WorkerError("gone"), "partial"), (KeyboardInterrupt(), "interrupted"), (OSError(), "failed"))
    for error, status in ended:
        begun = begin(store)
        with pytest.raises(type(error)), noting_the_end(store, begun):
            raise error
        assert [one.status for one in store.comparisons()] == [status]
    with noting_the_end(store, begin(store)):
        pass
    assert [one.status for one in store.comparisons()] == ["running"]
