"""Which provider computes which scheme of which kernel, and on what: a table of the registry, for the README."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product

from kernels.registry import kernels
from kernels.requirements import NO_VLLM
from kernels.spec import Case, Device, Kernel, Layer, Provider
from tasks.planning.shapes import DTYPES

DEVICES = (
    Device("cpu", "cpu"),
    *(
        Device("cuda", f"sm_{major}{minor}", (major, minor))
        for major, minor in ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0))
    ),
)
"""Who is asked about: one device of every family."""
FEW = {"num_experts": 8, "top_k": 2}
MANY = 4096
"""Every other size: a multiple of every block and group."""
NUM_TOKENS = 64


def coverage_lines() -> list[str]:
    """A Markdown table, the same on every machine: schemes of a kernel with the same providers share a row."""
    lines = ["| kernel | schemes | where they run: providers |", "|---|---|---|"]
    with hidden_package("vllm"):
        for kernel in kernels().values():
            rows: dict[str, list[str]] = {}
            for scheme in kernel.schemes:
                rows.setdefault(list_takers(kernel, scheme), []).append(f"`{scheme}`")
            lines += [f"| `{kernel.name}` | {', '.join(schemes)} | {takers} |" for takers, schemes in rows.items()]
    return lines


def list_takers(kernel: Kernel, scheme: str) -> str:
    """The scheme's providers by where they run: "any: `torch`; sm_89+: `triton`, `vllm-marlin`"."""
    by_place: dict[str, list[str]] = {}
    for name, provider in kernel.providers.items():
        place = name_devices([device for device in DEVICES if takes_scheme(provider, kernel, scheme, device)])
        if place:
            by_place.setdefault(place, []).append(f"`{name}`")
    return "; ".join(f"{place}: {', '.join(names)}" for place, names in by_place.items())


def name_devices(devices: Sequence[Device]) -> str:
    """Those devices in a word: "any", "sm_89+" if every newer one belongs to them, else each; "" for none."""
    if len(devices) == len(DEVICES):
        return "any"
    if devices and tuple(devices) == DEVICES[-len(devices) :]:
        return f"{devices[0].arch}+"
    return ", ".join(device.arch for device in devices)


def takes_scheme(provider: Provider, kernel: Kernel, scheme: str, device: Device) -> bool:
    """Whether a provider computes a scheme on a device; vLLM may be missing, as it is hidden.

    Asked with every option at its default, or, if it takes that nowhere, with any options.
    """

    def takes(case: Case, on: Device) -> bool:
        return provider.unsupported(case, on) in (None, NO_VLLM)

    cases = list_cases(kernel, scheme)
    defaults = [case for case in cases if not case.options]
    if any(takes(case, other) for case in defaults for other in DEVICES):
        cases = defaults
    return any(takes(case, device) for case in cases)


def list_cases(kernel: Kernel, scheme: str) -> list[Case]:
    """One layer of the kernel with every dtype and every combination of options."""
    sizes = {name: FEW.get(name, MANY) for name in kernel.size_names}
    layers = [Layer(kernel.name, "grid", 1, 1, scheme, dtype, sizes) for dtype in DTYPES if dtype != "auto"]
    defaults = {name: values[0] for name, values in kernel.options.items()}
    chosen = [dict(zip(defaults, values, strict=True)) for values in product(*kernel.options.values())]
    changed = [{name: value for name, value in options.items() if value != defaults[name]} for options in chosen]
    return [Case(layer, NUM_TOKENS, options) for layer in layers for options in changed]


@contextmanager
def hidden_package(name: str) -> Iterator[None]:
    """Have a package not be found while the block runs: what is installed must not change the table."""
    hidden = {module: sys.modules.pop(module) for module in list(sys.modules) if module.partition(".")[0] == name}
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(hidden)
