"""How samples were taken, in a sentence: trials, the device's clocks meanwhile, and what was set aside."""

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.records import Trial


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """Trials of one or several measurements, counted."""

    num_trials: int
    """Those too that were set aside."""
    num_slow: int
    """At a slow clock."""
    num_set_aside: int
    """Repeated for their slow clock, and not counted; part of num_slow."""
    clock_mhz: tuple[int, int] | None
    """Lowest and highest SM clock; None where no state was read."""
    power_watts: tuple[float, float] | None
    """None too where the device does not tell it, as the next."""
    temperature_celsius: tuple[int, int] | None
    throttle_reasons: tuple[str, ...]
    """Of any trial, in order of first appearance."""


def summarize_trials(trials: Iterable[Trial]) -> TrialSummary:
    """Count trials, and find the range of what the device said of itself."""
    found = tuple(trials)
    states = [trial.state for trial in found if trial.state]
    clocks = [state.sm_clock_mhz for state in states]
    watts = [state.power_watts for state in states if state.power_watts is not None]
    degrees = [state.temperature_celsius for state in states if state.temperature_celsius is not None]
    return TrialSummary(
        num_trials=len(found),
        num_slow=sum(trial.is_slow_clock for trial in found),
        num_set_aside=sum(trial.num_samples == 0 for trial in found),
        clock_mhz=(min(clocks), max(clocks)) if clocks else None,
        power_watts=(min(watts), max(watts)) if watts else None,
        temperature_celsius=(min(degrees), max(degrees)) if degrees else None,
        throttle_reasons=tuple(dict.fromkeys(reason for state in states for reason in state.throttle_reasons)),
    )


def tell_slow_clocks(trials: TrialSummary) -> str:
    """E.g. "slow clock in 6 of 11 trials, 2 set aside; 1785-1980 MHz; sw_power_cap"; "" if none was slow."""
    if not trials.num_slow:
        return ""
    aside = f", {trials.num_set_aside} set aside" if trials.num_set_aside else ""
    reasons = ", ".join(trials.throttle_reasons)
    told = (f"slow clock in {trials.num_slow} of {trials.num_trials} trials{aside}", tell_clocks(trials), reasons)
    return "; ".join(filter(None, told))


def tell_clocks(trials: TrialSummary) -> str:
    """E.g. "1785-1980 MHz", "" where no state was read."""
    if trials.clock_mhz is None:
        return ""
    low, high = trials.clock_mhz
    return f"{low} MHz" if low == high else f"{low}-{high} MHz"


def tell_device(trials: TrialSummary) -> str:
    """Clocks, power and temperature, e.g. "1785-1980 MHz, 402-690 W, 48-55 C", without what is not told of them."""
    watts = "-".join(dict.fromkeys(f"{value:.0f}" for value in trials.power_watts or ()))
    degrees = "-".join(dict.fromkeys(str(value) for value in trials.temperature_celsius or ()))
    told = (tell_clocks(trials), f"{watts} W" if watts else "", f"{degrees} C" if degrees else "")
    return ", ".join(filter(None, told))
