"""The table of the registry says who computes what, and says the same on every machine."""

import importlib.util
import re
import sys

import pytest

from flows.coverage import coverage_lines, hidden_package, list_cases, takes_scheme
from kernels.registry import kernels
from kernels.requirements import NO_VLLM, missing_capability
from kernels.spec import Case, Device, Launch, Provider, Tensors


def refuse_to_prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
    raise AssertionError("nothing is prepared for a table")


def test_every_kernel_and_scheme_has_a_row_in_the_order_of_the_registry() -> None:
    rows = [re.findall(r"`([^`]+)`", line)[:2] for line in coverage_lines()[2:]]
    assert rows == [[kernel.name, scheme] for kernel in kernels().values() for scheme in kernel.schemes]


def test_every_provider_is_named_with_where_it_runs() -> None:
    table = coverage_lines()
    for kernel in kernels().values():
        told = "\n".join(line for line in table if line.startswith(f"| `{kernel.name}` "))
        for name, provider in kernel.providers.items():
            assert f"`{name}` ({provider.runs_on})" in told


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
    provider = Provider(refuse_to_prepare, lambda _, device: answers.get(device.arch, "takes another scheme"), "sm_90")
    assert takes_scheme(provider, kernel, kernel.schemes[0]) is takes


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
