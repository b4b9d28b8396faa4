"""What a person says to an incident, by the real command on a real database."""

from pathlib import Path

import pytest
from records import STARTED, make_measurement, make_run, make_series, make_unit
from test_journal import INCIDENT

from flows.cli import main
from tasks.judgement.history import Mark
from tasks.storage.store import Store


@pytest.fixture
def save_dir(tmp_path: Path) -> Path:
    with Store.open(tmp_path) as store:
        for number in (1, 2):
            store.begin_run(make_run(f"run-{number}", number))
            measured = [make_measurement(f"run-{number}", provider=name) for name in ("triton", "vllm-cutlass")]
            store.commit_unit(f"run-{number}", make_unit(measured))
            store.finish_run(make_run(f"run-{number}", number, status="complete", finished_at=STARTED))
        store.journal.commit_incidents([INCIDENT])
        store.publish()
    return tmp_path


def call(save_dir: Path, *arguments: str) -> int:
    return main([*arguments, "--save-dir", str(save_dir)])


def marks_of(save_dir: Path) -> list[Mark]:
    with Store.read(save_dir) as store:
        return store.journal.marks()


def test_incidents_are_printed_with_what_changed_and_the_evidence(
    save_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(save_dir, "incidents") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "slow-3f9a1c  2 series of fused_moe triton on NVIDIA H200: SLOW, +4.1% to +6.3%, since run run-1",
        "  changed with it: triton 3.6.0 -> 3.7.1",
        "  changed with it: config: 'BLOCK_SIZE_M' 64 -> 128",
        "  evidence: 105.0 us against 100.0 us",
    ]


def test_an_acknowledged_incident_is_shown_only_to_who_asks_for_all(
    save_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(save_dir, "acknowledge", "slow-3f9a1c", "--reason", "exact scales [cost] that") == 0
    assert "acknowledged slow-3f9a1c" in capsys.readouterr().out
    assert [(m.series, m.first_run, m.reason) for m in marks_of(save_dir)] == [
        (series, "run-1", "exact scales [cost] that") for series in INCIDENT.series
    ]
    assert call(save_dir, "incidents") == 0
    assert capsys.readouterr().out == "no incident is open\n"
    assert call(save_dir, "incidents", "--all") == 0
    assert "acknowledged: exact scales [cost] that" in capsys.readouterr().out


def test_a_baseline_is_marked_for_the_series_that_are_meant(save_dir: Path) -> None:
    assert call(save_dir, "baseline", "run-1", "--reason", "new driver", "--provider", "triton") == 0
    assert [(m.series, m.first_run) for m in marks_of(save_dir)] == [(make_series(), "run-1")]
    assert call(save_dir, "baseline", "--reason", "all of them", "--case", "num_tokens=16") == 0
    assert {m.first_run for m in marks_of(save_dir)[1:]} == {"run-2"}
    assert len(marks_of(save_dir)) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("acknowledge", "slow-000000", "--reason", "x"), "no incident 'slow-000000'; open are: slow-3f9a1c"),
        (("acknowledge", "slow-3f9a1c", "--reason", " "), "--reason is empty"),
        (("acknowledge", "slow-3f9a1c", "slow-000000", "--reason", "x"), "no incident 'slow-000000'"),
        (("baseline", "run-9", "--reason", "x"), "no run 'run-9'; the newest is run-2"),
        (("baseline", "--reason", "x", "--kernel", "nothing"), "run run-2 timed no series of --kernel nothing"),
    ],
)
def test_bad_input_is_told_in_one_line_and_nothing_is_stored(
    save_dir: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert call(save_dir, *arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert marks_of(save_dir) == []


def test_what_is_acknowledged_is_not_acknowledged_twice(save_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(save_dir, "acknowledge", "slow-3f9a1c", "--reason", "expected") == 0
    assert call(save_dir, "acknowledge", "slow-3f9a1c", "--reason", "again") == 2
    assert "is acknowledged already: expected" in capsys.readouterr().err


def test_a_folder_without_a_database_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / "none", "acknowledge", "slow-3f9a1c", "--reason", "x") == 2
    assert "no database under" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
