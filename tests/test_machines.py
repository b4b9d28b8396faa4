"""Whether a machine explains what a kernel did, from its reference kernels and clocks."""

from dataclasses import replace

import pytest
from records import GPU, make_case, make_host, make_measurement, make_reference, make_series, make_trial

from tasks.machines import MachineChange, UsualReferences, find_machine_changes
from tasks.records import DeviceState, Measurement, ReferenceTime, Series, Status, Trial
from tasks.sampling import POWER_LIMIT

SERIES = make_series()


def with_references(**relative_changes: float) -> MachineChange:
    return MachineChange("cuda", relative_changes)


@pytest.mark.parametrize(
    ("machine", "change", "is_explained"),
    [
        pytest.param(with_references(), 0.1, False, id="nothing is known of it"),
        pytest.param(with_references(copy=0.1), 0.1, True, id="as slow as the kernel"),
        pytest.param(with_references(copy=-0.1), -0.1, True, id="as fast as the kernel"),
        pytest.param(with_references(copy=0.1), -0.1, False, id="slow, and the kernel is fast"),
        pytest.param(with_references(copy=-0.1), 0.1, False, id="fast, and the kernel is slow"),
        pytest.param(with_references(copy=0.03), 0.3, False, id="a tenth of what the kernel did"),
        pytest.param(with_references(copy=0.002), 0.001, False, id="less than counts"),
        pytest.param(with_references(copy=-0.1, gemm=0.1), 0.1, True, id="one of its two parts is slow"),
    ],
)
def test_reference_kernels_explain_a_change_of_their_direction_and_size(
    machine: MachineChange, change: float, is_explained: bool
) -> None:
    assert machine.explains(change) is is_explained


@pytest.mark.parametrize(
    ("clock_mhz", "change", "is_explained"),
    [(1780.0, 0.11, True), (1780.0, -0.11, False), (2180.0, -0.1, True), (1980.0, 0.1, False), (1970.0, 0.1, False)],
)
def test_a_slower_clock_explains_a_slower_kernel(clock_mhz: float, change: float, is_explained: bool) -> None:
    machine = MachineChange("cuda", {}, clock_mhz, 1980.0)
    assert machine.explains(change) is is_explained


def test_the_power_that_the_kernel_draws_itself_explains_nothing_but_slow_references_still_do() -> None:
    own = MachineChange("cuda", {"copy": 0.001}, 1600.0, 1980.0, is_own_power=True)
    assert not own.explains(0.2)
    assert replace(own, references={"copy": 0.2}).explains(0.2)


@pytest.mark.parametrize(("clock_mhz", "usual_mhz"), [(None, None), (1600.0, None), (None, 1980.0), (1600.0, 0.0)])
def test_a_clock_that_is_not_known_explains_nothing(clock_mhz: float | None, usual_mhz: float | None) -> None:
    machine = MachineChange("cuda", {}, clock_mhz, usual_mhz)
    assert machine.clock_change is None
    assert not machine.explains(0.5)
    assert machine.told == ""


def test_shared_cpus_must_move_further_to_explain_anything() -> None:
    assert MachineChange("cuda", {"copy": 0.05}).explains(0.03)
    assert not MachineChange("cpu", {"copy": 0.05}).explains(0.03)


def test_what_moved_is_told_in_words() -> None:
    machine = MachineChange("cuda", {"copy": 0.061, "bfloat16 gemm": -0.00001}, 1755.0, 1980.0)
    assert machine.told == "reference copy +6.1%, reference bfloat16 gemm +0.0%, SM clock 1755 MHz instead of 1980"
    assert MachineChange("cuda", {"copy": 0.061}, 1980.0, 1980.0).told == "reference copy +6.1%"
    lately = MachineChange("cuda", {"copy": 0.006, "gemm": 0.03}, lately={"copy": 0.032, "gemm": 0.034})
    assert lately.told == "reference copy +0.6% (+3.2% against the last 14 runs), reference gemm +3.0%"


def test_a_machine_that_changed_for_good_is_held_against_before_and_since() -> None:
    machine = MachineChange("cuda", {"copy": -0.02}, lately={"copy": 0.03})
    assert machine.explains(0.04)
    assert machine.explains(-0.04)
    assert not machine.explains(0.1)
    assert not replace(machine, lately={"copy": -0.02}).explains(0.04)


# From a night's records

USUAL = {(GPU.name, make_case().key, "graph", "copy"): 7.0, (GPU.name, make_case().key, "graph", "gemm"): 5.0}


def timed(name: str, median_us: float, **changes: object) -> ReferenceTime:
    return replace(make_reference(name), samples_us=(median_us - 1, median_us, median_us + 1), **changes)  # type: ignore[arg-type]


