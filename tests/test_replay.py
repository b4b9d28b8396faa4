"""A simulated year in small: what is told of nights whose truth is known. benchmarks/replay.py does it in full."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from histories import History, Plan, make_history
from replays import Outcome, Score, find_delays, name_series, replay, score_replay, share_within

from tasks.judgement.groups import Subject
from tasks.judgement.incidents import Alert, Kind
from tasks.records import State

YEAR = Plan(
    num_series=240,
    num_nights=150,
    num_cards=3,
    num_steps=30,
    step_sizes=(0.05,),
    num_group_steps=3,
    num_drifts=0,
    num_outages=4,
    num_skipped=3,
    num_library_changes=1,
    num_driver_changes=0,
    num_swaps=3,
)
QUIET = Plan(
    num_series=80,
    num_nights=85,
    num_cards=2,
    num_steps=0,
    num_group_steps=0,
    num_drifts=0,
    num_outages=0,
    num_skipped=0,
    share_missing=0.0,
    num_library_changes=0,
    num_driver_changes=0,
    num_swaps=0,
)


@pytest.fixture(scope="module")
def score() -> Score:
    history = make_history(YEAR, seed=0)
    return score_replay(history, replay(history))


@pytest.fixture(scope="module")
def story() -> dict[int, list[tuple[int, Alert]]]:
    """The messages of four series among quiet ones, with their nights; nobody answers any."""
    history = make_quiet()
    for row, by in STORY.items():
        history = change(history, row, by)
    return tell(history, replay(history, acknowledge_after=None))


def make_quiet(**changes: object) -> History:
    """A history without events whose noise is normal, 0.3 % of it, on cards that differ."""
    history, rng = make_history(replace(QUIET, **changes), seed=0), np.random.default_rng(0)  # type: ignore[arg-type]
    cards = rng.uniform(-0.02, 0.02, int(history.cards.max()) + 1)[history.cards]
    first, second, third = history.level + cards + rng.normal(0, 0.003, (3, *history.values.shape))
    return replace(history, values=first, again=second, beside=third)


def change(history: History, row: int, by: np.ndarray) -> History:
    """With one series that took so much more, as logarithms by night."""
    added = np.zeros(history.state.shape)
    added[:, row] = by
    names = ("state", "values", "again", "beside")
    return replace(history, **{name: getattr(history, name) + added for name in names})


def change_machine(history: History, driver: np.ndarray, outage: np.ndarray) -> History:
    """With a driver and an outage, by night, that reference kernels show, and each series 0.7 to 1.3 times as much."""
    rng, num_series = np.random.default_rng(0), len(history.cases)
    on_kernels, on_machine = (by[:, None] * rng.uniform(0.7, 1.3, num_series) for by in (driver, outage))
    moved = {name: getattr(history, name) + on_kernels + on_machine for name in ("values", "again", "beside")}
    references = history.references + (driver + outage)[:, None, None]
    return replace(history, drivers=history.drivers + on_kernels, references=references, **moved)


def tell(history: History, outcomes: Iterator[Outcome]) -> dict[int, list[tuple[int, Alert]]]:
    """The messages by the number of their series, each with its night."""
    names, told = name_series(history), {}
    for outcome in outcomes:
        for alert in outcome.follow_up.alerts:
            (one,) = alert.incident.series
            told.setdefault(names[one], []).append((outcome.number, alert))
    return told


def step(size: float, first: int, last: int | None = None) -> np.ndarray:
    by = np.zeros(QUIET.num_nights)
    by[first:last] = np.log1p(size)
    return by


TAKEN_BACK, UNANSWERED, GAIN, DRIFT = 7, 21, 35, 49
STORY = {
    TAKEN_BACK: step(0.05, 40, 55),
    UNANSWERED: step(0.05, 40),
    GAIN: step(-0.05, 40, 60),
    DRIFT: np.log1p(0.0015) * np.clip(np.arange(QUIET.num_nights) - 35, 0, 30),
}


def test_at_most_one_group_a_week_is_false_of_2000_series(score: Score) -> None:
    # a false incident is of one series, so that 2,000 series have 2000 / 240 times as many; the noise of series that
    # take one of two times is learned in the first four weeks
    weeks = (YEAR.num_nights - 28) / 7
    learned = [number for number, _ in score.false if number >= 28]
    assert len(learned) / weeks * 2000 / YEAR.num_series <= 1.0
    assert len(score.false) <= 0.15 * len(score.opened)


def test_a_step_of_5_percent_in_one_series_is_told_within_3_nights(score: Score) -> None:
    history = score.history
    steps = [event for event in history.events if event.kind == "step"]
    steady = [e for e in steps if history.noises[e.rows[0]] != "bimodal" and history.sigma[e.rows[0]] < 0.05 / 3]
    assert len(find_delays(score, steady)) >= 20
    assert share_within(find_delays(score, steady), 3) >= 0.9
    assert share_within(find_delays(score, steps), 3) >= 0.85


def test_what_moved_together_is_told_as_one(score: Score) -> None:
    names = score.history.cases, score.history.providers
    for event in score.history.events:
        if event.kind not in ("group step", "library"):
            continue
        row = int(event.rows[0])
        kernel, provider = names[0][row].layer.kernel, names[1][row]
        device = next(iter(name_series(score.history))).device_name
        of_group = Subject(device, kernel, provider)
        of_library = Subject(device, provider=provider.partition("-")[0])
        expected = {str(of_group if event.kind == "group step" else of_library), str(Subject(device, kernel))}
        told = [i for number, i, _ in score.opened if event.first <= number <= event.first + 2 and len(i.series) > 3]
        assert expected & {incident.subject for incident in told}, event


def test_no_outage_and_no_swapped_card_is_told_as_a_regression(score: Score) -> None:
    events = [event for event in score.history.events if event.kind in ("outage", "card swap")]
    assert len(events) == 7
    for event in events:
        last = event.last if event.kind == "outage" else event.first
        assert [incident for number, incident in score.false if event.first <= number <= last + 3] == []


def test_an_outage_is_told_as_the_machines(score: Score) -> None:
    assert score.num_machine >= 1


@pytest.mark.parametrize("nights", [3, 18, 20])
def test_an_outage_after_a_new_driver_is_told_as_the_machines(nights: int) -> None:
    history = make_quiet(num_series=160, num_nights=30 + nights + 2, num_cards=1)
    driver, outage = np.zeros((2, 30 + nights + 2))
    driver[30:], outage[-2:] = np.log1p(-0.043), np.log1p(0.065)
    found = list(replay(change_machine(history, driver, outage), first=28))
    told = [(outcome.number, alert.incident) for outcome in found for alert in outcome.follow_up.alerts]
    assert {incident.state for _, incident in told} == {State.AMBIGUOUS}
    opened = [(number, incident.since_run) for number, incident in told if not incident.resolved_run]
    assert opened == [(30, "night-030"), (30 + nights, f"night-{30 + nights:03}")]  # the second is not swallowed


def test_a_new_driver_is_no_gain_of_the_kernels_however_far_is_looked_back() -> None:
    history, (driver, outage) = make_quiet(num_series=160, num_nights=70), np.zeros((2, 70))
    driver[30:] = np.log1p(-0.026)
    found = list(replay(change_machine(history, driver, outage), first=28))
    told = [(outcome.number, alert.kind, alert.incident) for outcome in found for alert in outcome.follow_up.alerts]
    assert [(number, kind) for number, kind, _ in told] == [(30, Kind.OPENED), (36, Kind.RESOLVED)]  # lasts for a week
    assert {incident.state for _, _, incident in told} == {State.AMBIGUOUS}


@pytest.mark.parametrize("nights", [8, 15])
@pytest.mark.parametrize("size", [0.05, -0.05])
def test_a_step_after_a_new_driver_is_told_at_once(nights: int, size: float) -> None:
    history, (driver, outage) = make_quiet(num_series=160, num_nights=30 + nights + 3), np.zeros((2, 33 + nights))
    driver[30:] = np.log1p(0.035)
    by = np.zeros(33 + nights)
    by[30 + nights :] = np.log1p(size)
    history = change(change_machine(history, driver, outage), 7, by)
    (row,) = (one for one, number in name_series(history).items() if number == 7)
    states = [
        (outcome.number, verdict.state)
        for outcome in replay(history, first=28)
        for verdict in outcome.verdicts
        if verdict.series == row and outcome.number >= 29 + nights
    ]
    moved = State.SLOW if size > 0 else State.FAST
    assert states[:3] == [(29 + nights, State.SAME), (30 + nights, moved), (31 + nights, moved)]


def test_nothing_is_told_again_within_a_week(score: Score) -> None:
    assert len(score.repeated) <= 2  # a small step of a noisy series may seem over in between


def test_measuring_again_takes_few_true_steps_back(score: Score) -> None:
    assert score.confirmed >= 20
    assert score.withdrawn <= 0.1 * (score.confirmed + score.withdrawn)


def test_nothing_is_told_of_quiet_series(story: dict[int, list[tuple[int, Alert]]]) -> None:
    assert story.keys() == STORY.keys()


def test_a_step_that_is_taken_back_is_resolved(story: dict[int, list[tuple[int, Alert]]]) -> None:
    alerts = story[TAKEN_BACK]
    assert [alert.kind for _, alert in alerts] == [Kind.OPENED, Kind.STILL_OPEN, Kind.STILL_OPEN, Kind.RESOLVED]
    assert 40 <= alerts[0][0] <= 42
    assert alerts[0][1].incident.since_run == "night-040"
    assert 55 <= alerts[-1][0] <= 57


def test_a_step_that_nobody_answers_is_told_once_a_week(story: dict[int, list[tuple[int, Alert]]]) -> None:
    nights, alerts = zip(*story[UNANSWERED], strict=True)
    assert {alert.kind for alert in alerts[1:]} == {Kind.STILL_OPEN}
    assert set(np.diff(nights)) == {7}


def test_a_gain_is_told_once_and_is_the_new_baseline(story: dict[int, list[tuple[int, Alert]]]) -> None:
    (gain_night, gain), (loss_night, loss), *later = story[GAIN]
    assert (gain.kind, gain.incident.state) == (Kind.OPENED, State.FAST)
    assert (loss.kind, loss.incident.state) == (Kind.OPENED, State.SLOW)
    assert 40 <= gain_night <= 42
    assert 60 <= loss_night <= 62
    assert {alert.kind for _, alert in later} <= {Kind.STILL_OPEN}


def test_a_drift_of_a_seventh_of_a_percent_a_night_is_told(story: dict[int, list[tuple[int, Alert]]]) -> None:
    night, alert = story[DRIFT][0]
    assert (alert.kind, alert.incident.state) == (Kind.OPENED, State.SLOW)
    assert night <= 75


def test_a_step_that_is_acknowledged_is_told_once() -> None:
    history = change(make_quiet(num_series=40), 7, STORY[UNANSWERED])
    ((_, alert),) = tell(history, replay(history, acknowledge_after=5))[7]
    assert alert.kind is Kind.OPENED


def test_verdicts_depend_neither_on_the_order_of_the_series_nor_on_the_unit() -> None:
    plan = replace(QUIET, num_series=40, num_nights=48, num_steps=6, num_swaps=1, step_sizes=(0.04, 0.1))
    plan = replace(plan, num_driver_changes=1)
    history, mixed = make_history(plan, 5), np.random.default_rng(0).permutation(40)
    of_times = ("values", "again", "beside")
    shuffled = replace(
        history,
        **{name: tuple(getattr(history, name)[row] for row in mixed) for name in ("cases", "providers", "timers")},
        **{name: getattr(history, name)[:, mixed] for name in (*of_times, "state", "drivers", "code", "cards")},
        units=history.units[mixed],
    )
    nanoseconds = replace(history, **{name: getattr(history, name) + np.log(1000) for name in of_times})
    replays = (replay(one, first=20) for one in (history, shuffled, nanoseconds))
    for plain, *others in zip(*replays, strict=True):
        told = {verdict.series: verdict for verdict in plain.verdicts}
        for other in others:
            assert len(other.verdicts) == len(told)
            for verdict in other.verdicts:
                expected = told[verdict.series]
                assert (verdict.state, verdict.since_run) == (expected.state, expected.since_run)
                assert verdict.p_value == pytest.approx(expected.p_value, abs=1e-9)
                assert verdict.relative_change == pytest.approx(expected.relative_change, abs=1e-9)
