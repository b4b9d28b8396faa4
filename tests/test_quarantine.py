"""What killed its worker twice, or hung once, is not tried again, not even by a resumed run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from records import GPU, make_case, make_host, make_run

from kernels.spec import Case
from tasks.quarantine import MOST_CRASHES, Quarantine
from tasks.records import Host, Status
from tasks.storage.store import Store

CASE, OTHER_CASE, HOST = make_case(16), make_case(64), make_host()
OTHER_GPU = make_host(replace(GPU, name="NVIDIA A100"), "ffff")
SEGFAULT = (Status.CRASHED, "Segmentation fault")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        opened.begin_run(make_run())
        yield opened


def open_quarantine(store: Store, run_id: str = "run-1") -> Quarantine:
    return Quarantine(run_id, store.crashes(run_id), store.commit_crash)


def test_a_provider_is_tried_again_after_its_first_crash_and_not_after_its_second(store: Store) -> None:
    quarantine = open_quarantine(store)
    for _ in range(2):
        assert quarantine.find(CASE, "triton", HOST) is None
        quarantine.note(CASE, "triton", HOST, *SEGFAULT)
    told = "Segmentation fault (crashed 2 times in this run: not tried again)"
    assert quarantine.find(CASE, "triton", HOST) == (Status.CRASHED, told)


def test_a_hang_costs_its_whole_limit_and_is_not_tried_again(store: Store) -> None:
    quarantine = open_quarantine(store)
    quarantine.note(CASE, "triton", HOST, Status.HUNG, "no answer within 180 s")
    told = "no answer within 180 s (hung once in this run: not tried again)"
    assert quarantine.find(CASE, "triton", HOST) == (Status.HUNG, told)


@pytest.mark.parametrize(
    ("case", "provider", "host"), [(OTHER_CASE, "triton", HOST), (CASE, "torch", HOST), (CASE, "triton", OTHER_GPU)]
)
def test_another_case_provider_or_kind_of_gpu_may_run(store: Store, case: Case, provider: str, host: Host) -> None:
    quarantine = open_quarantine(store)
    for _ in range(MOST_CRASHES):
        quarantine.note(CASE, "triton", HOST, *SEGFAULT)
    assert quarantine.find(case, provider, host) is None
    twin = replace(HOST, host_id="eeee")
    assert quarantine.find(CASE, "triton", twin), "another GPU of the same kind would crash as well"


def test_a_crash_is_stored_at_once_and_counts_when_the_run_is_resumed(store: Store) -> None:
    open_quarantine(store).note(CASE, "triton", HOST, *SEGFAULT)
    [stored] = store.crashes("run-1")
    assert (stored.case_key, stored.provider, stored.device_name) == (CASE.key, "triton", GPU.name)
    assert (stored.status, stored.reason) == SEGFAULT
    resumed = open_quarantine(store)
    assert resumed.find(CASE, "triton", HOST) is None
    resumed.note(CASE, "triton", HOST, Status.CRASHED, "illegal memory access")
    told = "illegal memory access (crashed 2 times in this run: not tried again)"
    assert open_quarantine(store).find(CASE, "triton", HOST) == (Status.CRASHED, told)


def test_another_run_tries_again(store: Store) -> None:
    open_quarantine(store).note(CASE, "triton", HOST, Status.HUNG, "no answer")
    assert open_quarantine(store, "run-2").find(CASE, "triton", HOST) is None


def test_crashes_of_many_threads_are_all_counted_and_stored(store: Store) -> None:
    quarantine = open_quarantine(store)
    cases = [make_case(number) for number in range(1, 9)]
    notes = [Thread(target=quarantine.note, args=(case, "triton", HOST, *SEGFAULT)) for case in cases * MOST_CRASHES]
    for note in notes:
        note.start()
    for note in notes:
        note.join()
    assert all(quarantine.find(case, "triton", HOST) for case in cases)
    assert len(store.crashes("run-1")) == len(notes)