def state_of(clock_mhz: int, *reasons: str) -> DeviceState:
    return DeviceState(clock_mhz, 3201, 700.0, 60, reasons)


def find_one(
    *references: ReferenceTime,
    trials: tuple[Trial, ...] = (),
    late: UsualReferences | None = None,
    clocks: dict[Series, float] | None = None,
) -> MachineChange:
    measurement = replace(make_measurement(), trials=trials)
    return find_machine_changes([measurement], references, [make_host()], USUAL, late or USUAL, clocks or {})[SERIES]


def test_references_are_compared_with_what_they_usually_take_beside_the_case() -> None:
    machine = find_one(timed("copy", 7.7), timed("gemm", 4.5))
    assert machine.references == {"copy": pytest.approx(0.1), "gemm": pytest.approx(-0.1)}
    assert machine.device_type == "cuda"


def test_references_are_compared_with_what_they_take_lately_too() -> None:
    machine = find_one(timed("copy", 7.7), timed("gemm", 4.5), late={key: us * 1.1 for key, us in USUAL.items()})
    assert machine.references == {"copy": pytest.approx(0.1), "gemm": pytest.approx(-0.1)}
    assert machine.lately == {"copy": pytest.approx(0.0), "gemm": pytest.approx(0.9 / 1.1 - 1)}


def test_what_a_card_takes_lately_is_told_by_its_cases_together() -> None:
    host, usual, late = make_host(), dict(USUAL), dict(USUAL)
    for number, factor in enumerate((1.09, 1.1, 1.2)):
        key = host.device_uuid, f"case {number}", "graph", "copy"
        usual[key], late[key] = 7.0, 7.0 * factor
    found = find_machine_changes([make_measurement()], [timed("copy", 7.7)], [host], usual, late, {})
    assert found[SERIES].references == {"copy": pytest.approx(0.1)}
    assert found[SERIES].lately == {"copy": pytest.approx(0.0)}


def test_a_card_that_a_case_never_was_on_is_known_by_the_other_cases() -> None:
    host, usual = make_host(), dict(USUAL)
    for case_key, of_all, on_card in (("one", 10.0, 11.0), ("two", 20.0, 22.2), ("three", 30.0, 32.0)):
        usual[GPU.name, case_key, "graph", "copy"] = of_all
        usual[host.device_uuid, case_key, "graph", "copy"] = on_card
    found = find_machine_changes([make_measurement()], [timed("copy", 7.7)], [host], usual, USUAL, {})
    assert found[SERIES].references == {"copy": pytest.approx(0.0)}
    assert found[SERIES].lately == {"copy": pytest.approx(0.0)}  # the card is not known lately, but from before


@pytest.mark.parametrize(
    "elsewhere",
    [{"case_key": "another"}, {"timer": "cold"}, {"host_id": "of another host"}, {"name": "new"}, {"samples_us": ()}],
)
def test_what_was_timed_elsewhere_or_never_before_says_nothing(elsewhere: dict[str, object]) -> None:
    assert find_one(replace(timed("copy", 70.0), **elsewhere)).references == {}  # type: ignore[arg-type]


def test_clocks_are_of_the_trials_that_count() -> None:
    slow = make_trial(0, 0, state=state_of(900), set_aside_us=(9.0,))
    trials = (slow, *(make_trial(number, state=state_of(mhz)) for number, mhz in enumerate((1700, 1750, 1900))))
    machine = find_one(trials=trials, clocks={SERIES: 1980.0})
    assert (machine.clock_mhz, machine.usual_clock_mhz) == (1750, 1980.0)
    untold = find_one(trials=(make_trial(state=None),), clocks={SERIES: 1980.0})
    assert (untold.clock_mhz, untold.is_own_power) == (None, False)


@pytest.mark.parametrize(
    ("reasons", "is_own"),
    [
        ([(POWER_LIMIT,), ()], True),
        ([(POWER_LIMIT,), (POWER_LIMIT, "hw_thermal_slowdown")], False),
        ([("hw_thermal_slowdown",)], False),
        ([()], False),
    ],
)
def test_it_is_the_kernels_own_power_only_if_nothing_else_holds_the_clock(
    reasons: list[tuple[str, ...]], is_own: bool
) -> None:
    trials = tuple(make_trial(number, state=state_of(1600, *why)) for number, why in enumerate(reasons))
    assert find_one(trials=trials).is_own_power is is_own


def test_only_what_was_timed_has_a_machine() -> None:
    measured: list[Measurement] = [make_measurement(status=Status.HUNG), make_measurement(provider="torch")]
    found = find_machine_changes(measured, [], [make_host()], USUAL, USUAL, {})
    assert [series.provider for series in found] == ["torch"]
