"""What a pull request is told, and the exit code that goes with it."""

from dataclasses import replace
from pathlib import Path

import pytest
from records import make_case, make_comparison, make_series
from rich.console import Console

from flows.pull_request import MOST_ROWS, deliver, exit_code, make_markdown
from tasks.commits.comparisons import Comparison, Contrast
from tasks.comparison_session import Outcome
from tasks.records import State


def make_contrast(state: State, change: float | None = None, provider: str = "triton", reason: str = "") -> Contrast:
    is_regression = state in (State.SLOW, State.WRONG, State.FAILED, State.MISSING)
    made = Contrast(make_series(provider), make_case(), state, reason, is_regression)
    if change is None:
        return made
    low, high = change - 0.004, change + 0.004
    return replace(
        made,
        head_us=100 * (1 + change),
        base_us=100.0,
        change=change,
        low=low,
        high=high,
        p_value=0.001,
        num_sittings=8,
    )


def make_outcome(*contrasts: Contrast, **changes: object) -> Outcome:
    comparison: Comparison = make_comparison(**{"status": "complete", **changes})
    return Outcome(comparison, contrasts, 8, 96.0)


def test_the_worst_rows_come_first_and_what_is_the_same_is_folded() -> None:
    text = make_markdown(
        make_outcome(
            make_contrast(State.SAME, 0.001, "a"),
            make_contrast(State.FAST, -0.05, "b"),
            make_contrast(State.AMBIGUOUS, 0.006, "c"),
            make_contrast(State.SLOW, 0.02, "d"),
            make_contrast(State.SLOW, 0.03, "e"),
            make_contrast(State.FAILED, None, "f", "crashed: a | in `it`"),
            make_contrast(State.UNSUPPORTED, None, "g"),
        )
    )
    lines = text.splitlines()
    told = "2 SLOW, 1 FAILED, 1 AMBIGUOUS, 1 FAST, 1 SAME, 1 UNSUPPORTED"
    assert lines[0] == f"## kernel-nightly: `topic` against `main`: {told}"
    rows = [line.split(" | ") for line in lines if line.startswith("| fused_moe")]
    assert [row[1] for row in rows] == [f"{name}, graph" for name in "edfcba"]
    assert rows[0][2:] == ["100.0", "103.0", "+3.0%", "+2.6% to +3.4%", "8", "**SLOW** |"]
    assert rows[2][-1] == r"**FAILED** `crashed: a \| in 'it'` |"
    assert lines.index("<details><summary>1 SAME</summary>") < lines.index("</details>")
    assert "SAME: the interval leaves out a change of 20%." in text


def test_two_sides_that_run_the_same_code_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    told, asked = "Both run the same code: nothing of kernels and tasks differs between them.", []
    outcome = make_outcome(make_contrast(State.SAME, 0.0))
    monkeypatch.setattr("flows.pull_request.have_same_code", lambda *commits: bool(asked.append(commits)) or True)
    assert told in make_markdown(outcome).splitlines()
    assert asked == [("b" * 40, "a" * 40)]
    monkeypatch.setattr("flows.pull_request.have_same_code", lambda *_: False)
    assert told not in make_markdown(outcome)


def test_the_exit_code_says_whether_anything_is_worse_or_was_not_compared() -> None:
    same, slow = make_contrast(State.SAME, 0.0), make_contrast(State.SLOW, 0.1)
    new, untold = make_contrast(State.NEW), make_contrast(State.AMBIGUOUS, 0.01)
    assert exit_code(make_outcome(same, make_contrast(State.FAST, -0.1), untold, new)) == 0
    assert exit_code(make_outcome(make_contrast(State.UNSUPPORTED))) == 0
    assert exit_code(make_outcome(same, slow)) == 1
    assert exit_code(make_outcome(make_contrast(State.FAILED), status="partial")) == 1
    assert exit_code(make_outcome(same, status="partial")) == 3
    assert exit_code(make_outcome(new)) == 3, "the base was not measured"


def test_a_long_table_is_cut_and_a_comparison_that_broke_off_says_so() -> None:
    many = [make_contrast(State.SLOW, 0.1, f"p{number}") for number in range(MOST_ROWS + 3)]
    text = make_markdown(make_outcome(*many, status="partial"))
    assert "and 3 more" in text
    assert text.count("| fused_moe") == MOST_ROWS
    assert "ended as **partial**" in text


def test_it_is_printed_written_and_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome, file, summary = make_outcome(make_contrast(State.SAME, 0.0)), tmp_path / "out" / "pr.md", tmp_path / "s.md"
    summary.write_text("before\n")
    text = make_markdown(outcome)
    deliver(text, "A comparison", Console(width=40), file, {"GITHUB_STEP_SUMMARY": str(summary)})
    assert file.read_text() == text
    assert summary.read_text() == "before\n" + text
    assert capsys.readouterr().out == text + "\n"
