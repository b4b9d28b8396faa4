"""The longest units come first where devices share them, last where one has them all; and only what is left."""

import pytest

from kernels.spec import Case, Layer
from tasks.planning.order import estimate_work, line_up, order_by_time
from tasks.records import WorkUnit


def make_unit(model: str, num_experts: int = 8, num_cases: int = 1, kernel: str = "fused_moe") -> WorkUnit:
    sizes = {"num_experts": num_experts, "top_k": 2, "hidden_size": 256, "intermediate_size": 128}
    layer = Layer(kernel, model, 1, 1, "fp8_w8a8", "bfloat16", sizes)
    return WorkUnit(layer, tuple(Case(layer, 2**power) for power in range(num_cases)), ("torch",), ("graph",))


SHORT, LONG, NEW, NEW_AND_LARGE = (
    make_unit("short"),
    make_unit("long"),
    make_unit("new"),
    make_unit("new-and-large", num_experts=64),
)
SECONDS = {SHORT.key: 1.5, LONG.key: 60.0, "of a layer that is gone": 99.0}


def models(units: list[WorkUnit]) -> list[str]:
    return [unit.layer.model for unit in units]


def test_what_took_longest_last_time_comes_first_and_what_nobody_knows_before_it() -> None:
    units = [SHORT, NEW, LONG, NEW_AND_LARGE]
    assert models(order_by_time(units, SECONDS, longest_first=True)) == ["new-and-large", "new", "long", "short"]
    assert models(order_by_time(units, SECONDS, longest_first=False)) == ["short", "long", "new", "new-and-large"]
    assert order_by_time([], SECONDS, longest_first=True) == []


@pytest.mark.parametrize("longest_first", [True, False])
def test_units_that_take_as_long_keep_their_order(longest_first: bool) -> None:
    twins = [make_unit(name) for name in "cab"]
    assert order_by_time(twins, {}, longest_first=longest_first) == twins
    assert order_by_time(twins, {unit.key: 2.0 for unit in twins}, longest_first=longest_first) == twins


@pytest.mark.parametrize(
    "more",
    [
        make_unit("more", num_experts=16),
        make_unit("more", num_cases=2),
        WorkUnit(SHORT.layer, SHORT.cases, ("torch", "triton"), SHORT.timers),
        WorkUnit(SHORT.layer, SHORT.cases, SHORT.providers, ("graph", "cold")),
    ],
    ids=["weights", "cases", "providers", "timers"],
)
def test_an_estimate_grows_with(more: WorkUnit) -> None:
    assert estimate_work(more) > estimate_work(SHORT) > 0


def test_a_layer_without_weights_counts_by_its_tokens() -> None:
    assert estimate_work(make_unit("few", kernel="silu_mul_fp8")) > 0
    few, many = (make_unit("m", num_cases=count, kernel="silu_mul_fp8") for count in (2, 3))
    assert estimate_work(many) > estimate_work(few)


def test_every_device_has_its_own_line_of_what_it_lacks() -> None:
    seconds = {(SHORT.key, "A"): 9.0, (LONG.key, "A"): 1.0, (SHORT.key, "B"): 1.0, (LONG.key, "B"): 9.0}
    devices = {"A": 2, "B": 2, "C": 3}
    lines = line_up([SHORT, LONG, NEW], devices, {(NEW.key, "A"), (SHORT.key, "C")}, seconds)
    assert {device: models(line) for device, line in lines.items()} == {
        "A": ["short", "long"],
        "B": ["new", "long", "short"],
        "C": ["long", "new"],
    }


def test_one_device_alone_begins_with_what_is_short() -> None:
    seconds = {(SHORT.key, "A"): 1.0, (LONG.key, "A"): 9.0}
    lines = line_up([SHORT, LONG, NEW, NEW_AND_LARGE], {"A": 1}, set(), seconds)
    assert models(lines["A"]) == ["short", "long", "new", "new-and-large"]
