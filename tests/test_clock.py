"""Seconds by activity, and clocks that go back: runs keep the order they were started in, and nothing breaks."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from consoles import ONE_UNIT, make_model, run_command
from records import make_measurement, make_run, make_unit

from dashboards.series.calendar import make_calendar
from dashboards.site import write_site
from tasks.clock import Clock, find_process_seconds
from tasks.evidence import gather_past
from tasks.judgement.changes import find_run_before
from tasks.judgement.verdicts import judge_night
from tasks.records import Run, Series, State
from tasks.storage.store import Store

pytestmark = pytest.mark.timeout(280)

# Seconds


def test_the_seconds_of_a_process_begin_when_it_is_started(tmp_path: Path) -> None:
    say = "import time; from tasks.clock import find_process_seconds as find; time.sleep(0.2); print(find())"
    start = time.monotonic()
    said = float(subprocess.run([sys.executable, "-c", say], check=True, capture_output=True, text=True).stdout)
    assert 0.2 <= said <= time.monotonic() - start + 0.02  # /proc counts hundredths
    odd = tmp_path / "stat"
    odd.write_text(f"1 (a ) b) S {' '.join(map(str, range(4, 53)))}\n")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = find_process_seconds(odd)
    assert before <= found + 0.22 <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_seconds_add_up_by_activity_in_the_order_they_began() -> None:
    clock = Clock()
    with clock.measure("long"):
        time.sleep(0.02)
    clock.add("short", 0.001)
    with pytest.raises(ZeroDivisionError), clock.measure("long"):
        time.sleep(0.02)
        raise ZeroDivisionError
    assert list(clock.seconds) == ["long", "short"]
    assert clock.seconds["long"] >= 0.04
    assert clock.seconds["short"] == 0.001


def test_taking_the_seconds_begins_anew() -> None:
    clock = Clock({"verify": 1.5})
    clock.add("verify", 1.0)
    assert clock.take() == {"verify": 2.5}
    assert clock.take() == {}


def test_no_second_is_lost_between_threads() -> None:
    clock = Clock()
    threads = [Thread(target=lambda: [clock.add("time", 1.0) for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds == {"time": 8000.0}


# A clock that went back


def commit_night(store: Store, run: Run, median_us: float, *providers: str) -> None:
    store.begin_run(run)
    samples = [median_us * factor for factor in (0.999, 1.0, 1.001)] * 7
    measured = [make_measurement(run.run_id, provider=name, samples_us=samples) for name in providers]
    store.commit_unit(run.run_id, make_unit(measured))


def test_trends_verdicts_and_comparisons_follow_the_order_of_runs(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for number, nights in enumerate((0, 1, 2, 3, 4000, 4)):
            run = make_run(f"night-{number}", nights, status="complete")
            commit_night(store, run, 10.0 if number < 4 else 12.0, "triton", *["gone"] * (number == 4))
        tonight = store.find_run("night-5")
        [points] = [points for series, points in store.trends(tonight).items() if series.provider == "triton"]
        assert [point.run_id for point in points] == [f"night-{number}" for number in range(6)]
        previous: set[Series] = store.previous_series(tonight)
        assert {series.provider for series in previous} == {"triton", "gone"}, "of the night from the future"
        assert find_run_before(store.runs(), tonight).run_id == "night-4"
        measurements = store.measurements("night-5")
        verdicts = judge_night(measurements, gather_past(store, tonight, measurements))
        assert {verdict.series.provider: verdict.state for verdict in verdicts}["gone"] is State.MISSING
        assert store.find_run().run_id == "night-5"


def test_the_site_draws_nights_in_the_order_of_runs_and_no_negative_duration(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for number, nights in enumerate((0, 4000, 2)):
            commit_night(store, make_run(f"night-{number}", nights), 10.0 + number, "triton")
        run = store.find_run("night-2")
        store.finish_run(replace(run, status="complete", finished_at=run.started_at - timedelta(hours=3)))
        night = store.night("night-2")
    page = write_site(night, tmp_path / "site").read_text()
    assert "unknown: the clock went back meanwhile" in page
    calendar = make_calendar(night.trends.runs)
    assert [run.run_id for run in calendar.runs] == ["night-0", "night-1", "night-2"]
    assert calendar.places.tolist() == [0.0, 0.5, 1.0]


def test_the_command_says_that_the_clock_went_back_and_goes_on(tmp_path: Path) -> None:
    make_model(tmp_path / "tiny")
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(days=800)
    with Store.open(tmp_path / "results") as store:
        store.begin_run(make_run("ahead", started_at=ahead, suite="smoke", status="complete"))
    ended = run_command("run", *ONE_UNIT, "--model", "./tiny", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    [line] = [line for line in ended.stdout.splitlines() if "clock" in line]
    said = rf"the clock went back: run ahead started at {ahead:%Y-%m-%d %H:%M:%S} UTC, this one at .* UTC; "
    assert re.fullmatch(said + "runs are ordered as they were started", line)
    with Store.read(tmp_path / "results") as store:
        older, newer = store.runs()
        night = store.night()
    assert older.run_id == "ahead"
    assert (night.run, newer.status) == (newer, "complete")
    assert f"run {newer.run_id}: suite smoke on" in ended.stdout, "of this run, not of the latest by the clock"
    assert newer.run_id in (tmp_path / "results" / "site" / "index.html").read_text()
