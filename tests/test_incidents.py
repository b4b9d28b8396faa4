"""Incidents followed over nights: what is told, once, and what is not."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from records import STARTED, make_run, make_verdict

from tasks.judgement.groups import Group
from tasks.judgement.incidents import Alert, Incident, Kind, follow_up
from tasks.records import Series, State, Verdict

KERNEL = [Series(f"fused_moe/case-{number}", "triton", "graph", "NVIDIA H200") for number in range(4)]
OTHERS = [Series(f"mxfp4_gemm/case-{number}", "torch", "graph", "NVIDIA H200") for number in range(6)]
ALL = [*KERNEL, *OTHERS]
ORDER = {f"run-{number}": number for number in range(60)}


def slow(series: Sequence[Series] = KERNEL, since: int = 1, change: float = 0.05, **changes: object) -> list[Verdict]:
    changes = {"relative_change": change, "since_run": f"run-{since}", **changes}
    return [make_verdict(State.SLOW, one, **changes) for one in series]


def say(state: State, series: Sequence[Series] = KERNEL, since: int = 1, **changes: object) -> list[Verdict]:
    return [make_verdict(state, one, **{"since_run": f"run-{since}", **changes}) for one in series]


@dataclass
class Story:
    """Nights in a row, with what stands between them as the store keeps it."""

    incidents: dict[str, Incident] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)

    def pass_night(
        self, night: int, told: Sequence[Verdict] = (), unseen: Sequence[Series] = (), at: datetime | None = None
    ) -> list[tuple[Kind, State]]:
        """One night in which everything that is not told, or unseen, is the same. Gives the messages of it."""
        run = make_run(f"run-{night}", night)
        named = {verdict.series for verdict in told} | set(unseen)
        verdicts = [replace(verdict, run_id=run.run_id) for verdict in told]
        verdicts += [make_verdict(State.SAME, series, run_id=run.run_id) for series in ALL if series not in named]
        standing = [incident for incident in self.incidents.values() if not incident.resolved_run]
        now = at or STARTED + timedelta(days=night)
        made = follow_up(standing, verdicts, run, ORDER, now, lambda group: [f"cause of {len(group.series)}"])
        self.incidents |= {incident.incident_id: incident for incident in made.incidents}
        self.alerts += made.alerts
        return [(alert.kind, alert.incident.state) for alert in made.alerts]

    def acknowledge(self) -> None:
        """Somebody expects everything that stands."""
        for incident_id, incident in self.incidents.items():
            self.incidents[incident_id] = replace(incident, acknowledgement="expected")

    @property
    def standing(self) -> list[Incident]:
        return [incident for incident in self.incidents.values() if not incident.resolved_run]


OPENED, WORSE, STILL_OPEN, RESOLVED = ((kind, State.SLOW) for kind in Kind)


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def opened(story: Story) -> Story:
    """A kernel's series are slow since run 1, and somebody was told."""
    assert story.pass_night(1, slow()) == [OPENED]
    return story


# Opened


def test_a_quiet_night_tells_nothing(story: Story) -> None:
    assert story.pass_night(1) == []
    assert story.incidents == {}


def test_a_group_is_opened_once_with_all_that_is_known_of_it(story: Story) -> None:
    changes = (0.041, 0.063, 0.05, 0.05)
    told = [v for series, change in zip(KERNEL, changes, strict=True) for v in slow([series], change=change)]
    assert story.pass_night(1, told) == [OPENED]
    [incident] = story.standing
    assert incident.headline == "4 series of fused_moe triton on NVIDIA H200: SLOW, +4.1% to +6.3%, since run run-1"
    assert incident.incident_id.startswith("slow-")
    assert (incident.opened_run, incident.opened_at, incident.told_at) == ("run-1", *(STARTED + timedelta(days=1),) * 2)
    assert (incident.causes, incident.series) == (("cause of 4",), tuple(KERNEL))
    assert incident.evidence == "fused_moe/case-1 triton (graph): as it was seen"
    assert incident.is_open
    assert story.alerts[0].incident == incident
    assert story.alerts[0].alert_id == f"{incident.incident_id}/opened/run-1"


