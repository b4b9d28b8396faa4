"""Stale configs are found in the night's own measurements."""

from dataclasses import replace

import pytest
from records import make_case, make_measurement

from tasks.records import Measurement, Status
from tasks.tuning import DEFAULT, NOISE, SHIPPED, find_stale_configs


def measure_both(num_tokens: int, shipped_us: float, default_us: float) -> list[Measurement]:
    case = make_case(num_tokens)
    return [
        make_measurement(case=case, provider=SHIPPED, samples_us=(shipped_us,)),
        make_measurement(case=case, provider=DEFAULT, samples_us=(default_us,)),
    ]


def test_a_shipped_config_that_loses_to_the_default_is_stale() -> None:
    [stale] = find_stale_configs(measure_both(16, 120.0, 100.0))
    assert (stale.case, stale.shipped_us, stale.default_us) == (make_case(16), 120.0, 100.0)
    assert stale.relative_loss == pytest.approx(0.2)


@pytest.mark.parametrize("shipped_us", [50.0, 100.0, 100.0 * (1 + NOISE)])
def test_a_shipped_config_within_the_noise_is_not_stale(shipped_us: float) -> None:
    assert find_stale_configs(measure_both(16, shipped_us, 100.0)) == []


def test_the_worst_config_comes_first() -> None:
    night = measure_both(1, 110.0, 100.0) + measure_both(64, 300.0, 100.0) + measure_both(16, 120.0, 100.0)
    assert [stale.case.num_tokens for stale in find_stale_configs(night)] == [64, 16, 1]


def test_configs_of_different_cases_or_timers_are_not_compared() -> None:
    slow, _ = measure_both(16, 200.0, 100.0)
    _, fast_at_other_size = measure_both(64, 200.0, 100.0)
    assert find_stale_configs([slow, fast_at_other_size]) == []


def test_a_case_is_stale_once_and_only_if_every_timer_says_so() -> None:
    warm, cold = measure_both(16, 120.0, 100.0), [replace(m, timer="cold") for m in measure_both(16, 110.0, 100.0)]
    [stale] = find_stale_configs(warm + cold)
    assert (stale.shipped_us, stale.default_us) == (110.0, 100.0)
    even = [replace(m, timer="cold") for m in measure_both(16, 100.0, 100.0)]
    assert find_stale_configs(warm + even) == []


def test_a_config_that_failed_or_another_provider_says_nothing() -> None:
    shipped, _ = measure_both(16, 200.0, 100.0)
    failed = make_measurement(case=make_case(16), provider=DEFAULT, status=Status.CRASHED, reason="crash")
    other = make_measurement(case=make_case(16), provider="triton", samples_us=(1.0,))
    assert find_stale_configs([shipped, failed, other]) == []
    assert find_stale_configs([]) == []


def test_the_configs_compared_are_providers_that_exist() -> None:
    from kernels.registry import find_kernel

    assert {SHIPPED, DEFAULT} <= set(find_kernel("fused_moe").providers)
