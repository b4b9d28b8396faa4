"""The device is what it says, and memory where an output will lie holds no earlier answer."""

from pathlib import Path

import pytest
import torch

from kernels.timing.devices import (
    POISON_BYTE,
    cpu_name,
    device_of,
    erasing,
    l2_bytes,
    poison_memory,
    synchronize,
)

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_the_cpu_is_named_by_its_model():
    device = device_of(CPU)
    assert (device.type, device.arch, device.capability) == ("cpu", "cpu", (0, 0))
    assert device.name.startswith("cpu: ")
    assert len(device.name) > len("cpu: ")


def test_the_first_model_name_of_cpuinfo_counts(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel\t\t: 143\nmodel name\t: Fast: CPU\nmodel name\t: other\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Fast: CPU"


def test_a_cpu_without_a_model_name_is_named_by_its_machine_type(tmp_path: Path):
    assert cpu_name(tmp_path / "missing") != ""


def test_synchronizing_a_cpu_is_nothing():
    synchronize(CPU)


@pytest.mark.parametrize("size_bytes", [0, 1, 3 << 20])
def test_memory_of_any_size_can_be_poisoned(size_bytes: int):
    poison_memory(size_bytes, CPU)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float32])
def test_poison_is_nan_in_every_output_dtype(dtype: torch.dtype):
    poison = torch.full((16,), POISON_BYTE, dtype=torch.uint8)
    assert poison.view(dtype).float().isnan().all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_erased_outputs_are_no_numbers_whatever_their_strides(device: str):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    codes = torch.ones(4, 6, device=device).to(torch.float8_e4m3fn)
    scales = torch.ones(2, 5, 3, device=device).transpose(1, 2)
    with pytest.raises(ZeroDivisionError), erasing((codes, scales)):
        assert scales.sum() == 30
        raise ZeroDivisionError
    assert codes.float().isnan().all()
    assert scales.isnan().all()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("size_bytes", [1 << 10, 1 << 26])
def test_the_next_allocation_after_poisoning_is_nan(size_bytes: int):
    torch.cuda.empty_cache()
    poison_memory(size_bytes, torch.device("cuda"))
    assert torch.empty(size_bytes, dtype=torch.uint8, device="cuda").view(torch.float32).isnan().all()


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_has_a_name_a_capability_and_an_l2():
    device = device_of(torch.device("cuda", 0))
    assert device.type == "cuda"
    assert device.arch == f"sm_{device.capability[0]}{device.capability[1]}"
    assert 1 << 20 <= l2_bytes(torch.device("cuda", 0)) <= 1 << 30