def test_the_headline_of_one_series_and_of_what_has_no_time_is_short(story: Story) -> None:
    story.pass_night(1, [*slow(KERNEL[:1]), *say(State.FAILED, OTHERS[:2])])
    assert [incident.headline for incident in story.standing] == [
        "1 series of fused_moe triton on NVIDIA H200: SLOW, +5.0%, since run run-1",
        "2 series of mxfp4_gemm torch on NVIDIA H200: FAILED, since run run-1",
    ]


@pytest.mark.parametrize("state", [State.SLOW, State.FAST, State.WRONG, State.FAILED, State.MISSING])
def test_every_change_of_state_is_told_the_first_night_and_not_the_next(story: Story, state: State) -> None:
    assert story.pass_night(1, say(state)) == [(Kind.OPENED, state)]
    assert story.pass_night(2, say(state)) == []
    assert story.pass_night(3, say(state)) == []


def test_what_is_the_same_new_unsupported_or_not_known_is_told_to_nobody(story: Story) -> None:
    for night, state in enumerate((State.SAME, State.NEW, State.UNSUPPORTED, State.AMBIGUOUS)):
        assert story.pass_night(night, say(state)) == []


def test_two_groups_of_a_night_are_two_messages_with_names_of_their_own(story: Story) -> None:
    assert story.pass_night(1, slow() + slow(OTHERS[:2], since=20)) == [OPENED, OPENED]
    assert len({alert.alert_id for alert in story.alerts}) == len(story.incidents) == 2


def test_what_was_resolved_and_comes_back_is_another_incident(opened: Story) -> None:
    opened.pass_night(2)
    assert opened.pass_night(3, slow(since=3)) == [OPENED]
    assert len(opened.incidents) == 2


def test_the_same_night_followed_up_twice_tells_nothing_twice(opened: Story) -> None:
    assert opened.pass_night(1, slow()) == []
    assert len(opened.incidents) == 1


# Still open, worse


def test_an_incident_that_stands_is_told_again_every_week(opened: Story) -> None:
    messages = [opened.pass_night(night, slow()) for night in range(2, 17)]
    reminders = [night for night, told in enumerate(messages, 2) if told]
    assert reminders == [8, 15]
    assert messages[6] == [STILL_OPEN]


@pytest.mark.parametrize("state", [State.WRONG, State.FAILED, State.MISSING])
def test_what_is_broken_is_told_again_every_week_too(story: Story, state: State) -> None:
    story.pass_night(1, say(state))
    assert story.pass_night(8, say(state)) == [(Kind.STILL_OPEN, state)]


def test_a_gain_and_a_slow_machine_are_not_told_again(story: Story) -> None:
    slow_machine = say(State.AMBIGUOUS, OTHERS[:3], is_machine=True)
    assert story.pass_night(1, say(State.FAST) + slow_machine) == [
        (Kind.OPENED, State.FAST),
        (Kind.OPENED, State.AMBIGUOUS),
    ]
    assert story.pass_night(30, say(State.FAST) + slow_machine) == []


def test_a_change_that_has_gone_much_further_is_told_again_once(opened: Story) -> None:
    assert opened.pass_night(2, slow(change=0.06)) == []
    assert opened.pass_night(3, slow(change=0.3)) == [WORSE]
    assert opened.standing[0].highest_change == 0.3
    assert opened.pass_night(4, slow(change=0.3)) == []
    assert opened.pass_night(5, slow(change=0.05)) == []


def test_a_small_change_must_also_go_a_little_further_to_be_worse(story: Story) -> None:
    story.pass_night(1, slow(change=0.02))
    assert story.pass_night(2, slow(change=0.031)) == []


def test_a_creeping_change_is_measured_against_what_was_told(opened: Story) -> None:
    messages = [opened.pass_night(2 + step, slow(change=0.05 + 0.005 * step)) for step in range(6)]
    assert messages == [[], [], [], [], [], [WORSE]]


def test_a_gain_that_grows_is_no_news(story: Story) -> None:
    story.pass_night(1, say(State.FAST))
    assert story.pass_night(2, say(State.FAST, relative_change=-0.8)) == []


def test_a_clock_that_goes_back_makes_no_message_and_a_long_way_silences_none(opened: Story) -> None:
    assert opened.pass_night(2, slow(), at=STARTED - timedelta(days=2)) == []
    assert opened.pass_night(3, slow(), at=STARTED - timedelta(days=700)) == [STILL_OPEN]
    assert opened.pass_night(4, slow(), at=STARTED - timedelta(days=699)) == []
    assert opened.pass_night(5, slow(), at=STARTED - timedelta(days=693)) == [STILL_OPEN]


