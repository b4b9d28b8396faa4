"""Comparisons round trip, go on after a kill, and leave every night as it was."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from records import STARTED, make_comparison, make_host, make_measurement, make_run

from tasks.commits.comparisons import Sitting
from tasks.evidence import follow_incidents, gather_past
from tasks.judgement.reference_histories import ReferenceHistories
from tasks.judgement.verdicts import judge_night
from tasks.records import Measurement, Status, UnitResult
from tasks.storage.comparison_store import ComparisonStore
from tasks.storage.database import TABLES
from tasks.storage.store import Store

OF_COMPARISONS = {"comparisons", "sittings", "hosts", "cases"}
"""Tables that a comparison may write to; of hosts and cases only what was not there."""


def make_sitting(number: int = 0, slowdown: float = 2.0) -> Sitting:
    """The branch is so many times as slow as the nights are; on another seed's series of the same name."""
    base = make_measurement(run_id="one")
    head = replace(base, samples_us=tuple(sample * slowdown for sample in base.samples_us))
    layer = base.check.case.layer.key
    return Sitting("one", layer, base.device.name, number, 4.5, (head,), (base,))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ComparisonStore]:
    with ComparisonStore.open(tmp_path) as opened:
        yield opened


def test_everything_comes_back_as_it_was(store: ComparisonStore, tmp_path: Path) -> None:
    begun = store.begin(make_comparison(comparison_id=""))
    assert begun.comparison_id == f"{STARTED:%Y%m%dT%H%M%SZ}"
    wrong = replace(make_measurement(run_id=begun.comparison_id), check=make_measurement(status=Status.WRONG).check)
    sittings = [
        replace(make_sitting(0), comparison_id=begun.comparison_id),
        replace(make_sitting(1), comparison_id=begun.comparison_id, head=(replace(wrong, samples_us=()),)),
    ]
    sittings = [
        replace(one, head=rename(one.head, begun.comparison_id), base=rename(one.base, begun.comparison_id))
        for one in sittings
    ]
    for sitting in sittings:
        store.commit_sitting(sitting, make_host())
    ended = replace(begun, status="complete", finished_at=STARTED + timedelta(minutes=3))
    store.finish(ended)
    store.publish()
    with ComparisonStore.read(tmp_path) as read:
        assert read.comparisons() == [ended]
        assert read.sittings(begun.comparison_id) == sittings
        [(series, (case, seed))] = read.measured_series().items()
        assert (series, case, seed) == (sittings[0].head[0].series, sittings[0].head[0].check.case, begun.seed)


def rename(measurements: tuple[Measurement, ...], comparison_id: str) -> tuple[Measurement, ...]:
    return tuple(replace(one, run_id=comparison_id) for one in measurements)


def test_the_same_question_goes_on_until_it_was_answered(store: ComparisonStore) -> None:
    asked = make_comparison(comparison_id="")
    first = store.begin(asked)
    store.finish(replace(first, status="interrupted"))
    later = replace(asked, started_at=STARTED + timedelta(hours=1))
    assert store.begin(later) == first
    assert store.begin(replace(later, seed=1)).comparison_id != first.comparison_id
    store.finish(replace(first, status="complete"))
    again = store.begin(asked)
    assert again.comparison_id == f"{first.comparison_id}-2"
    assert [one.status for one in store.comparisons()] == ["complete", "running", "running"]


def test_a_night_after_a_comparison_is_judged_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Of the same seed, layer, device and, but for the branch, times."""
    with Store.open(tmp_path) as store:
        for number in range(8):
            night = make_run(f"night-{number}", number, seed=0)
            store.begin_run(night)
            store.commit_unit(night.run_id, UnitResult(make_host(), None, (make_measurement(night.run_id),)))
            store.finish_run(replace(night, status="complete"))
        run = store.begin_run(make_run("tonight", 9, seed=0))
        tonight = make_measurement("tonight")
        tonight = replace(tonight, samples_us=tuple(sample * 1.2 for sample in tonight.samples_us))
        store.commit_unit(run.run_id, UnitResult(make_host(), None, (tonight,)))
        told = judge(store)
        before = dump(store)
    with ComparisonStore.open(tmp_path) as comparisons:
        comparisons.begin(make_comparison(started_at=STARTED + timedelta(days=8)))
        for number in range(8):
            comparisons.commit_sitting(make_sitting(number), make_host())
    with Store.open(tmp_path) as store:
        assert judge(store) == told
        assert dump(store) == before
        assert store.find_run().run_id == "night-7"


NOT_COMPARED = ReferenceHistories()


def judge(store: Store) -> object:
    """All that tonight is judged by, its verdicts and its incidents."""
    run = store.find_run("tonight")
    measurements = store.measurements(run.run_id)
    past = gather_past(store, run, measurements)
    verdicts = judge_night(measurements, past)
    news = follow_incidents(store, past, verdicts)
    return (
        replace(past, trends=dict(past.trends), references=NOT_COMPARED),
        past.references.values.tolist(),
        verdicts,
        len(news.incidents),
        store.last_unit_seconds(),
        store.previous_series(run),
    )


def dump(store: Store) -> dict[str, object]:
    """Every row of every table that is of nights."""
    tables = [table for table in TABLES if table not in OF_COMPARISONS - {"hosts", "cases"}]
    return {table: store._database.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables}
