"""Several nights on a real DuckDB file: suspects, verdicts, incidents and causes as the stages make them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from records import GPU, make_case, make_host, make_measurement, make_reference, make_run, make_trial

from tasks.evidence import follow_incidents, gather_past, gather_suspects
from tasks.judgement.history import Mark
from tasks.judgement.incidents import Alert, Kind
from tasks.judgement.verdicts import judge_night
from tasks.records import Measurement, Retrial, State, Status, UnitResult, Verdict, Version
from tasks.storage.store import Store

TOKENS = (16, 64, 256)
PROVIDERS = ("triton", "vllm-cutlass")
NIGHTS = 8


class Story:
    """Nights of six series on one card, judged and followed up as the flow does it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._noise = random.Random(1)
        self._nights = 0

    def pass_night(
        self,
        slow: Sequence[str] = (),
        factor: float = 1.1,
        again: float | None = None,
        clock_mhz: int = 1980,
        **check: object,
    ) -> tuple[dict[State, int], tuple[Alert, ...]]:
        """Measure, look again at suspects if `again` says what they take then, judge, and follow up.

        Args:
            slow: providers that take `factor` times as long.
        Returns:
            Verdicts by state, and what somebody is told.
        """
        self._nights += 1
        run = make_run(f"run-{self._nights:02}", self._nights, git_commit=f"{self._nights:040x}", git_dirty=False)
        self.store.begin_run(run)
        measured = [
            self._measure(run.run_id, tokens, provider, factor if provider in slow else 1.0, clock_mhz, check)
            for tokens in TOKENS
            for provider in PROVIDERS
        ]
        reference = make_reference(run_id=run.run_id)
        self.store.commit_unit(run.run_id, UnitResult(make_host(), None, tuple(measured), (reference,)))
        measurements = self.store.measurements(run.run_id)
        past = gather_past(self.store, run, measurements)
        suspects = gather_suspects(self.store, past, measurements)
        self.suspects = suspects
        if again is not None:
            found = [
                self._measure(run.run_id, s.case.num_tokens, s.series.provider, again, clock_mhz, check)
                for s in suspects
            ]
            self.store.journal.commit_retrials([Retrial(m, Version.TONIGHT) for m in found])
        past = gather_past(self.store, run, measurements, known=past)
        self.verdicts = judge_night(measurements, past)
        self.store.journal.commit_verdicts(run.run_id, self.verdicts)
        news = follow_incidents(self.store, past, self.verdicts)
        self.store.journal.commit_incidents(news.incidents)
        self.store.finish_run(replace(run, status="complete", finished_at=run.started_at + timedelta(minutes=5)))
        return count(self.verdicts), news.alerts

    def _measure(
        self, run_id: str, tokens: int, provider: str, factor: float, clock_mhz: int, check: dict[str, object]
    ) -> Measurement:
        usual_us = 10.0 * tokens * factor * self._noise.gauss(1.0, 0.002)
        made = make_measurement(
            run_id,
            make_case(tokens),
            provider,
            [usual_us] * 3,
            **{"config": {"num_warps": 4}, "relative_error": 0.01, **check},  # type: ignore[arg-type]
        )
        trial = make_trial()
        assert trial.state
        state = replace(trial.state, sm_clock_mhz=clock_mhz, throttle_reasons=("sw_thermal_slowdown",))
        return replace(made, trials=(replace(trial, state=state),))


def count(verdicts: Sequence[Verdict]) -> dict[State, int]:
    counts: dict[State, int] = {}
    for verdict in verdicts:
        counts[verdict.state] = counts.get(verdict.state, 0) + 1
    return counts


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with Store.open(tmp_path) as store:
        told = Story(store)
        for _ in range(NIGHTS):
            told.pass_night()
        yield told


def test_quiet_nights_are_the_same_and_nobody_is_told(story: Story) -> None:
    assert story.pass_night() == ({State.SAME: 6}, ())
    assert story.suspects == []


def test_a_slow_provider_is_measured_again_and_told_once_with_what_changed(story: Story) -> None:
    states, [alert] = story.pass_night(["triton"], again=1.1, config={"num_warps": 8})
    assert states == {State.SLOW: 3, State.SAME: 3}
    assert {suspect.series.provider for suspect in story.suspects} == {"triton"}
    assert {suspect.good_run for suspect in story.suspects} == {f"run-{NIGHTS:02}"}
    assert {suspect.good_commit for suspect in story.suspects} == {f"{NIGHTS:040x}"}
    assert [dict(suspect.good_config) for suspect in story.suspects] == [{"num_warps": 4}] * 3
    assert all(v.is_confirmed for v in story.verdicts if v.state is State.SLOW)
    assert alert.kind is Kind.OPENED
    assert alert.incident.subject == "fused_moe triton on NVIDIA H200"
    assert len(alert.incident.series) == 3
    assert any("config num_warps 4 -> 8" in cause for cause in alert.incident.causes)
    assert any(cause.startswith("commit ") for cause in alert.incident.causes)
    assert story.pass_night(["triton"], again=1.1) == ({State.SLOW: 3, State.SAME: 3}, ())


def test_what_is_back_when_measured_again_is_not_told(story: Story) -> None:
    assert story.pass_night(["triton"], again=1.0) == ({State.SAME: 6}, ())
    assert all(v.is_confirmed is False for v in story.verdicts if v.series.provider == "triton")


def test_a_change_that_nobody_measured_again_is_told_when_the_next_night_shows_it_too(story: Story) -> None:
    assert story.pass_night(["triton"]) == ({State.AMBIGUOUS: 3, State.SAME: 3}, ())
    states, [alert] = story.pass_night(["triton"])
    assert states == {State.SLOW: 3, State.SAME: 3}
    assert alert.incident.since_run == f"run-{NIGHTS + 1:02}"


def test_it_is_over_when_two_looks_in_a_row_say_so(story: Story) -> None:
    story.pass_night(["triton"], again=1.1)
    states, [alert] = story.pass_night(again=1.0)
    assert states == {State.SAME: 6}
    assert alert.kind is Kind.RESOLVED
    assert story.store.journal.standing_incidents() == []


def test_a_slow_clock_takes_the_blame(story: Story) -> None:
    states, [alert] = story.pass_night(PROVIDERS, again=1.1, clock_mhz=1755)
    assert states == {State.AMBIGUOUS: 6}
    assert all(verdict.is_machine for verdict in story.verdicts)
    assert "SM clock 1755 MHz instead of 1980" in alert.incident.evidence
    assert alert.incident.state is State.AMBIGUOUS


def test_what_a_person_accepts_is_the_baseline_from_then_on(story: Story) -> None:
    _, [alert] = story.pass_night(["triton"], again=1.1)
    incident, store = alert.incident, story.store
    marks = [Mark(series, incident.since_run, incident.opened_run, "expected", "ada") for series in incident.series]
    store.journal.acknowledge(replace(incident, acknowledgement="expected"), marks, incident.opened_at)
    assert story.pass_night(["triton"]) == ({State.SAME: 6}, ())
    assert story.store.journal.standing_incidents() == []


def test_a_series_that_fails_or_is_absent_is_told_until_it_is_back(story: Story) -> None:
    states, [alert] = story.pass_night(status=Status.WRONG, reason="relative error 0.3 is over 0.05")
    assert states == {State.WRONG: 6}
    assert alert.incident.subject == f"all kernels on {GPU.name}"
    assert story.pass_night(status=Status.WRONG, reason="relative error 0.3 is over 0.05")[1] == ()
    states, [alert] = story.pass_night()
    assert (states, alert.kind) == ({State.SAME: 6}, Kind.RESOLVED)
