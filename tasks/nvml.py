"""What the NVIDIA driver says: its version, the GPUs there are, clocks and throttling. No other file imports pynvml.

It only reads: clocks and settings are never changed, and CUDA is never initialized.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pynvml

from tasks.records import DeviceState

THROTTLE_REASONS = {
    "sw_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hw_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "sw_thermal_slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hw_thermal_slowdown": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "hw_power_brake_slowdown": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "applications_clocks_setting": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "display_clock_setting": pynvml.nvmlClocksEventReasonDisplayClockSetting,
}
"""NVML's bits by the names nvidia-smi prints; an idle GPU is no reason."""


@contextmanager
def opened() -> Iterator[bool]:
    """Whether NVML is there; if so, open for the block."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def has_gpu() -> bool:
    """Whether this machine's driver sees a GPU; without NVML it is not asked."""
    with opened() as is_open:
        return is_open and bool(pynvml.nvmlDeviceGetCount() > 0)


def read_driver() -> str:
    """The driver's version, "" without NVML."""
    with opened() as is_open:
        return str(pynvml.nvmlSystemGetDriverVersion()) if is_open else ""


class GpuMonitor:
    """Reads the state of one GPU; NVML stays open until the process ends."""

    def __init__(self, device_uuid: str) -> None:
        """Never fails: `missing` says why nothing can be read.

        Args:
            device_uuid: as the driver prints it, "GPU-...".
        """
        self.missing = ""
        self._name = device_uuid or "this device"
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(device_uuid)
            self._ask()
        except pynvml.NVMLError as error:
            self._give_up(error)

    def read(self) -> DeviceState | None:
        """Clocks, power, temperature and throttle reasons now; None if the SM clock cannot be read, and ever after.

        What else a GPU or its driver does not tell is None in the state, or no reason.
        """
        if self.missing:
            return None
        try:
            return self._ask()
        except pynvml.NVMLError as error:  # a time without its clocks is better than none
            self._give_up(error)
            return None

    def _give_up(self, error: pynvml.NVMLError) -> None:
        self.missing = f"NVML does not answer for {self._name}: {error}"

    def _ask(self) -> DeviceState:
        milliwatts = self._ask_if_told(pynvml.nvmlDeviceGetPowerUsage)
        bits = self._ask_if_told(pynvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        return DeviceState(
            sm_clock_mhz=pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask_if_told(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
            power_watts=None if milliwatts is None else milliwatts / 1e3,
            temperature_celsius=self._ask_if_told(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=tuple(name for name, bit in THROTTLE_REASONS.items() if bits & bit),
        )

    def _ask_if_told(self, question: Callable[..., int], *arguments: int) -> int | None:
        """What NVML answers; None where the GPU or its driver does not tell."""
        try:
            return question(self._handle, *arguments)
        except pynvml.NVMLError:
            return None
