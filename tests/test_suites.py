"""The suites name only what exists, and measure what they say they do."""

import pytest

from kernels.registry import kernels
from tasks.cases import Selection, plan_units, resolve_shapes
from tasks.errors import UnknownNameError
from tasks.shapes import list_models
from tasks.suites import SUITES, ModelEntry, Suite, find_suite

EVERY_SUITE = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)


@EVERY_SUITE
def test_every_suite_is_measured_whole(suite: Suite) -> None:
    plan = plan_units(suite, resolve_shapes(suite, Selection()), Selection())
    assert plan.left_out == ()
    assert plan.units


@EVERY_SUITE
def test_every_suite_names_only_vendored_models(suite: Suite) -> None:
    assert {entry.model for entry in suite.entries if isinstance(entry, ModelEntry)} <= set(list_models())


@EVERY_SUITE
def test_every_suite_names_only_known_schemes_options_and_sizes(suite: Suite) -> None:
    for entry in suite.entries:
        for usage in entry.kernels if isinstance(entry, ModelEntry) else (entry,):
            kernel = kernels()[usage.kernel]
            assert all(set(values) <= set(kernel.options[name]) for name, values in usage.options.items())
            assert set(getattr(usage, "schemes", ())) <= set(kernel.schemes)
        if not isinstance(entry, ModelEntry):
            assert tuple(entry.sizes) == kernels()[entry.kernel].size_names


def test_smoke_has_the_layers_it_promises() -> None:
    units = plan_units(find_suite("smoke"), resolve_shapes(find_suite("smoke"), Selection()), Selection()).units
    assert [(unit.layer.kernel, unit.layer.label, unit.layer.scheme, len(unit.cases)) for unit in units] == [
        ("fused_moe", "Qwen3-30B-A3B TP8", "fp8_w8a8", 3),
        ("fused_moe", "Mixtral-8x7B TP8", "fp8_w8a8", 3),
        ("fused_moe", "Mixtral-8x7B TP8", "fp8_w8a8_block128", 3),
        ("silu_mul_fp8", "Mixtral-8x7B TP8", "fp8_group128", 4),
    ]


def test_nightly_has_the_shapes_of_the_h200_baseline() -> None:
    units = plan_units(find_suite("nightly"), resolve_shapes(find_suite("nightly"), Selection()), Selection()).units
    shapes = [tuple(unit.layer.sizes.values()) for unit in units]
    assert shapes == [
        (8, 2, 4096, 7168),
        (256, 8, 7168, 256),
        (128, 8, 2048, 768),
        (8, 7168),
        (32, 7168),
        (256, 7168),
        (256, 2048),
        (9, 7168),
    ]
    assert [len(unit.cases) for unit in units] == [6, 6, 6, 3, 3, 3, 3, 3]
    assert [unit.cases[0].num_tokens for unit in units[3:]] == [1024, 1024, 1024, 64, 64]


def test_an_unknown_suite_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown suite 'nightli'; nearest: nightly"):
        find_suite("nightli")


def test_suites_are_found_by_the_name_they_carry() -> None:
    assert all(find_suite(name).name == name for name in SUITES)
    assert (find_suite("smoke").min_device, find_suite("nightly").min_device) == ("cpu", "cuda")
