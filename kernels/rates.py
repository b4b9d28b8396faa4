"""What the rates of a device at its best are called; measured by ceilings.py, which needs torch to do so."""

from dataclasses import dataclass

COPY = "copy"


@dataclass(frozen=True, slots=True)
class Rate:
    """The best rate that a device was seen at."""

    name: str
    """"copy", or a dtype and " gemm"."""
    value: float
    unit: str
    """"GB/s" or "TFLOP/s"."""


def gemm_name(dtype: str) -> str:
    """What the rate of a dtype's GEMM is called, e.g. "float8_e4m3fn gemm"."""
    return f"{dtype} gemm"
