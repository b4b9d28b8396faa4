"""A night as JUnit XML, for CI: what stands fails, once per incident; every series that was judged counts.

    suite       test cases                      failed                       skipped
    run         1: that it finished             it did not (an error)        -
    incidents   1 per incident                  it stands                    expected, FAST or of the machine
    <kernel>    1 per series with a verdict     it should, in no incident    not supported, or in an incident

GitLab and Jenkins tell a case by its class and name and follow it from night to night: an incident that is resolved
tonight passes, which both show as fixed. A case in the suite of its kernel is named by its series.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tasks.channels.files import write_whole
from tasks.channels.letters import one_line
from tasks.channels.messages import tell_series
from tasks.judgement.incidents import Incident
from tasks.records import Run, Series, State, Verdict

FAILING = (State.SLOW, State.WRONG, State.FAILED, State.MISSING)
"""States that fail an incident, or a series of which no incident tells: those that a run's exit code goes by."""
MOST_SERIES = 100
"""Of an incident, in the text of its failure."""


def write_junit(path: Path, run: Run, verdicts: Sequence[Verdict], incidents: Sequence[Incident]) -> None:
    """Write a night as JUnit XML.

    Args:
        incidents: those that stand, acknowledged or not, and those that this run found over.
    Raises:
        ChannelError: the file cannot be written.
    """
    write_whole(path, make_junit(run, verdicts, incidents), "--alert-junit")


def make_junit(run: Run, verdicts: Sequence[Verdict], incidents: Sequence[Incident]) -> str:
    """A night as the text of a JUnit XML file."""
    root = Element("testsuites", name=one_line(f"kernel-nightly {run.suite}"))
    _add_suite(root, "run", run, [_make_run_case(run)])
    _add_suite(root, "incidents", run, [_make_incident_case(incident) for incident in incidents])
    told = {series: incident for incident in incidents if not incident.resolved_run for series in incident.series}
    by_kernel: dict[str, list[Element]] = {}
    for verdict in verdicts:
        kernel = verdict.series.case_key.partition("/")[0]
        by_kernel.setdefault(kernel, []).append(_make_series_case(verdict, told.get(verdict.series)))
    for kernel in sorted(by_kernel):
        _add_suite(root, kernel, run, by_kernel[kernel])
    _count(root, root.iter("testcase"))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _make_run_case(run: Run) -> Element:
    """Passes for a run that is still being judged, or is complete."""
    case = Element("testcase", classname="run", name="every unit was measured")
    if run.status not in ("running", "complete"):
        _add(case, "error", f"run {run.run_id} ended as {run.status}: what it has not measured is not judged")
    return case


def _make_incident_case(incident: Incident) -> Element:
    name = one_line(f"{incident.subject} ({incident.incident_id})")
    case = Element("testcase", classname=f"incidents.{incident.state}", name=name)
    if incident.resolved_run:
        return case
    if incident.acknowledgement:
        _add(case, "skipped", f"{incident.headline}; expected: {incident.acknowledgement}")
        return case
    result = "failure" if incident.state in FAILING else "skipped"
    lines = [f"changed with it: {cause}" for cause in incident.causes]
    lines += [f"evidence: {incident.evidence}"] if incident.evidence else []
    lines += [f"opened by run {incident.opened_run}", *map(tell_series, incident.series[:MOST_SERIES])]
    left = len(incident.series) - MOST_SERIES
    lines += [f"and {left} more series"] if left > 0 else []
    _add(case, result, incident.headline, lines, str(incident.state))
    return case


def _make_series_case(verdict: Verdict, incident: Incident | None) -> Element:
    """Skipped where its incident fails already, so that a cause counts once, however many series it moves."""
    kernel, name = _split_name(verdict.series)
    case = Element("testcase", classname=f"{kernel}.{one_line(verdict.series.provider)}", name=name)
    told = f"{verdict.state}: {verdict.evidence}"
    if verdict.state is State.UNSUPPORTED:
        _add(case, "skipped", told)
    elif incident:
        _add(case, "skipped", f"{told}; told as incident {incident.incident_id}")
    elif verdict.state in FAILING:
        _add(case, "failure", told, (), str(verdict.state))
    return case


def _split_name(series: Series) -> tuple[str, str]:
    """The kernel, and what tells its series apart besides the provider."""
    kernel, _, case = series.case_key.partition("/")
    return one_line(kernel), one_line(f"{case} {series.timer} on {series.device_name}")


def _add(case: Element, tag: str, message: str, lines: Iterable[str] = (), kind: str = "") -> None:
    """Say in a test case why it did not pass."""
    result = SubElement(case, tag, {"message": one_line(message)} | ({"type": kind} if kind else {}))
    result.text = "\n".join(map(one_line, (message, *lines)))


def _add_suite(root: Element, name: str, run: Run, cases: Sequence[Element]) -> None:
    suite = SubElement(root, "testsuite", name=one_line(name), timestamp=run.started_at.strftime("%Y-%m-%dT%H:%M:%S"))
    properties = SubElement(suite, "properties")
    for key, value in (("run_id", run.run_id), ("suite", run.suite), ("commit", run.git_commit)):
        SubElement(properties, "property", name=key, value=one_line(value))
    suite.extend(cases)
    _count(suite, cases)


def _count(element: Element, cases: Iterable[Element]) -> None:
    """Put the numbers of cases, and of those that did not pass, into a suite or into the whole."""
    counted = list(cases)
    element.set("tests", str(len(counted)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(name, str(sum(case.find(tag) is not None for case in counted)))
