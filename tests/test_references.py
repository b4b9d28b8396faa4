"""Reference kernels by hand, and their trend through a real store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import STARTED, make_host, make_measurement, make_run

from kernels.spec import Device
from tasks.judgement.references import find_reference_changes, summarize_references
from tasks.nights import Night
from tasks.records import ReferenceTime, UnitResult
from tasks.storage.store import Store

HOST = make_host()


def timed(case_key: str, *samples_us: float, name: str = "copy", run_id: str = "run-1") -> ReferenceTime:
    return ReferenceTime(run_id, case_key, "graph", HOST.host_id, name, STARTED, samples_us)


USUAL = [timed(f"case-{n}", 99.0, 100.0 + n / 10, 140.0) for n in range(9)]


def test_a_summary_is_of_the_medians_beside_each_case() -> None:
    slow = timed("slow", 103.0, 104.0, 105.0)
    (summary,) = summarize_references([*USUAL, slow, timed("nothing was timed here")])
    medians = [100.0 + n / 10 for n in range(9)] + [104.0]
    assert (summary.name, summary.host_id, summary.num_times) == ("copy", HOST.host_id, 10)
    assert summary.median_us == np.median(medians)
    assert (summary.p20_us, summary.p80_us) == pytest.approx(np.percentile(medians, (20, 80)))
    assert summary.slowest == slow
    assert summary.slowest_change == pytest.approx(104.0 / np.median(medians) - 1)


def test_each_host_and_each_kernel_is_compared_with_itself() -> None:
    elsewhere = [replace(reference, host_id="other", samples_us=(200.0,)) for reference in USUAL]
    gemm = [replace(reference, name="bfloat16 gemm", samples_us=(300.0,)) for reference in USUAL]
    found = summarize_references([*USUAL, *elsewhere, *gemm])
    assert [(summary.host_id, summary.name) for summary in found] == [
        (HOST.host_id, "bfloat16 gemm"),
        (HOST.host_id, "copy"),
        ("other", "copy"),
    ]
    assert [summary.median_us for summary in found] == [300.0, 100.4, 200.0]


def night_of(*references: ReferenceTime, device: Device = HOST.device, **earlier_us: float) -> Night:
    """A night with references, and by "<case>", what a GEMM took beside it in the run before; the copy took 100 us."""
    copies = {(device.name, f"case_{n}", "graph", "copy"): 100.0 for n in range(9)}
    gemms = {(device.name, case_key, "graph", "bfloat16 gemm"): us for case_key, us in earlier_us.items()}
    host = replace(HOST, device=device)
    return Night(make_run(), (host,), (), (), (), {}, references=references, usual_references=copies | gemms)


def test_a_case_is_told_by_the_reference_that_fared_worst_since_the_run_before() -> None:
    references = [timed("case_4", 101.0), timed("case_4", 309.0, name="bfloat16 gemm"), timed("case_5", 101.0)]
    changes = find_reference_changes(night_of(*references, case_4=300.0))
    worst = changes[HOST.host_id, "case_4", "graph"]
    assert (worst.name, worst.is_slow) == ("bfloat16 gemm", True)
    assert worst.relative_change == pytest.approx(0.03)
    assert not changes[HOST.host_id, "case_5", "graph"].is_slow
    assert (HOST.host_id, "case_4", "cold") not in changes


def test_a_case_that_slows_its_neighbour_on_every_night_is_no_slow_machine() -> None:
    usual, hot = timed("case_1", 160.0, name="bfloat16 gemm"), timed("case_4", 216.0, name="bfloat16 gemm")
    changes = find_reference_changes(night_of(usual, hot, case_1=160.0, case_4=214.0))
    assert [change.is_slow for change in changes.values()] == [False, False]


@pytest.mark.parametrize(("type_", "slow_us", "fine_us"), [("cuda", 102.1, 101.9), ("cpu", 120.1, 119.9)])
def test_shared_cpus_may_be_ten_times_as_noisy(type_: str, slow_us: float, fine_us: float) -> None:
    device = Device(type_, "a device")
    slow, fine = timed("case_1", slow_us), timed("case_2", fine_us)
    assert [c.is_slow for c in find_reference_changes(night_of(slow, fine, device=device)).values()] == [True, False]


def test_without_an_earlier_run_no_machine_is_slow() -> None:
    assert find_reference_changes(replace(night_of(timed("case_1", 900.0)), usual_references={})) == {}
    assert find_reference_changes(night_of(timed("case_1"))) == {}


def test_what_is_usual_is_the_median_of_the_runs_of_the_suite_before(tmp_path: Path) -> None:
    def commit(store: Store, number: int, suite: str, *references: ReferenceTime) -> str:
        run_id = f"run-{number}"
        store.begin_run(make_run(run_id, nights=-number, suite=suite))  # the clock went back: runs are numbered
        times = tuple(replace(reference, run_id=run_id) for reference in references)
        store.commit_unit(run_id, UnitResult(HOST, None, (make_measurement(run_id),), times))
        return run_id

    with Store.open(tmp_path) as store:
        commit(store, 1, "nightly", timed("a", 10.0, 11.0, 15.0), timed("b", 20.0))
        commit(store, 2, "nightly", timed("a", 12.0), timed("a", 30.0, name="bfloat16 gemm"), timed("c"))
        commit(store, 3, "smoke", timed("a", 99.0))
        tonight = commit(store, 4, "nightly", timed("a", 13.0))
        assert store.night("run-1").usual_references == {}
        assert store.night("run-2").usual_references["NVIDIA H200", "a", "graph", "copy"] == 11.0
        assert store.night(tonight).usual_references == {
            ("NVIDIA H200", "a", "graph", "copy"): 11.5,
            ("NVIDIA H200", "b", "graph", "copy"): 20.0,
            ("NVIDIA H200", "a", "graph", "bfloat16 gemm"): 30.0,
        }


def test_the_nightly_medians_of_a_device_are_those_of_its_summary(tmp_path: Path) -> None:
    nights = {"run-1": 1.0, "run-2": 1.1, "run-3": 1.3}
    other = make_host(replace(HOST.device, name="NVIDIA B200"), "other")
    with Store.open(tmp_path) as store:
        for number, (run_id, factor) in enumerate(nights.items()):
            store.begin_run(make_run(run_id, nights=number))
            times = tuple(
                replace(r, run_id=run_id, samples_us=tuple(us * factor for us in r.samples_us)) for r in USUAL
            )
            elsewhere = (replace(times[0], host_id="other", case_key="case", samples_us=(55.0,)),)
            measured = (make_measurement(run_id),)
            store.commit_unit(run_id, UnitResult(HOST, None, measured, times))
            store.commit_unit(run_id, UnitResult(other, None, (), elsewhere))
        night = store.night("run-2")
    assert set(night.reference_trends) == {("NVIDIA H200", "copy"), ("NVIDIA B200", "copy")}
    points = night.reference_trends["NVIDIA H200", "copy"]
    assert [point.run_id for point in points] == ["run-1", "run-2"]
    assert [point.median_us for point in points] == pytest.approx([100.4, 100.4 * 1.1])
    tonight = summarize_references(r for r in night.references if r.host_id == HOST.host_id)[0]
    last = points[-1]
    assert (last.median_us, last.p20_us, last.p80_us) == pytest.approx(
        (tonight.median_us, tonight.p20_us, tonight.p80_us)
    )


def test_trends_come_in_the_order_of_devices_and_kernels(tmp_path: Path) -> None:
    """So a site has the same charts whatever is read: the database, or its export, whose rows lie otherwise."""
    names = ["e", "b", "d", "a", "c", "f"]
    other = make_host(replace(HOST.device, name="NVIDIA B200"), "other")
    with Store.open(tmp_path) as store:
        for run_id in ("run-1", "run-2"):
            store.begin_run(make_run(run_id))
            for host in (HOST, other):
                times = [replace(timed("case", 1.0, name=name, run_id=run_id), host_id=host.host_id) for name in names]
                store.commit_unit(run_id, UnitResult(host, None, (), tuple(times)))
        trends = store.night("run-2").reference_trends
    assert list(trends) == [(device, name) for device in ("NVIDIA B200", "NVIDIA H200") for name in sorted(names)]
