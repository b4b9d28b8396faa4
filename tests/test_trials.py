"""What is told of trials, sentence by sentence."""

from dataclasses import replace

from nights import CPU, make_state, make_trials

from dashboards.trials import summarize_trials, tell_clocks, tell_device, tell_slow_clocks
from tasks.records import Trial


def test_a_slow_clock_is_told_with_its_trials_clocks_and_reasons() -> None:
    told = tell_slow_clocks(summarize_trials(make_trials(30, is_slow=True)))
    assert told == "slow clock in 3 of 8 trials, 2 set aside; 1785-1980 MHz; sw_power_cap"


def test_nothing_is_told_of_clocks_that_were_not_slow() -> None:
    assert tell_slow_clocks(summarize_trials(make_trials(30))) == ""
    assert tell_slow_clocks(summarize_trials(())) == ""


def test_a_trial_that_stayed_slow_without_being_repeated_is_told_without_an_aside() -> None:
    slow = Trial(0, 5, make_state(1500, "hw_thermal_slowdown", "sw_power_cap"), is_slow_clock=True)
    assert tell_slow_clocks(summarize_trials([slow])) == (
        "slow clock in 1 of 1 trials; 1500 MHz; hw_thermal_slowdown, sw_power_cap"
    )


def test_the_device_is_told_by_its_ranges() -> None:
    states = (make_state(1980), replace(make_state(1980), power_watts=701.6, temperature_celsius=64))
    summary = summarize_trials([Trial(number, 5, state) for number, state in enumerate(states)])
    assert tell_device(summary) == "1980 MHz, 660-702 W, 51-64 C"


def test_what_a_device_does_not_tell_is_left_out() -> None:
    state = replace(make_state(1980), memory_clock_mhz=None, power_watts=None)
    assert tell_device(summarize_trials([Trial(0, 5, state)])) == "1980 MHz, 51 C"
    trials = [Trial(0, 5, replace(state, temperature_celsius=None)), Trial(1, 5, make_state(1785))]
    assert tell_device(summarize_trials(trials)) == "1785-1980 MHz, 595 W, 51 C"


def test_a_device_that_tells_nothing_of_itself_has_no_clocks() -> None:
    summary = summarize_trials(make_trials(30, CPU))
    assert summary.num_trials == 6
    assert (tell_clocks(summary), tell_device(summary)) == ("", "")
