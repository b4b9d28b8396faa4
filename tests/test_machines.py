"""Whether a machine explains what a kernel did, from its reference kernels and clocks."""

from dataclasses import replace

import pytest
from records import make_measurement, make_series, make_trial

from tasks.judgement.machines import Clock, MachineChange, find_clocks
from tasks.judgement.reference_histories import Move
from tasks.records import DeviceState, Measurement, Series, Status, Trial
from tasks.sampling import POWER_LIMIT

SERIES = make_series()
USUAL = Clock(1980.0, 1980.0)


def moves(**changes: float | tuple[float, ...]) -> dict[str, tuple[Move, ...]]:
    """Reference kernels that moved since run 7, straight or another way."""
    told = {name: change if isinstance(change, tuple) else (change,) for name, change in changes.items()}
    return {name: tuple(Move(change, 7) for change in of_name) for name, of_name in told.items()}


@pytest.mark.parametrize(
    ("changes", "change", "is_explained"),
    [
        pytest.param({}, 0.1, False, id="nothing is known of it"),
        pytest.param({"copy": 0.1}, 0.1, True, id="as slow as the kernel"),
        pytest.param({"copy": -0.1}, -0.1, True, id="as fast as the kernel"),
        pytest.param({"copy": 0.1}, -0.1, False, id="slow, and the kernel is fast"),
        pytest.param({"copy": -0.1}, 0.1, False, id="fast, and the kernel is slow"),
        pytest.param({"copy": 0.03}, 0.3, False, id="a tenth of what the kernel did"),
        pytest.param({"copy": 0.002}, 0.001, False, id="less than counts"),
        pytest.param({"copy": -0.1, "gemm": 0.1}, 0.1, True, id="one of its two parts is slow"),
    ],
)
def test_reference_kernels_explain_a_change_of_their_direction_and_size(
    changes: dict[str, float], change: float, is_explained: bool
) -> None:
    assert MachineChange("cuda", moves(**changes)).explains(change) is is_explained


@pytest.mark.parametrize(
    ("clock_mhz", "change", "is_explained"),
    [(1780.0, 0.11, True), (1780.0, -0.11, False), (2180.0, -0.1, True), (1980.0, 0.1, False), (1970.0, 0.1, False)],
)
def test_a_slower_clock_explains_a_slower_kernel(clock_mhz: float, change: float, is_explained: bool) -> None:
    assert MachineChange("cuda", clock=Clock(clock_mhz, 1980.0)).explains(change) is is_explained


def test_the_power_that_the_kernel_draws_itself_explains_nothing_but_slow_references_still_do() -> None:
    own = MachineChange("cuda", moves(copy=0.001), clock=Clock(1600.0, 1980.0, is_own_power=True))
    assert not own.explains(0.2)
    assert replace(own, references=moves(copy=0.2)).explains(0.2)


@pytest.mark.parametrize("usual_mhz", [None, 0.0])
def test_a_clock_that_is_not_known_explains_nothing(usual_mhz: float | None) -> None:
    machine = MachineChange("cuda", clock=Clock(1600.0, usual_mhz))
    assert not machine.explains(0.5)
    assert machine.told == ""
    assert not MachineChange("cuda").explains(0.5)


def test_shared_cpus_must_move_further_to_explain_anything() -> None:
    assert MachineChange("cuda", moves(copy=0.05)).explains(0.03)
    assert not MachineChange("cpu", moves(copy=0.05)).explains(0.03)


def test_what_moved_is_told_in_words() -> None:
    copy = moves(copy=0.061, gemm=-0.00001)
    machine = MachineChange("cuda", copy, clock=Clock(1755.0, 1980.0))
    assert machine.told == "reference copy +6.1%, reference gemm +0.0%, SM clock 1755 MHz instead of 1980"
    assert MachineChange("cuda", moves(copy=0.061), clock=USUAL).told == "reference copy +6.1%"
    lately = MachineChange("cuda", moves(copy=(0.006, 0.007, 0.032, -0.025), gemm=(0.03, 0.05, 0.034, -0.004)))
    copy_told = "reference copy +0.6% (+3.2% against the last 3 nights before)"
    assert lately.told == f"{copy_told}, reference gemm +3.0% (+5.0% tonight)"


def test_a_machine_that_went_one_way_and_then_the_other_explains_both() -> None:
    machine = MachineChange("cuda", moves(copy=(0.02, 0.06, -0.04)))
    assert machine.explains(0.12)
    assert machine.explains(-0.08)
    assert not machine.explains(0.2)
    assert not MachineChange("cuda", moves(copy=0.02)).explains(-0.04)


def test_it_is_so_since_the_night_that_moved_furthest_and_none_of_the_references_if_it_is_the_clock() -> None:
    machine = MachineChange("cuda", {"copy": (Move(0.05, 3), Move(-0.05, 8)), "gemm": (Move(0.1, 5),)})
    assert (machine.find_since(0.1), machine.find_since(-0.1)) == (5, 8)
    assert MachineChange("cuda", moves(copy=0.001), clock=Clock(1600.0, 1980.0)).find_since(0.2) is None


# Clocks


def state_of(clock_mhz: int, *reasons: str) -> DeviceState:
    return DeviceState(clock_mhz, 3201, 700.0, 60, reasons)


def find_one(*trials: Trial, usual_mhz: float = 1980.0) -> Clock | None:
    return find_clocks([replace(make_measurement(), trials=trials)], {SERIES: usual_mhz}).get(SERIES)


def test_clocks_are_of_the_trials_that_count() -> None:
    slow = make_trial(0, 0, state=state_of(900), set_aside_us=(9.0,))
    trials = (slow, *(make_trial(number, state=state_of(mhz)) for number, mhz in enumerate((1700, 1750, 1900))))
    assert find_one(*trials) == Clock(1750, 1980.0)
    assert find_one(make_trial(state=None)) is None


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
    clock = find_one(*(make_trial(number, state=state_of(1600, *why)) for number, why in enumerate(reasons)))
    assert clock
    assert clock.is_own_power is is_own


def test_only_what_was_timed_has_a_clock() -> None:
    trials = (make_trial(state=state_of(1980)),)
    measured: list[Measurement] = [make_measurement(status=Status.HUNG), make_measurement(provider="torch")]
    found: dict[Series, Clock] = find_clocks([replace(m, trials=trials) for m in measured], {})
    assert [series.provider for series in found] == ["torch"]
    assert next(iter(found.values())).usual_mhz is None
