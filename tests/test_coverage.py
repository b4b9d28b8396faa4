"""The table of the registry says who computes what, and says the same on every machine."""

import importlib.util
import re
import sys

import pytest

from flows.coverage import (
    DEVICES,
    coverage_lines,
    hidden_package,
    list_cases,
    list_takers,
    name_devices,
    takes_scheme,
)
from kernels.registry import kernels
from kernels.requirements import NO_VLLM, missing_capability
from kernels.spec import Case, Device, Launch, Provider, Tensors


def refuse_to_prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    raise AssertionError("nothing is prepared for a table")


def test_every_scheme_of_every_kernel_is_in_one_row() -> None:
    cells = [line.split(" | ") for line in coverage_lines()[2:]]
    told = [
        (kernel.strip("| `"), scheme) for kernel, schemes, _ in cells for scheme in re.findall(r"`([^`]+)`", schemes)
    ]
    assert sorted(told) == sorted((kernel.name, scheme) for kernel in kernels().values() for scheme in kernel.schemes)


def test_every_provider_is_named() -> None:
    table = coverage_lines()
    for kernel in kernels().values():
        told = "\n".join(line for line in table if line.startswith(f"| `{kernel.name}` "))
        assert [name for name in kernel.providers if f"`{name}`" not in told] == []


def test_places_are_those_where_a_provider_does_not_decline() -> None:
    takers = list_takers(kernels()["w4a8_moe"], "int4_w4a8_fp8")
    assert takers == "cpu, sm_90, sm_100: `torch`; sm_89+: `triton`; sm_90: `triton-gluon`, `vllm-cutlass`"


def test_a_provider_that_takes_no_default_is_asked_about_the_other_options() -> None:
    assert "sm_90+: `vllm-cutlass`, `vllm-cutlass-batched`" in list_takers(kernels()["fused_moe"], "fp8_w8a8")


@pytest.mark.parametrize(
    ("archs", "name"),
    [
        ([], ""),
        (["cpu", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120"], "any"),
        (["sm_90", "sm_100", "sm_120"], "sm_90+"),
        (["sm_90"], "sm_90"),
        (["cpu", "sm_90"], "cpu, sm_90"),
    ],
)
def test_devices_have_a_short_name(archs: list[str], name: str) -> None:
    assert name_devices([device for device in DEVICES if device.arch in archs]) == name


def test_every_line_has_the_same_columns() -> None:
    assert {line.count(" | ") + line.count("---|") for line in coverage_lines()} == {2, 3}
    assert all(line.startswith("|") and line.endswith("|") for line in coverage_lines())


@pytest.mark.parametrize(
    ("answers", "takes"),
    [
        ({"sm_90": None}, True),
        ({"sm_100": NO_VLLM}, True),
        ({}, False),
    ],
)
def test_a_provider_that_declines_a_scheme_everywhere_is_left_out(answers: dict[str, str | None], takes: bool) -> None:
    kernel = kernels()["silu_mul_fp8"]
    provider = Provider(refuse_to_prepare, lambda _, device: answers.get(device.arch, "takes another scheme"))
    asked = [takes_scheme(provider, kernel, kernel.schemes[0], device) for device in DEVICES]
    assert any(asked) is takes


def test_every_combination_of_options_is_asked_about_once_and_defaults_stay_out_of_keys() -> None:
    for kernel in kernels().values():
        cases = list_cases(kernel, kernel.schemes[0])
        assert len({case.key for case in cases}) == len(cases)
        for case in cases:
            assert all(value != kernel.options[name][0] for name, value in case.options.items())


def test_what_is_installed_does_not_change_the_answers() -> None:
    with hidden_package("torch"):
        assert importlib.util.find_spec("torch") is None
    assert importlib.util.find_spec("torch") is not None
    assert sys.modules["torch"] is not None
    assert missing_capability(Device("cpu", "cpu"), (8, 0)) == "needs a CUDA GPU (this is cpu)"
