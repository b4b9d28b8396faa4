"""What the command line asks to be tuned, as requests."""

from pathlib import Path

from kernels.registry import find_kernel
from kernels.spec import Device
from tasks.cases import Selection, plan_units, resolve_shapes
from tasks.entries import KernelEntry, ModelEntry, Suite
from tasks.errors import UsageError
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
        EmptySpaceError: no configuration is left for some batch size.
    """
    if not seconds > 0:
        raise UsageError(f"--budget {seconds:g} is not above 0; give seconds for the search of a layer, such as 300")
    if not selection.models:
        raise UsageError(
            "name what to tune with --model, such as --model Mixtral-8x7B (all: kernel-nightly list models)"
        )
    kernels = selection.kernels or ("fused_moe",)
    entries = tuple(
        KernelEntry(kernel, selection.schemes or USUAL_SCHEMES.get(kernel, ()), BATCH_SIZES)
        for kernel in kernels
        if kernel in OUR_KERNELS
    )
    if not entries:
        raise UsageError(f"--kernel {' '.join(kernels)} cannot be tuned; give one of {', '.join(OUR_KERNELS)}")
    suite = Suite("retune", "what the command line names", (ModelEntry("none", 1, entries),), "cpu")
    plan = plan_units(suite, resolve_shapes(suite, selection), selection, device_type)
    requests = []
    for unit in plan.units:
        for provider in list_providers(unit, selection):
            one = WorkUnit(unit.layer, unit.cases, (provider,), unit.timers)
            require_tunable(one, device_type)
            requests.append(Request(one, save_dir, seed, Effort(most_seconds=seconds)))
    return requests


def list_providers(unit: WorkUnit, selection: Selection) -> list[str]:
    """The unit's providers that were asked for, one of those that launch the same kernel."""
    usual = TUNED if unit.layer.kernel == "fused_moe" else OURS
    asked = unit.providers if selection.providers else (usual,)
    return list(dict.fromkeys(launcher_of(provider) for provider in asked))


def require_tunable(unit: WorkUnit, device_type: str) -> None:
    """Refuse what has no configurations, or cannot run on a CPU where there is no GPU.

    Raises:
        KernelError: there is nothing to tune; UsageError: not on this device.
    """
    [provider], kernel = unit.providers, find_kernel(unit.layer.kernel)
    for case in unit.cases:
        space_of(case, provider)
        problem_of(case, provider, "cpu")
    if device_type == "cpu":
        reason = kernel.providers[provider].unsupported(unit.cases[0], Device("cpu", "cpu"))
        if reason:
            raise UsageError(f"--device cpu: {provider} of {kernel.name} cannot be tuned there: {reason}; use a GPU")
