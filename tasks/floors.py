"""The least time that a case can take on a host, from what the host was measured to do at best."""

from collections.abc import Iterable, Mapping

from kernels.ceilings import COPY, gemm_name
from tasks.records import Ceiling, Check

Rates = Mapping[str, float]
"""Ceilings of one host: name -> value in the unit that kernels/ceilings.py gives it."""


def group_rates(ceilings: Iterable[Ceiling]) -> dict[str, dict[str, float]]:
    """Rates by host id."""
    rates: dict[str, dict[str, float]] = {}
    for ceiling in ceilings:
        rates.setdefault(ceiling.host_id, {})[ceiling.name] = ceiling.value
    return rates


def find_floor_us(check: Check, rates: Rates, gemm_dtype: str) -> float | None:
    """max(bytes moved / copy rate, operations / GEMM rate of the dtype), in microseconds.

    Args:
        rates: of the host that made the check.
        gemm_dtype: what the case's tensor cores multiply; "" for a kernel without a GEMM, which only moves bytes.
    Returns:
        None where no inputs were made, or a rate that the floor needs was not measured.
    """
    copy_us = divide(check.bytes_moved / 1e3, rates.get(COPY))
    if not gemm_dtype or copy_us is None:
        return copy_us
    gemm_us = divide(check.flops / 1e6, rates.get(gemm_name(gemm_dtype)))
    return None if gemm_us is None else max(copy_us, gemm_us)


def divide(work: float, rate: float | None) -> float | None:
    """None without work or without a rate."""
    return work / rate if work and rate else None
