"""What CI shows of a night: what stands fails once, what was judged counts, and no text breaks the XML."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from letterboxes import make_incident
from records import make_case, make_run, make_series

from tasks.channels.junit import make_junit, write_junit
from tasks.judgement.incidents import Incident
from tasks.records import Run, State, Verdict


def make_verdict(state: State, num_tokens: int = 1, provider: str = "triton") -> Verdict:
    return Verdict("run-9", make_series(provider, make_case(num_tokens)), state, f"evidence of {state}")


def parse(
    verdicts: Sequence[Verdict] = (), incidents: Sequence[Incident] = (), run: Run | None = None
) -> tuple[Element, dict[str, Element]]:
    """The whole, and its suites by name."""
    root = ElementTree.fromstring(make_junit(run or make_run("run-9"), verdicts, incidents))
    return root, {suite.attrib["name"]: suite for suite in root}


def outcomes(suite: Element) -> Counter[str]:
    return Counter(result.tag for case in suite.iter("testcase") for result in case or [Element("passed")])


def count(element: Element) -> tuple[int, ...]:
    return tuple(int(element.attrib[name]) for name in ("tests", "failures", "errors", "skipped"))


def test_a_quiet_night_passes_and_counts_its_series() -> None:
    states = (State.SAME, State.FAST, State.AMBIGUOUS, State.NEW)
    root, suites = parse([make_verdict(state, 2**index) for index, state in enumerate(states)])
    assert count(root) == (5, 0, 0, 0)
    assert list(suites) == ["run", "incidents", "fused_moe"]
    assert count(suites["incidents"]) == (0, 0, 0, 0)
    assert count(suites["fused_moe"]) == (4, 0, 0, 0)


def test_an_incident_fails_once_however_many_series_it_moves() -> None:
    incident = make_incident(num_series=3)
    verdicts = [make_verdict(State.SLOW, 2**index) for index in range(3)] + [make_verdict(State.SAME, 8)]
    root, suites = parse(verdicts, [incident])
    assert count(root) == (6, 1, 0, 3)
    [failure] = root.iter("failure")
    assert failure.attrib == {"message": incident.headline, "type": "SLOW"}
    text = failure.text or ""
    assert "changed with it: triton 3.6.0 -> 3.7.1" in text
    assert "evidence: 11.9 us" in text
    assert text.count("NVIDIA H200") == 1 + 3
    skips = [skip.attrib["message"] for skip in suites["fused_moe"].iter("skipped")]
    assert skips == ["SLOW: evidence of SLOW; told as incident slow-3f9a1c"] * 3


def test_every_incident_that_stands_is_a_failure_of_its_own() -> None:
    incidents = [make_incident(f"slow-{index}", evidence="", causes=()) for index in range(7)]
    _, suites = parse([], incidents)
    assert count(suites["incidents"]) == (7, 7, 0, 0)
    assert len({case.attrib["name"] for case in suites["incidents"].iter("testcase")}) == 7


@pytest.mark.parametrize("state", [State.FAST, State.AMBIGUOUS])
def test_a_gain_and_a_slow_machine_are_shown_and_fail_nothing(state: State) -> None:
    root, suites = parse([make_verdict(state)], [make_incident(state=state)])
    assert count(root) == (3, 0, 0, 2)
    assert "evidence: 11.9 us" in (suites["incidents"][1][0].text or "")


def test_an_incident_that_is_over_passes_and_one_that_is_expected_is_skipped() -> None:
    over = make_incident("slow-1", resolved_run="run-9")
    expected = make_incident("slow-2", acknowledgement="bigger tiles, on purpose")
    root, suites = parse([make_verdict(State.SLOW)], [over, expected])
    assert count(suites["incidents"]) == (2, 0, 0, 1)
    assert count(root) == (4, 0, 0, 2)
    assert "expected: bigger tiles, on purpose" in suites["incidents"][2][0].attrib["message"]


@pytest.mark.parametrize("state", [State.SLOW, State.WRONG, State.FAILED, State.MISSING])
def test_a_series_that_needs_a_look_and_is_in_no_incident_fails_by_itself(state: State) -> None:
    over = make_incident(resolved_run="run-9")
    root, _ = parse([make_verdict(state)], [over])
    assert count(root) == (3, 1, 0, 0)


def test_what_is_not_supported_is_skipped() -> None:
    _, suites = parse([make_verdict(State.UNSUPPORTED)])
    assert outcomes(suites["fused_moe"]) == Counter(skipped=1)


@pytest.mark.parametrize(("status", "errors"), [("running", 0), ("complete", 0), ("partial", 1), ("failed", 1)])
def test_a_run_that_did_not_finish_is_an_error(status: str, errors: int) -> None:
    root, _ = parse(run=make_run("run-9", status=status))
    assert count(root) == (1, 0, errors, 0)


def test_a_series_has_the_same_name_every_night_and_no_other_has_it() -> None:
    verdicts = [make_verdict(State.SAME, m, provider) for m in (1, 2) for provider in ("torch", "triton")]
    first, second = (
        [
            (case.attrib["classname"], case.attrib["name"])
            for case in parse(found, run=make_run(name))[0].iter("testcase")
        ]
        for name, found in (("run-1", verdicts), ("run-2", [*reversed(verdicts)]))
    )
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 5
    assert {name for name, _ in first} == {"run", "fused_moe.torch", "fused_moe.triton"}


def test_no_text_of_a_night_breaks_the_file(tmp_path: Path) -> None:
    hostile = 'a<b & "c" ]]> \x00\x1b[31m\udc80\ufffe\nd'
    incident = make_incident(evidence=hostile, subject=hostile, causes=(hostile,))
    verdict = Verdict("r", make_series(hostile), State.FAILED, hostile)
    write_junit(tmp_path / "junit.xml", make_run(hostile), [verdict], [incident])
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert count(root) == (3, 2, 0, 0)
    assert 'a<b & "c" ]]> [31m d' in next(root.iter("failure")).attrib["message"]