# Resolved


def test_an_incident_is_resolved_when_none_of_its_series_is_so_any_longer(opened: Story) -> None:
    assert opened.pass_night(2, slow(KERNEL[:1])) == []
    assert opened.standing[0].series == (KERNEL[0],)
    assert opened.pass_night(3) == [RESOLVED]
    assert opened.standing == []
    assert opened.pass_night(4) == []


@pytest.mark.parametrize("state", [State.WRONG, State.FAILED, State.MISSING])
def test_what_was_broken_is_resolved_when_it_is_the_same_again(story: Story, state: State) -> None:
    story.pass_night(1, say(state))
    assert story.pass_night(2) == [(Kind.RESOLVED, state)]


def test_a_resolved_incident_names_the_run_and_the_series_that_it_was_of(opened: Story) -> None:
    opened.pass_night(2)
    [incident] = opened.incidents.values()
    assert (incident.resolved_run, incident.series, incident.is_open) == ("run-2", tuple(KERNEL), False)
    assert opened.alerts[-1].incident == replace(incident, told_at=STARTED + timedelta(days=2))


def test_a_gain_that_becomes_the_baseline_is_closed_silently(story: Story) -> None:
    story.pass_night(1, say(State.FAST))
    assert story.pass_night(2) == []
    [incident] = story.incidents.values()
    assert (incident.resolved_run, incident.series) == ("run-2", tuple(KERNEL))


def test_a_machine_that_is_well_again_is_resolved(story: Story) -> None:
    slow_machine = say(State.AMBIGUOUS, is_machine=True)
    story.pass_night(1, slow_machine)
    assert story.pass_night(2, say(State.AMBIGUOUS)) == [(Kind.RESOLVED, State.AMBIGUOUS)]


def test_a_kernel_that_turns_from_slow_to_wrong_is_told_and_not_resolved_before_it_is_timed_again(
    opened: Story,
) -> None:
    assert opened.pass_night(2, say(State.WRONG, since=2)) == [(Kind.OPENED, State.WRONG)]
    assert opened.pass_night(3, slow()) == [(Kind.RESOLVED, State.WRONG)]
    assert opened.pass_night(4) == [RESOLVED]


def test_a_failure_that_turns_into_another_state_is_over(story: Story) -> None:
    story.pass_night(1, say(State.FAILED))
    assert story.pass_night(2, say(State.MISSING, since=2)) == [
        (Kind.RESOLVED, State.FAILED),
        (Kind.OPENED, State.MISSING),
    ]


# Series


def test_series_that_were_not_judged_tonight_keep_it_open(opened: Story) -> None:
    assert opened.pass_night(2, unseen=KERNEL) == []
    assert opened.pass_night(3, unseen=KERNEL[1:]) == []
    assert opened.standing[0].series == tuple(KERNEL[1:])
    assert opened.pass_night(4) == [RESOLVED]


def test_a_night_that_judged_none_of_its_series_says_nothing_of_an_incident(opened: Story) -> None:
    assert opened.pass_night(8, unseen=ALL) == []
    [incident] = opened.standing
    assert (incident.lowest_change, incident.highest_change) == (0.05, 0.05)
    assert incident.evidence == "fused_moe/case-3 triton (graph): as it was seen"


def test_series_that_follow_within_a_night_or_two_join_without_a_message(story: Story) -> None:
    assert story.pass_night(1, slow(KERNEL[:3])) == [OPENED]
    assert story.pass_night(2, slow(KERNEL[:3]) + slow(KERNEL[3:], since=2)) == []
    [incident] = story.standing
    assert incident.series == tuple(KERNEL)


def test_twice_as_many_series_are_told_again(story: Story) -> None:
    assert story.pass_night(1, slow(KERNEL[:2])) == [OPENED]
    assert story.pass_night(2, slow(KERNEL[:2]) + slow(KERNEL[2:], since=2)) == [(Kind.WORSE, State.SLOW)]
    assert story.pass_night(3, slow(KERNEL[:2]) + slow(KERNEL[2:], since=2)) == []


def test_series_that_follow_later_are_an_incident_of_their_own(story: Story) -> None:
    assert story.pass_night(1, slow(KERNEL[:2])) == [OPENED]
    assert story.pass_night(20, slow(KERNEL[:2]) + slow(KERNEL[2:], since=20)) == [STILL_OPEN, OPENED]
    assert [incident.series for incident in story.standing] == [tuple(KERNEL[:2]), tuple(KERNEL[2:])]


