"""What needs a look is told in one line, gravest first; everything else is quiet."""

from dataclasses import replace

from records import make_case, make_measurement

from tasks.alerts import list_alerts
from tasks.records import State, Verdict
from tasks.verdicts import ATTENTION


def make_verdict(state: State, num_tokens: int = 16) -> Verdict:
    series = make_measurement(case=make_case(num_tokens)).series
    return Verdict("run-1", series, state, f"evidence of {state}")


def test_only_states_that_need_a_look_are_told() -> None:
    lines = list_alerts(make_verdict(state) for state in State)
    assert [line.split()[0] for line in lines] == ["SLOW", "WRONG", "FAILED", "MISSING"]
    assert [State(line.split()[0]) for line in lines] == list(ATTENTION)


def test_a_line_names_the_series_and_the_evidence() -> None:
    verdict = make_verdict(State.SLOW)
    assert list_alerts([verdict]) == [f"SLOW {make_case().key} triton (graph): evidence of SLOW"]


def test_lines_of_one_state_are_in_order_of_their_cases() -> None:
    verdicts = [make_verdict(State.SLOW, 64), make_verdict(State.SLOW, 16), make_verdict(State.WRONG, 1)]
    assert list_alerts(verdicts) == list_alerts(reversed(verdicts))
    assert [line.split()[0] for line in list_alerts(verdicts)] == ["SLOW", "SLOW", "WRONG"]


def test_a_quiet_night_has_no_alerts() -> None:
    assert list_alerts([replace(make_verdict(State.SAME)), make_verdict(State.FAST)]) == []
    assert list_alerts([]) == []
