"""A night as Markdown, as GitHub renders it: read back from the HTML of a CommonMark renderer with tables."""

import re
from pathlib import Path

import pytest
from letterboxes import make_incident
from markdown_it import MarkdownIt
from records import make_run, make_series

from tasks.channels.markdown import append_step_summary, make_markdown, write_markdown
from tasks.judgement.incidents import Incident
from tasks.records import State, Verdict

RUN = make_run("run-9")


def render(*incidents: Incident) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(make_markdown(RUN, [], incidents)))


def rows_of(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cells = [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]
    return [row for row in cells if row]


def test_a_quiet_night_is_two_lines() -> None:
    verdicts = [Verdict("run-9", make_series(), state, "") for state in (State.SAME, State.SAME, State.NEW)]
    assert make_markdown(RUN, verdicts, []) == (
        "## kernel-nightly: suite `nightly`, run `run-9`\n\n"
        "0 open, 0 expected, 0 resolved. Verdicts: 2 SAME, 1 NEW.\n\n"
    )


def test_incidents_stand_in_a_table_with_their_details_folded_beneath_it() -> None:
    page = render(make_incident())
    assert rows_of(page) == [["slow-3f9a1c", "SLOW", "3", "fused_moe triton on NVIDIA H200", "+4.1% to +6.3%", "run-7"]]
    assert page.count("<details>") == page.count("</details>") == 1
    assert "<li>evidence: <code>11.9 us against 11.2 us (+6.3%), 12 earlier nights</code></li>" in page
    assert page.count("<li>changed with it: ") == 2


def test_what_is_expected_and_what_is_over_have_tables_of_their_own() -> None:
    over = make_incident("slow-1", resolved_run="run-9")
    expected = make_incident("slow-2", acknowledgement="on purpose")
    text = make_markdown(RUN, [], [expected, over, make_incident("slow-3")])
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == ["Open", "Expected", "Resolved"]
    assert "1 open, 1 expected, 1 resolved." in text
    assert "- expected: `on purpose`" in text
    assert [row[0] for row in rows_of(render(expected, over))] == ["slow-2", "slow-1"]


def test_nothing_that_was_measured_is_a_link_a_mention_a_cell_or_html() -> None:
    hostile = "a|b `c` @team #12 <script>x</script> [d](http://e) *f*\n| g"
    page = render(make_incident(subject=hostile, evidence=hostile, causes=(hostile,), since_run=hostile))
    assert [len(row) for row in rows_of(page)] == [6]
    assert rows_of(page)[0][3].startswith("a|b 'c' @team #12 &lt;script&gt;")
    assert "<script>" not in page
    assert "<a " not in page
    outside = re.sub(r"<code>.*?</code>", "", page)
    assert "@team" not in outside
    assert "#12" not in outside


def test_a_night_of_very_many_incidents_fits_into_a_summary_of_github() -> None:
    many = [make_incident(f"slow-{index}", series=(make_series("p" * 500),) * 500) for index in range(1000)]
    text = make_markdown(RUN, [], [*many, *(make_incident(resolved_run="run-9"),) * 1000])
    assert len(text.encode()) < 2**20
    assert "and 900 more" in text
    assert "- and 480 more series" in text


def test_a_run_that_did_not_finish_says_so() -> None:
    assert "The run ended as **`partial`**" in make_markdown(make_run(status="partial"), [], [])


def test_a_change_without_times_leaves_its_cell_empty() -> None:
    assert rows_of(render(make_incident(state=State.WRONG, lowest_change=None)))[0][4] == ""
    assert rows_of(render(make_incident(lowest_change=0.05, highest_change=0.05)))[0][4] == "+5.0%"


def test_the_summary_of_a_job_keeps_what_other_steps_have_written(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    append_step_summary({"GITHUB_STEP_SUMMARY": str(summary)}, RUN, [], [make_incident()])
    write_markdown(tmp_path / "night.md", RUN, [], [make_incident()])
    assert summary.read_text() == "before\n" + (tmp_path / "night.md").read_text()


@pytest.mark.parametrize("name", ["suite`x", "a\nb"])
def test_a_name_cannot_leave_its_code_span(name: str) -> None:
    assert make_markdown(make_run(name), [], []).splitlines()[0].count("`") == 4
