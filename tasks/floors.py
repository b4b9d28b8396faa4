"""The time that a case takes at the rates that its host was measured to copy and multiply at."""

from collections.abc import Iterable, Mapping

from kernels.rates import COPY, gemm_name
from tasks.records import Ceiling, Check

Rates = Mapping[str, float]
"""Ceilings of one host: name -> value in the unit that kernels/ceilings.py measures it in."""


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
    copy_rate, gemm_rate = rates.get(COPY), rates.get(gemm_name(gemm_dtype))
    if not check.bytes_moved or copy_rate is None:
        return None
    copy_us = check.bytes_moved / 1e3 / copy_rate
    if not gemm_dtype:
        return copy_us
    return None if gemm_rate is None else max(copy_us, check.flops / 1e6 / gemm_rate)
