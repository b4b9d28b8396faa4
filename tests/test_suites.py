"""The suites name only what exists, and measure what they say they do."""

import pytest

from kernels.registry import kernels
from kernels.timing.timers import timers_for
from tasks.errors import UnknownNameError
from tasks.planning.cases import Plan, Selection, plan_units, resolve_shapes
from tasks.planning.entries import KernelEntry, ModelEntry, Suite
from tasks.planning.shapes import list_models
from tasks.planning.suites import SUITES, find_suite

EVERY_SUITE = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
LARGEST_BATCHED = 64


def plan(suite: Suite) -> Plan:
    return plan_units(suite, resolve_shapes(suite, Selection()), Selection(), suite.min_device)


def list_usages(suite: Suite) -> list[KernelEntry]:
    """Every use of a kernel, on models and on grids alike."""
    usages: list[KernelEntry] = []
    for entry in suite.entries:
        if isinstance(entry, ModelEntry):
            usages += entry.kernels
        else:
            usages.append(KernelEntry(entry.kernel, entry.schemes, entry.batch_sizes, entry.options))
    return usages


@EVERY_SUITE
def test_every_suite_names_only_known_kernels_schemes_options_and_sizes(suite: Suite) -> None:
    registry = kernels()
    assert {usage.kernel for usage in list_usages(suite)} <= set(registry)
    for usage in list_usages(suite):
        kernel = registry[usage.kernel]
        assert set(usage.schemes) <= set(kernel.schemes), usage.kernel
        assert all(set(values) <= set(kernel.options[name]) for name, values in usage.options.items())
    for entry in suite.entries:
        if not isinstance(entry, ModelEntry):
            assert tuple(entry.sizes) == registry[entry.kernel].size_names


@EVERY_SUITE
def test_every_suite_names_only_vendored_models(suite: Suite) -> None:
    assert {entry.model for entry in suite.entries if isinstance(entry, ModelEntry)} <= set(list_models())


@EVERY_SUITE
def test_every_suite_is_measured_whole_but_for_layers_that_have_no_whole_groups(suite: Suite) -> None:
    planned = plan(suite)
    assert planned.units
    assert all("is not a multiple of" in line for line in planned.left_out)
    assert suite.name == "full" or planned.left_out == ()


@EVERY_SUITE
def test_every_suite_names_only_timers_of_its_device(suite: Suite) -> None:
    assert set(suite.timers) <= {timer.name for timer in timers_for(suite.min_device)}


@EVERY_SUITE
def test_the_batched_format_is_measured_at_decode_sizes_only(suite: Suite) -> None:
    cases = [case for unit in plan(suite).units for case in unit.cases]
    batched = [case.num_tokens for case in cases if case.options.get("activation_format") == "batched"]
    assert max(batched, default=0) <= LARGEST_BATCHED


@pytest.mark.parametrize("name", ["smoke", "nightly", "full"])
def test_every_kernel_scheme_and_option_of_the_registry_is_in_the_suites_that_say_so(name: str) -> None:
    units = plan(find_suite(name)).units
    assert {(unit.layer.kernel, unit.layer.scheme) for unit in units} == {
        (kernel.name, scheme) for kernel in kernels().values() for scheme in kernel.schemes
    }
    values = {(option, value) for unit in units for case in unit.cases for option, value in case.options.items()}
    assert values == {
        (option, value)
        for kernel in kernels().values()
        for option, known in kernel.options.items()
        for value in known[1:]
    }


def test_smoke_measures_an_expert_parallel_rank_of_fewer_experts_than_a_token_picks() -> None:
    (layer,) = (unit.layer for unit in plan(find_suite("smoke")).units if unit.layer.ep_size > 1)
    assert layer.sizes["num_experts"] < layer.sizes["top_k"]


def test_nightly_still_has_every_case_of_the_h200_baseline() -> None:
    planned = {
        (tuple(unit.layer.sizes.values()), unit.layer.scheme, unit.layer.ep_size): {
            (case.num_tokens, *case.options.values()) for case in unit.cases
        }
        for unit in plan(find_suite("nightly")).units
    }
    batch_sizes = {(size,) for size in (1, 16, 64, 256, 1024, 4096)}
    for sizes, scheme in (
        ((8, 2, 4096, 7168), "fp8_w8a8"),
        ((256, 8, 7168, 256), "fp8_w8a8_block128"),
        ((128, 8, 2048, 768), "fp8_w8a8_block128"),
    ):
        assert batch_sizes <= planned[sizes, scheme, 1]
    for num_experts, num_tokens, size in (
        (8, 1024, 7168),
        (32, 1024, 7168),
        (256, 1024, 7168),
        (256, 64, 2048),
        (9, 64, 7168),
    ):
        cases = planned[(num_experts, size), "fp8_group128", 1]
        assert {(num_tokens,), (num_tokens, "max_t"), (num_tokens, "first_t")} <= cases


def test_nightly_is_about_a_thousand_cases_times_providers() -> None:
    """It must fit into half an hour: on an H200 a series takes about 1.2 s, and what cannot run takes nothing."""
    attempts = sum(len(unit.cases) * len(unit.providers) for unit in plan(find_suite("nightly")).units)
    assert attempts < 1500


def test_full_has_every_vendored_model_and_every_timer_of_a_gpu() -> None:
    units = plan(find_suite("full")).units
    assert {unit.layer.model for unit in units} == {*list_models(), "grid"}
    assert {unit.timers for unit in units} == {("graph", "cold", "eager")}


def test_an_unknown_suite_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown suite 'nightli'; nearest: nightly"):
        find_suite("nightli")


def test_suites_are_found_by_the_name_they_carry() -> None:
    assert all(find_suite(name).name == name for name in SUITES)
    assert (find_suite("smoke").min_device, find_suite("nightly").min_device) == ("cpu", "cuda")
