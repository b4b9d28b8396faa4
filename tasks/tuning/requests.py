"""What the command line asks to be tuned, as requests."""

from collections.abc import Sequence
from pathlib import Path

from kernels.registry import find_kernel
from kernels.spec import Device
from tasks.errors import UsageError
from tasks.planning.cases import Selection, plan_units, resolve_shapes
from tasks.planning.entries import KernelEntry, ModelEntry, Suite
from tasks.records import WorkUnit
from tasks.tuning.plan import Effort
from tasks.tuning.retuning import BATCH_SIZES, Request, launcher_of
from tasks.tuning.spaces import problem_of, space_of
from tasks.tuning.staleness import OUR_KERNELS, OURS, TUNED

USUAL_SCHEMES = {"fused_moe": ("fp8_w8a8",)}
"""By kernel, what is tuned without --scheme; the kernel's first scheme where none is named."""


def list_requests(selection: Selection, device_type: str, save_dir: Path, seed: int, seconds: float) -> list[Request]:
    """A request for every layer and provider of the selection; needs no device.

    Args:
        selection: names its models.
        seconds: of the search of each.
    Raises:
        UsageError: nothing can be tuned as it was asked; KernelError: a provider takes no configurations.
    """
    if not seconds > 0:
        raise UsageError(f"--budget {seconds:g} is not above 0; give seconds for the search of a layer, such as 300")
    if not selection.models:
        raise UsageError(
            "name what to tune with --model, such as --model Mixtral-8x7B (all: kernel-nightly list models)"
        )
    kernels = selection.kernels or ("fused_moe",)
    refused = [kernel for kernel in kernels if kernel not in OUR_KERNELS]
    if refused:
        raise UsageError(f"--kernel {' '.join(refused)} cannot be tuned; give one of {', '.join(OUR_KERNELS)}")
    entries = tuple(
        KernelEntry(kernel, schemes, BATCH_SIZES)
        for kernel in kernels
        if (schemes := choose_schemes(kernel, selection.schemes)) or not selection.schemes
    )
    if not entries:
        have = "; ".join(f"{kernel} has {', '.join(find_kernel(kernel).schemes)}" for kernel in kernels)
        raise UsageError(f"--scheme {' '.join(selection.schemes)} is of none of the kernels to tune: {have}")
    suite = Suite("retune", "what the command line names", (ModelEntry("none", 1, entries),), "cpu")
    plan = plan_units(suite, resolve_shapes(suite, selection), selection, device_type)
    requests = []
    for unit in plan.units:
        for provider in list_providers(unit, selection):
            one = WorkUnit(unit.layer, unit.cases, (provider,), unit.timers)
            require_tunable(one, device_type)
            requests.append(Request(one, save_dir, seed, Effort(most_seconds=seconds)))
    return requests


def choose_schemes(kernel: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Of what was asked for, a kernel's own; without that, its usual ones."""
    if not asked:
        return USUAL_SCHEMES.get(kernel, ())
    return tuple(scheme for scheme in asked if scheme in find_kernel(kernel).schemes)


def list_providers(unit: WorkUnit, selection: Selection) -> list[str]:
    """The unit's providers that were asked for, one of those that launch the same kernel."""
    usual = TUNED if unit.layer.kernel == "fused_moe" else OURS
    asked = unit.providers if selection.providers else (usual,)
    return list(dict.fromkeys(launcher_of(provider) for provider in asked))


def require_tunable(unit: WorkUnit, device_type: str) -> None:
    """Refuse what has no configurations, what is several searches, and what cannot run on a CPU where there is no GPU.

    Raises:
        KernelError: there is nothing to tune; UsageError: not at once, or not on this device.
    """
    [provider], kernel = unit.providers, find_kernel(unit.layer.kernel)
    options = {case.num_tokens: case.options for case in reversed(unit.cases)}
    if twice := next((case for case in unit.cases if case.options != options[case.num_tokens]), None):
        raise UsageError(
            f"--option: {unit.layer.label} was asked for with {options[twice.num_tokens]} and {twice.options}; "
            "a search is of one value of each option: ask for one after the other"
        )
    for case in unit.cases:
        space_of(case, provider)
        problem_of(case, provider, "cpu")
    if device_type == "cpu":
        reason = kernel.providers[provider].unsupported(unit.cases[0], Device("cpu", "cpu"))
        if reason:
            raise UsageError(f"--device cpu: {provider} of {kernel.name} cannot be tuned there: {reason}; use a GPU")
