"""What a provider is told of a device that will not do, and of a package that is not there."""

from importlib.machinery import ModuleSpec

import pytest

from kernels.requirements import NO_VLLM, missing_capability, missing_family, missing_vllm
from kernels.spec import Device

BLACKWELL = (10, 12)


def gpu(*capability: int) -> Device:
    major, minor = capability
    return Device("cuda", "a GPU", (major, minor))


def test_a_cpu_is_no_gpu_whatever_is_asked() -> None:
    cpu = Device("cpu", "a CPU")
    assert missing_capability(cpu, (8, 0)) == missing_family(cpu, *BLACKWELL) == "needs a CUDA GPU (this is cpu)"


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
def test_a_capability_is_the_least(device: Device, reason: str | None) -> None:
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
def test_families_are_those_and_no_newer_one(device: Device, reason: str | None) -> None:
    assert missing_family(device, *BLACKWELL) == reason


def test_a_family_says_what_only_it_has() -> None:
    assert missing_family(gpu(9, 0), 9, because="where it is fast") is None
    reason = "needs sm_90, where it is fast (this is sm_100)"
    assert missing_family(gpu(10, 0), 9, because="where it is fast") == reason


def test_vllm_is_looked_for_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))
    assert missing_vllm() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert missing_vllm() == NO_VLLM
