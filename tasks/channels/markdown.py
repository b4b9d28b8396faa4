"""A night as GitHub-flavoured Markdown: a table of incidents, and their details folded beneath it.

What comes from measurements stands in code spans, in which nothing is a link, a mention or HTML.
"""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.channels.files import write_whole
from tasks.channels.letters import one_line, shorten
from tasks.channels.messages import tell_series
from tasks.errors import ChannelError
from tasks.judgement.incidents import Incident
from tasks.records import Run, Verdict

MOST_INCIDENTS = 100
"""In the table, and with details: a summary of GitHub's holds 1 MiB."""
MOST_SERIES = 20
MOST_LETTERS = 300
"""Of one text."""


def write_markdown(path: Path, run: Run, verdicts: Sequence[Verdict], incidents: Sequence[Incident]) -> None:
    """Write a night as Markdown.

    Args:
        incidents: those that stand, acknowledged or not, and those that this run found over.
    Raises:
        ChannelError: the file cannot be written.
    """
    write_whole(path, make_markdown(run, verdicts, incidents), "--alert-markdown")


def append_step_summary(
    environ: Mapping[str, str], run: Run, verdicts: Sequence[Verdict], incidents: Sequence[Incident]
) -> None:
    """Append the same to the summary of a job of GitHub Actions.

    Raises:
        ChannelError: the file that GITHUB_STEP_SUMMARY names cannot be written.
    """
    append_text(environ, make_markdown(run, verdicts, incidents))


def append_text(environ: Mapping[str, str], text: str) -> None:
    """Append a text to the summary of a job of GitHub Actions.

    Raises:
        ChannelError: the file that GITHUB_STEP_SUMMARY names cannot be written.
    """
    try:
        with Path(environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
            summary.write(text)
    except OSError as error:
        raise ChannelError(f"cannot write the file of GITHUB_STEP_SUMMARY: {error.strerror}") from None


def make_markdown(run: Run, verdicts: Sequence[Verdict], incidents: Sequence[Incident]) -> str:
    """A night as the text of a Markdown file."""
    is_open = [incident for incident in incidents if incident.is_open]
    expected = [incident for incident in incidents if not incident.resolved_run and incident.acknowledgement]
    resolved = [incident for incident in incidents if incident.resolved_run]
    counts = Counter(verdict.state for verdict in verdicts)
    told = ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
    lines = [
        f"## kernel-nightly: suite {code_span(run.suite)}, run {code_span(run.run_id)}",
        "",
        f"{len(is_open)} open, {len(expected)} expected, {len(resolved)} resolved. Verdicts: {told}.",
        "",
    ]
    if run.status not in ("running", "complete"):
        lines += [f"The run ended as **{code_span(run.status)}**: what it has not measured is not judged.", ""]
    for title, found in (("Open", is_open), ("Expected", expected), ("Resolved", resolved)):
        lines += _make_section(title, found)
    return "\n".join(lines) + "\n"


def _make_section(title: str, incidents: Sequence[Incident]) -> list[str]:
    """A table of incidents with their details; nothing if there are none."""
    if not incidents:
        return []
    shown, left = incidents[:MOST_INCIDENTS], len(incidents) - MOST_INCIDENTS
    lines = [
        f"### {title}",
        "",
        "| incident | state | series | what | change | since run |",
        "|---|---|--:|---|---|---|",
    ]
    for incident in shown:
        cells = [
            code_span(incident.incident_id),
            str(incident.state),
            str(len(incident.series)),
            code_span(incident.subject),
        ]
        cells += [_tell_change(incident), code_span(incident.since_run)]
        lines.append(table_row(cells))
    lines += ["", *([f"and {left} more", ""] if left > 0 else [])]
    for incident in shown:
        lines += _make_details(incident)
    return lines


def _make_details(incident: Incident) -> list[str]:
    """What else there is to say of an incident, folded."""
    summary = html.escape(shorten(one_line(incident.headline), MOST_LETTERS))
    lines = [f"<details><summary><code>{summary}</code></summary>", ""]
    lines += [f"- changed with it: {code_span(cause)}" for cause in incident.causes]
    for name, text in (
        ("evidence", incident.evidence),
        ("expected", incident.acknowledgement),
        ("opened by run", incident.opened_run),
        ("resolved by run", incident.resolved_run),
    ):
        lines += [f"- {name}: {code_span(text)}"] if text else []
    lines += [f"- {code_span(tell_series(series))}" for series in incident.series[:MOST_SERIES]]
    left = len(incident.series) - MOST_SERIES
    lines += [f"- and {left} more series"] if left > 0 else []
    return [*lines, "", "</details>", ""]


def _tell_change(incident: Incident) -> str:
    if incident.lowest_change is None or incident.highest_change is None:
        return ""
    lowest, highest = f"{incident.lowest_change:+.1%}", f"{incident.highest_change:+.1%}"
    return lowest if lowest == highest else f"{lowest} to {highest}"


def table_row(cells: Sequence[str]) -> str:
    """Cells of a table as its line."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def code_span(text: str) -> str:
    """A text as a code span in one line; "" stays empty."""
    told = shorten(one_line(text), MOST_LETTERS).replace("`", "'")
    return f"`{told}`" if told else ""
