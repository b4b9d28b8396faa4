"""Timers keep every sample; the device, poison and percentiles are what they say."""

import statistics
import time
from pathlib import Path

import pytest
import torch

from kernels import timing
from kernels.errors import KernelError
from kernels.timing import TIMERS, cpu_name, device_of, erasing, poison_memory, synchronize, timers_for

CPU = torch.device("cpu")


def test_timers_are_keyed_by_their_names():
    assert all(timer.name == name for name, timer in TIMERS.items())


def test_each_device_type_has_its_timers():
    assert [timer.name for timer in timers_for("cuda")] == ["graph", "eager"]
    assert [timer.name for timer in timers_for("cpu")] == ["wall"]


def test_a_device_type_without_a_timer_is_an_error_that_lists_those_with():
    with pytest.raises(KernelError, match=r"'xpu'.*cpu, cuda"):
        timers_for("xpu")


def test_a_quick_call_is_timed_fifty_times():
    calls = []
    samples = TIMERS["wall"].time(lambda: calls.append(None))
    assert len(samples) == timing.MAX_WALL_SAMPLES
    assert len(calls) == timing.MAX_WALL_SAMPLES + timing.WARMUP_CALLS
    assert all(sample >= 0 for sample in samples)


def test_a_slow_call_is_timed_five_times_and_reads_as_microseconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "WALL_BUDGET_NS", 0)
    samples = TIMERS["wall"].time(lambda: time.sleep(0.005))
    assert len(samples) == timing.MIN_WALL_SAMPLES
    assert 5_000 <= min(samples) < 500_000


def test_a_call_that_fails_is_not_hidden_by_the_timer():
    with pytest.raises(ZeroDivisionError):
        TIMERS["wall"].time(lambda: 1 // 0)


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
    poison = torch.full((16,), timing.POISON_BYTE, dtype=torch.uint8)
    assert poison.view(dtype).float().isnan().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_graph_is_timed_replay_by_replay():
    x = torch.ones(1 << 20, device="cuda")
    samples = TIMERS["graph"].time(lambda: x * 2)
    assert len(samples) == timing.TIMED_REPLAYS
    assert all(0 < sample < 1000 for sample in samples)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_single_call_costs_more_than_one_of_a_graph_by_its_launch():
    x = torch.ones(1 << 10, device="cuda")
    samples = TIMERS["eager"].time(lambda: x * 2)
    assert len(samples) == timing.TIMED_CALLS
    assert statistics.median(samples) > statistics.median(TIMERS["graph"].time(lambda: x * 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("size_bytes", [1 << 10, 1 << 26])
def test_the_next_allocation_after_poisoning_is_nan(size_bytes: int):
    torch.cuda.empty_cache()
    poison_memory(size_bytes, torch.device("cuda"))
    assert torch.empty(size_bytes, dtype=torch.uint8, device="cuda").view(torch.float32).isnan().all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_erased_outputs_are_no_numbers_whatever_their_strides(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    codes = torch.ones(4, 6, device=device).to(torch.float8_e4m3fn)
    scales = torch.ones(2, 5, 3, device=device).transpose(1, 2)
    with pytest.raises(ZeroDivisionError), erasing((codes, scales)):
        assert scales.sum() == 30
        raise ZeroDivisionError
    assert codes.float().isnan().all()
    assert scales.isnan().all()
