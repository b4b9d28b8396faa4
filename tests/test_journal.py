"""What was judged, told and answered, on real DuckDB files."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from records import STARTED, make_case, make_measurement, make_run, make_series, make_unit

from tasks.channels.letters import Letter
from tasks.judgement.history import Mark
from tasks.judgement.incidents import Incident
from tasks.records import Retrial, State, Status, Verdict, Version
from tasks.storage.journal import Journal
from tasks.storage.store import Store

SERIES = make_series()
OTHER = make_series("vllm-cutlass")
INCIDENT = Incident(
    incident_id="slow-3f9a1c",
    state=State.SLOW,
    subject="fused_moe triton on NVIDIA H200",
    since_run="run-1",
    opened_run="run-2",
    opened_at=STARTED,
    series=(SERIES, OTHER),
    lowest_change=0.041,
    highest_change=0.063,
    causes=("triton 3.6.0 -> 3.7.1", "config: 'BLOCK_SIZE_M' 64 -> 128"),
    evidence="105.0 us against 100.0 us",
    told_at=STARTED + timedelta(hours=1),
)
LETTER = Letter("slow-3f9a1c/opened/run-2", "webhook", '{"kind": "opened"}', STARTED)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        for number in range(1, 5):
            opened.begin_run(make_run(f"run-{number}", number))
        yield opened


@pytest.fixture
def journal(store: Store) -> Journal:
    return store.journal


def make_verdict(run_id: str, state: State = State.SAME, provider: str = "triton") -> Verdict:
    return Verdict(
        run_id,
        make_series(provider),
        state,
        "105.0 us against 100.0 us",
        105.0,
        100.0,
        0.05,
        low=0.041,
        high=0.059,
        p_value=1e-7,
        since_run="run-1",
        baseline_run="run-0",
        is_confirmed=True,
        is_machine=True,
    )


def test_every_field_of_a_verdict_comes_back(journal: Journal) -> None:
    verdicts = [make_verdict("run-2", State.SLOW), Verdict("run-2", OTHER, State.NEW, "first night")]
    journal.commit_verdicts("run-2", verdicts)
    assert sorted(journal.verdicts("run-2"), key=str) == sorted(verdicts, key=str)


def test_the_latest_verdict_of_each_series_is_of_the_newest_earlier_run_with_that_seed(store: Store) -> None:
    journal = store.journal
    store.begin_run(make_run("run-5", 5, seed=8))
    for run_id in ("run-1", "run-3", "run-4", "run-5"):
        journal.commit_verdicts(run_id, [make_verdict(run_id)])
    journal.commit_verdicts("run-2", [make_verdict("run-2"), make_verdict("run-2", State.MISSING, "vllm-cutlass")])
    latest = journal.latest_verdicts(make_run("run-4", 4))
    assert {(v.series.provider, v.run_id) for v in latest} == {("triton", "run-3"), ("vllm-cutlass", "run-2")}
    assert journal.latest_verdicts(make_run("run-1", 1)) == []


def test_the_latest_verdict_without_a_time_comes_after_the_latest_with_one(store: Store) -> None:
    journal = store.journal
    for run_id in ("run-1", "run-2"):
        journal.commit_verdicts(run_id, [make_verdict(run_id, State.SLOW)])
    journal.commit_verdicts("run-3", [replace(make_verdict("run-3", State.FAILED), median_us=None)])
    latest = journal.latest_verdicts(make_run("run-4", 4))
    assert [(verdict.run_id, verdict.state) for verdict in latest] == [("run-2", State.SLOW), ("run-3", State.FAILED)]


def test_retrials_come_back_with_their_measurements_and_are_stored_once(store: Store) -> None:
    ok, failed = make_measurement("run-2"), make_measurement("run-2", status=Status.UNSUPPORTED, reason="no commit")
    store.commit_unit("run-2", make_unit([ok]))
    retrials = [Retrial(failed, Version.PREVIOUS_CODE, "run-1"), Retrial(ok, Version.TONIGHT)]
    store.journal.commit_retrials(retrials)
    store.journal.commit_retrials(retrials)
    assert store.journal.retrials("run-2") == retrials
    assert store.journal.retrials("run-1") == []


def test_incidents_come_back_whole_and_replace_those_of_their_id(journal: Journal) -> None:
    other = replace(
        INCIDENT, incident_id="wrong-aaaaaa", series=(), told_at=None, opened_at=STARTED - timedelta(days=1)
    )
    journal.commit_incidents([INCIDENT, other])
    changed = replace(INCIDENT, series=(SERIES,), lowest_change=None, highest_change=None, causes=())
    journal.commit_incidents([changed])
    assert journal.incidents() == [other, changed]


def test_a_night_shows_what_stood_then_and_what_it_found_over(journal: Journal) -> None:
    for run_id in ("run-1", "run-2", "run-3", "run-4"):
        journal.commit_verdicts(run_id, [make_verdict(run_id)])
    over = replace(INCIDENT, resolved_run="run-3")
    journal.commit_incidents([over, replace(INCIDENT, incident_id="later", opened_run="run-4")])
    shown = {
        run_id: [one.incident_id for one in journal.incidents_of(run_id)] for run_id in ("run-1", "run-2", "run-3")
    }
    assert shown == {"run-1": [], "run-2": ["slow-3f9a1c"], "run-3": ["slow-3f9a1c"]}
    assert [one.incident_id for one in journal.incidents_of("run-4")] == ["later"]
    assert [one.incident_id for one in journal.standing_incidents()] == ["later"]


def test_an_acknowledgement_is_stored_with_its_marks(journal: Journal) -> None:
    journal.commit_incidents([INCIDENT])
    marks = [Mark(series, "run-1", "run-2", "exact scales cost that", "ada") for series in INCIDENT.series]
    journal.acknowledge(replace(INCIDENT, acknowledgement="exact scales cost that"), marks, STARTED)
    assert journal.incidents() == [replace(INCIDENT, acknowledgement="exact scales cost that")]
    later = Mark(SERIES, "run-3", "run-4", "a new baseline", "")
    journal.commit_marks([later], STARTED + timedelta(days=1))
    assert journal.marks() == [*marks, later]


def test_the_outbox_keeps_a_letter_until_it_is_sent_or_given_up(journal: Journal) -> None:
    other = replace(LETTER, channel="slack", made_at=STARTED - timedelta(days=1))
    journal.put([LETTER, other])
    journal.put([replace(LETTER, body="written again")])
    assert journal.pending() == [other, LETTER]
    journal.mark_failed(other, "no answer within 5 s", STARTED)
    assert journal.pending() == [replace(other, attempts=1, error="no answer within 5 s"), LETTER]
    journal.mark_sent(LETTER, STARTED)
    journal.mark_failed(replace(other, given_up=True), "no answer within 5 s", STARTED)
    assert journal.pending() == []
    journal.put([LETTER, other])
    assert journal.pending() == []


def test_a_letter_survives_the_process_that_wrote_it(store: Store, tmp_path: Path) -> None:
    store.journal.put([LETTER])
    store.close()
    with Store.open(tmp_path) as reopened:
        assert reopened.journal.pending() == [LETTER]


def test_cases_of_retrials_are_those_of_the_run(store: Store) -> None:
    measured = make_measurement("run-2", case=make_case(64))
    store.commit_unit("run-2", make_unit([measured]))
    store.journal.commit_retrials([Retrial(measured, Version.LAST_GOOD_CONFIG, "run-1")])
    [found] = store.journal.retrials("run-2")
    assert found.measurement.check.case == make_case(64)
