"""A disk that is full while a run is stored: one clear line, nothing lost that was committed, and on as soon as there
is room again."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from consoles import ONE_UNIT, make_model, run_command, start_command
from disks import MEGABYTE, SmallDisk, mount_small_disk
from records import STARTED, make_case, make_measurement, make_run, make_unit
from test_schema import check_nothing_is_lost, writing

from tasks.errors import StoreError
from tasks.records import Run, Status, UnitResult
from tasks.storage.database import database_path, snapshot_path
from tasks.storage.store import Store

pytestmark = pytest.mark.timeout(280)

FULL = r"^cannot write .*nightly\.duckdb: .*No space left on device.*; what was committed before is kept: make room"
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mount_small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def store(disk: SmallDisk) -> Iterator[Store]:
    """With one run, one unit of it and a snapshot."""
    with Store.open(disk.folder) as opened:
        opened.begin_run(make_run())
        opened.commit_unit("run-1", make_large_unit(1))
        opened.publish()
        yield opened


def make_large_unit(num_tokens: int) -> UnitResult:
    """More than a page of a disk holds."""
    samples = random.Random(num_tokens).sample(range(10**6), 2 * PAGE)
    return make_unit([make_measurement(case=make_case(num_tokens), samples_us=[float(us) for us in samples])])


def count_units(store: Store) -> int:
    return len(store.measurements("run-1"))


def refuse(act: object, *arguments: object) -> None:
    """It ends with one line."""
    with pytest.raises(StoreError, match=FULL) as refused:
        act(*arguments)  # type: ignore[operator]
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root mounts without")
def test_who_is_not_root_fills_disks_in_a_namespace() -> None:
    again = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    ended = subprocess.run(["unshare", "-rm", *again], capture_output=True, text=True, check=False)
    if "unshare" in ended.stderr:
        pytest.skip(f"no namespace to mount in: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stdout


def test_a_unit_that_does_not_fit_is_refused_whole_and_fits_when_there_is_room(disk: SmallDisk, store: Store) -> None:
    disk.fill()
    for _ in range(2):
        refuse(store.commit_unit, "run-1", make_large_unit(2))
    assert count_units(store) == 1
    disk.make_room()
    store.commit_unit("run-1", make_large_unit(2))
    assert count_units(store) == 2


def test_what_was_committed_is_there_when_the_store_is_opened_again(disk: SmallDisk, store: Store) -> None:
    disk.fill()
    refuse(store.commit_unit, "run-1", make_large_unit(2))
    store.close()
    with Store.open(disk.folder) as reopened:
        assert count_units(reopened) == 1
        refuse(reopened.commit_unit, "run-1", make_large_unit(2))
    disk.make_room()
    with Store.open(disk.folder) as reopened:
        assert count_units(reopened) == 1
        reopened.commit_unit("run-1", make_large_unit(2))
        reopened.publish()
    with Store.read(disk.folder) as reader:
        assert count_units(reader) == 2


def test_a_snapshot_that_does_not_fit_leaves_the_old_one_and_nothing_else(disk: SmallDisk, store: Store) -> None:
    store.commit_unit("run-1", make_large_unit(2))
    before = {path.name for path in disk.folder.iterdir()}
    for leave_bytes in (0, PAGE, 5 * PAGE, MEGABYTE // 4, MEGABYTE // 2, MEGABYTE):
        disk.fill(leave_bytes)
        refuse(store.publish)
        disk.make_room()
        assert {path.name for path in disk.folder.iterdir()} == before
        with Store.read(disk.folder) as reader:
            assert count_units(reader) == 1
    store.publish()
    with Store.read(disk.folder) as reader:
        assert count_units(reader) == 2


def test_the_end_of_a_run_that_cannot_be_stored_leaves_it_to_be_resumed(disk: SmallDisk, store: Store) -> None:
    disk.fill()
    ended = replace(make_run(), status="complete", finished_at=STARTED + timedelta(hours=1))

    def finish_for_ever() -> None:
        for number in range(PAGE):  # the log still has a part of a page
            store.finish_run(replace(ended, stage_seconds={"time": float(number)}))

    refuse(finish_for_ever)
    disk.make_room()
    store.finish_run(ended)
    store.close()
    with Store.open(disk.folder) as reopened:
        assert reopened.runs() == [ended]
        assert count_units(reopened) == 1


def test_a_run_that_cannot_begin_is_not_there(disk: SmallDisk, store: Store) -> None:
    disk.fill()

    def begin_for_ever() -> None:
        for number in range(PAGE):
            store.begin_run(make_run(f"later-{number:04}", arguments={"models": ["x" * 500]}))

    refuse(begin_for_ever)
    begun = store.runs()
    disk.make_room()
    store.close()
    with Store.open(disk.folder) as reopened:
        assert reopened.runs() == begun
        last = Run(f"later-{len(begun) - 1:04}", "nightly", {}, 0, "", False, STARTED)
        assert reopened.begin_run(last) == last


def test_a_new_store_on_a_full_disk_is_refused_in_one_line(disk: SmallDisk) -> None:
    disk.fill(PAGE)
    with pytest.raises(StoreError, match="No space left on device") as refused:
        Store.open(disk.folder)
    assert "\n" not in str(refused.value)
    disk.make_room()
    Store.open(disk.folder).close()


@pytest.mark.parametrize("leave_bytes", [0, PAGE])
def test_an_older_database_that_does_not_fit_when_migrated_stays_as_it_is(disk: SmallDisk, leave_bytes: int) -> None:
    with writing(database_path(disk.folder), 3):
        pass
    disk.fill(leave_bytes)
    with pytest.raises(StoreError, match="No space left on device") as refused:
        Store.open(disk.folder)
    assert "\n" not in str(refused.value)
    disk.make_room()
    with Store.open(disk.folder) as store:
        check_nothing_is_lost(store, 3)


def test_an_export_that_does_not_fit_leaves_nothing(disk: SmallDisk, store: Store) -> None:
    disk.fill()
    with pytest.raises(StoreError, match=r"cannot write Parquet to .*No space left on device.*choose another folder"):
        store.export_parquet(disk.folder / "tables")
    assert list((disk.folder / "tables").iterdir()) == []


def test_the_command_ends_in_one_line_and_goes_on_where_it_was(disk: SmallDisk, tmp_path: Path) -> None:
    names = ("one", "two", "three")
    for name in names:
        make_model(tmp_path / name)
    asked = ("run", *ONE_UNIT, "--batch-size", *range(1, 9), "--model", *(f"./{name}" for name in names))
    asked = (*asked, "--run-id", "night", "--save-dir", disk.folder)
    with start_command(*asked, cwd=tmp_path) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("unit 1/3"):
                process.send_signal(signal.SIGSTOP)  # on a busy machine it would store the others meanwhile
                disk.fill()
                process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate()
    assert process.returncode == 2
    assert stderr.startswith("kernel-nightly: cannot write ")
    assert "No space left on device" in stderr
    assert len(stderr.splitlines()) == 1
    listed = run_command("list", "runs", "--save-dir", disk.folder, cwd=tmp_path)
    assert listed.stdout.startswith("night  smoke  running")
    disk.make_room()
    assert {path.name for path in disk.folder.iterdir()} <= {
        path(disk.folder).name + end for path in (database_path, snapshot_path) for end in ("", ".wal")
    }
    with Store.open(disk.folder) as store:
        before = store.measurements("night")
    measured = {m.check.case.layer.model for m in before}
    assert {"one"} <= measured < set(names), "on a busy machine the second was stored before the disk was full"
    resumed = run_command(*asked, cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, ""), resumed.stderr
    assert f"3 units, {len(measured)} of them measured before" in resumed.stdout
    with Store.read(disk.folder) as store:
        night = store.night("night")
    assert night.run.status == "complete"
    assert [m for m in night.measurements if m.check.case.layer.model in measured] == before
    assert {m.status for m in night.measurements} == {Status.OK}
    assert {m.check.case.layer.model for m in night.measurements} == set(names)