def test_series_of_a_slow_machine_join_on_any_night(story: Story) -> None:
    assert story.pass_night(1, say(State.AMBIGUOUS, KERNEL[:2], is_machine=True)) == [(Kind.OPENED, State.AMBIGUOUS)]
    for night in range(2, 12):
        several = [KERNEL[night % 4], OTHERS[night % 6], KERNEL[(night - 1) % 4]]
        told = [v for series in dict.fromkeys(several) for v in say(State.AMBIGUOUS, [series], night, is_machine=True)]
        assert story.pass_night(night, told) == []
    assert len(story.standing) == 1


def move(change: float, since: int, series: Sequence[Series] = ALL) -> list[Verdict]:
    """The machine moved beside these."""
    return say(State.AMBIGUOUS, series, since, is_machine=True, relative_change=change)


MACHINE_OPENED, MACHINE_OVER = (Kind.OPENED, State.AMBIGUOUS), (Kind.RESOLVED, State.AMBIGUOUS)


@pytest.mark.parametrize("change", [-0.04, 0.04])
def test_an_outage_on_top_of_a_driver_is_another_incident_and_leaves_the_first_as_it_was(
    story: Story, change: float
) -> None:
    on_top = change + 0.065
    assert story.pass_night(1, move(change, 1)) == [MACHINE_OPENED]
    assert story.pass_night(4, move(on_top, 4)) == [MACHINE_OPENED]
    assert story.pass_night(5, move(on_top, 4)) == []
    assert [incident.since_run for incident in story.standing] == ["run-1", "run-4"]
    assert story.pass_night(6, move(change, 1)) == [MACHINE_OVER]
    assert [incident.since_run for incident in story.standing] == ["run-1"]
    assert story.pass_night(8) == [MACHINE_OVER]
    assert story.standing == []


def test_a_machine_that_is_as_slow_again_on_later_nights_is_told_once(story: Story) -> None:
    assert story.pass_night(1, move(0.05, 1)) == [MACHINE_OPENED]
    for night in range(2, 15):
        assert story.pass_night(night, move(0.05 + 0.01 * (night % 2), night)) == []
    assert len(story.incidents) == 1


def test_what_a_person_expects_of_a_machine_it_may_do_to_other_series_too(story: Story) -> None:
    assert story.pass_night(1, move(-0.04, 1, KERNEL)) == [MACHINE_OPENED]
    story.acknowledge()
    assert story.pass_night(2, move(-0.04, 1, ALL)) == []
    assert story.pass_night(5, move(0.06, 5, ALL)) == [MACHINE_OPENED]


# Acknowledged


def test_what_a_person_expects_is_silent_and_closed_silently(opened: Story) -> None:
    opened.acknowledge()
    assert not opened.standing[0].is_open
    assert opened.pass_night(2, slow(change=0.9)) == []
    assert opened.pass_night(30, slow(change=0.9)) == []
    assert opened.standing[0].incident_id in opened.incidents
    assert opened.pass_night(31) == []
    assert opened.standing == []


def test_what_a_person_expects_of_some_series_does_not_silence_others(opened: Story) -> None:
    opened.acknowledge()
    assert opened.pass_night(20, slow() + slow(OTHERS[:2], since=20)) == [OPENED]


def test_causes_are_looked_for_once_and_of_new_groups_alone(story: Story) -> None:
    asked: list[Group] = []

    def find_causes(group: Group) -> list[str]:
        asked.append(group)
        return []

    run, verdicts = make_run("run-1"), slow()
    made = follow_up([], verdicts, run, ORDER, STARTED, find_causes)
    follow_up(made.incidents, verdicts, make_run("run-2"), ORDER, STARTED, find_causes)
    assert [group.since_run for group in asked] == ["run-1"]


def test_the_order_of_the_verdicts_does_not_matter() -> None:
    verdicts = [*slow(), *say(State.FAILED, OTHERS[:2]), *say(State.SAME, OTHERS[2:])]
    made = [
        follow_up([], told, make_run("run-1"), ORDER, STARTED, lambda group: []) for told in (verdicts, verdicts[::-1])
    ]
    assert set(made[0].incidents) == set(made[1].incidents)
