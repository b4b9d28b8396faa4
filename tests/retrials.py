"""A Bench whose torch provider is slower than the code says; in a file of its own, so that workers can import it."""

from collections.abc import Mapping
from dataclasses import replace

from kernels.errors import ConfigError
from kernels.registry import PACKAGE_DIR, find_kernel, kernels
from kernels.spec import Case, Kernel, Launch, Tensors
from tasks.bench import Bench

NAME = "silu_mul_fp8"


def repeat_torch() -> Kernel:
    """silu_mul_fp8 whose torch does its work as often as its configuration says, and four times by itself."""
    kernel = find_kernel(NAME)
    original = kernel.providers["torch"].prepare

    def prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
        return prepare_with(case, weights, inputs, {"repeats": 4})

    def prepare_with(case: Case, weights: Tensors, inputs: Tensors, config: Mapping[str, object]) -> Launch:
        repeats, launch = config.get("repeats"), original(case, weights, inputs)
        if not isinstance(repeats, int):
            raise ConfigError(f"silu_mul_fp8 needs repeats in a launch configuration: this has {', '.join(config)}")
        return Launch(lambda: [launch.run() for _ in range(repeats)][-1], config)

    torch = replace(kernel.providers["torch"], prepare=prepare, prepare_with=prepare_with)
    return replace(kernel, providers={**kernel.providers, "torch": torch})


class RepeatingBench(Bench):
    """Runs repeat_torch()."""

    def __init__(self, device_type: str) -> None:
        kernels(PACKAGE_DIR)[NAME] = repeat_torch()
        super().__init__(device_type)
