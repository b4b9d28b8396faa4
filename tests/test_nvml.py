"""NVML: what the driver says of a GPU, and how to go on where it says nothing."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pynvml
import pytest
import torch
from consoles import run_command
from records import GPU, make_host, make_measurement, make_run, make_trial, make_unit
from rich.console import Console

from kernels.spec import Device
from tasks.clock import Clock
from tasks.commits.archive import Archive
from tasks.nvml import THROTTLE_REASONS, GpuMonitor, has_gpu, opened, read_driver
from tasks.pool import WorkerPool
from tasks.progress import RunProgress
from tasks.records import DeviceState, Trial, UnitResult
from tasks.session import Session
from tasks.storage.store import Store

without_nvml = pytest.mark.skipif(has_gpu(), reason="NVML is here")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@without_nvml
def test_without_nvml_there_is_no_gpu_no_driver_and_no_state() -> None:
    assert not has_gpu()
    assert read_driver() == ""
    with opened() as is_open:
        assert not is_open
    monitor = GpuMonitor("GPU-4f2c")
    assert monitor.read() is None
    assert monitor.missing.startswith("NVML does not answer for GPU-4f2c: ")
    assert "\n" not in monitor.missing


def test_a_device_without_a_uuid_has_no_state() -> None:
    monitor = GpuMonitor("")
    assert monitor.read() is None
    assert "NVML does not answer for this device: " in monitor.missing


def test_a_gpu_that_stops_answering_is_measured_on_without_its_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [1980]

    def read_clock(*_: object) -> int:
        if not answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return answers[0]

    for name in ("nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature"):
        monkeypatch.setattr(pynvml, name, lambda *_: 63)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda _: 0b101)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", read_clock)
    monitor = GpuMonitor("GPU-4f2c")
    assert monitor.read() == DeviceState(1980, 1980, 0.063, 63, ("sw_power_cap",)), "idle, the lowest bit, is no reason"
    answers.clear()
    assert monitor.read() is None
    assert monitor.missing == "NVML does not answer for GPU-4f2c: GPU is lost"
    answers.append(1980)
    assert monitor.read() is None


def test_what_a_gpu_or_its_driver_does_not_tell_leaves_the_sm_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell_sm_clock_only(_handle: object, kind: int) -> int:
        if kind != pynvml.NVML_CLOCK_SM:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 1980

    def be_missing(*_: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    for name in ("nvmlInit", "nvmlDeviceGetHandleByUUID"):
        monkeypatch.setattr(pynvml, name, lambda *_: 63)
    for name in ("PowerUsage", "Temperature", "CurrentClocksEventReasons"):
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", be_missing)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", tell_sm_clock_only)
    monitor = GpuMonitor("GPU-4f2c")
    assert (monitor.read(), monitor.missing) == (DeviceState(1980, None, None, None), "")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", be_missing)
    assert monitor.read() is None
    assert monitor.missing.startswith("NVML does not answer for GPU-4f2c: ")


def timed_on(device: Device, *trials: Trial) -> UnitResult:
    return make_unit([replace(make_measurement(), trials=trials)], host=make_host(device))


def test_a_run_says_once_for_each_kind_of_gpu_that_its_clocks_were_not_seen(tmp_path: Path) -> None:
    console = Console(file=StringIO())
    unseen, other = make_trial(state=None), replace(GPU, name="NVIDIA A100")
    with Store.open(tmp_path) as store:
        progress, archive = RunProgress(console, {}), Archive(tmp_path, tmp_path)
        session = Session(make_run(), {}, store, WorkerPool([]), progress, console, Clock(), [], archive)
        session.tell_of_missing_clocks(timed_on(GPU, make_trial()))
        session.tell_of_missing_clocks(timed_on(Device("cpu", "a CPU"), unseen))
        session.tell_of_missing_clocks(timed_on(GPU))
        assert console.file.getvalue() == ""  # type: ignore[attr-defined]
        for device in (GPU, GPU, other):
            session.tell_of_missing_clocks(timed_on(device, make_trial(), unseen))
    said = "no clocks of {}: NVML does not answer there; a throttled GPU goes unnoticed\n"
    assert console.file.getvalue() == said.format(GPU.name) + said.format("NVIDIA A100")  # type: ignore[attr-defined]


@without_nvml
def test_the_command_asked_for_a_gpu_ends_in_one_line_that_names_nvml(tmp_path: Path) -> None:
    ended = run_command("run", "--device", "cuda", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("kernel-nightly: --device cuda: NVML tells of no GPU here; run --device cpu")
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_throttle_reasons_are_single_bits_of_their_own() -> None:
    bits = list(THROTTLE_REASONS.values())
    assert all(bit and bit & (bit - 1) == 0 for bit in bits)
    assert len(set(bits)) == len(bits)


@needs_gpu
def test_a_gpu_tells_its_driver_and_its_state() -> None:
    assert has_gpu()
    assert read_driver()
    monitor = GpuMonitor(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    state = monitor.read()
    assert monitor.missing == ""
    assert state
    assert state.sm_clock_mhz > 0
    assert (state.power_watts or 0) > 0
    assert (state.temperature_celsius or 0) > 0
    assert set(state.throttle_reasons) <= set(THROTTLE_REASONS)


@needs_gpu
def test_a_uuid_that_no_gpu_has_is_told() -> None:
    assert "NVML does not answer for GPU-0000" in GpuMonitor("GPU-0000").missing
