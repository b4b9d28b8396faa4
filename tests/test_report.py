"""What a run tells in a terminal, and the exit code it gives a script."""

from dataclasses import replace
from io import StringIO

import pytest
from nights import H200, make_measurement, make_night, make_verdict, moe_layer
from rich.console import Console

from flows.report import best_vllm_us, exit_code, print_report
from kernels.spec import Case
from tasks.records import Night, State, Status

CASE = Case(moe_layer(), 16)


def night_of(state: State, status: str = "complete") -> Night:
    night = make_night()
    verdict = make_verdict(make_measurement(CASE, "triton"), state, 0.2)
    return replace(night, run=replace(night.run, status=status), verdicts=(verdict,))


@pytest.mark.parametrize("state", State)
def test_only_a_state_that_needs_a_look_is_an_exit_code_of_1(state: State) -> None:
    urgent = {State.SLOW, State.WRONG, State.FAILED, State.MISSING}
    assert exit_code(night_of(state)) == (1 if state in urgent else 0)


@pytest.mark.parametrize("status", ["running", "partial", "interrupted", "failed"])
def test_a_run_that_did_not_finish_is_an_exit_code_of_3_whatever_it_found(status: str) -> None:
    assert exit_code(night_of(State.SLOW, status)) == 3


def test_speed_ups_are_told_against_the_fastest_vllm_provider_that_ran() -> None:
    measurements = [
        make_measurement(CASE, "triton", usual_us=50.0),
        make_measurement(CASE, "vllm-triton-shipped", usual_us=100.0),
        make_measurement(CASE, "vllm-cutlass", Status.WRONG, usual_us=1.0),
    ]
    best = best_vllm_us(measurements)
    assert best == measurements[1].median_us
    assert best_vllm_us(measurements[:1]) is None
    night = replace(make_night(), measurements=tuple(measurements), verdicts=())
    stream = StringIO()
    print_report(Console(file=stream, width=160), night)
    (triton,) = [line for line in stream.getvalue().splitlines() if " triton " in line]
    assert f"{best / (measurements[0].median_us or 0):.2f}x" in triton


def test_what_cannot_run_stands_once_beneath_its_table() -> None:
    cases = [Case(moe_layer(), num_tokens) for num_tokens in (1, 16)]
    measurements = [make_measurement(case, "triton") for case in cases]
    measurements += [make_measurement(case, "vllm-cutlass", Status.UNSUPPORTED) for case in cases]
    stream = StringIO()
    night = replace(make_night(), measurements=tuple(measurements), verdicts=())
    print_report(Console(file=stream, width=160), night)
    assert stream.getvalue().count("vllm-cutlass") == 1
    assert "vllm-cutlass: needs sm_100 (this is sm_90) (2 cases)" in stream.getvalue()
    assert H200.name in stream.getvalue()
