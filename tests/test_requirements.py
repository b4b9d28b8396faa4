"""What a provider is told of a device that will not do, and of a package that is not there."""

from importlib.machinery import ModuleSpec

import pytest

from kernels.requirements import NO_VLLM, missing_capability, missing_vllm
from kernels.spec import Device

BLACKWELL = ((10, 0), (12, 0))


def gpu(*capability: int) -> Device:
    major, minor = capability
    return Device("cuda", "a GPU", (major, minor))


@pytest.mark.parametrize("capabilities", [((8, 0),), BLACKWELL])
def test_a_cpu_is_no_gpu_whatever_is_asked(capabilities: tuple[tuple[int, int], ...]) -> None:
    assert missing_capability(Device("cpu", "a CPU"), *capabilities) == "needs a CUDA GPU (this is cpu)"


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (gpu(8, 6), "needs sm_89 (this is sm_86)"),
        (gpu(7, 5), "needs sm_89 (this is sm_75)"),
        (gpu(8, 9), None),
        (gpu(9, 0), None),
        (gpu(10, 0), None),
    ],
)
def test_one_capability_is_the_least(device: Device, reason: str | None) -> None:
    assert missing_capability(device, (8, 9)) == reason


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (gpu(9, 0), "needs sm_100 or sm_120 (this is sm_90)"),
        (gpu(11, 0), "needs sm_100 or sm_120 (this is sm_110)"),
        (gpu(10, 0), None),
        (gpu(10, 3), None),
        (gpu(12, 1), None),
    ],
)
def test_several_capabilities_are_those_families_and_no_newer_one(device: Device, reason: str | None) -> None:
    assert missing_capability(device, *BLACKWELL) == reason


def test_vllm_is_looked_for_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))
    assert missing_vllm() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert missing_vllm() == NO_VLLM
