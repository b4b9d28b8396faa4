"""How figures are told, on pages and in tables."""

import math
from datetime import datetime


def tell_figure(value: float | None) -> str:
    """Four significant digits without an exponent, "" for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tell_change(value: float | None) -> str:
    """A relative change in percent, "" for None; what rounds to nothing is +0.0%."""
    return "" if value is None else f"{value:+z.1%}"


def tell_half_width(value: float | None) -> str:
    """Half an interval as a share of its middle, e.g. "+-0.31%" with a real sign; "" for None."""
    if value is None:
        return ""
    return f"\N{PLUS-MINUS SIGN}{value:.2%}" if value < 0.01 else f"\N{PLUS-MINUS SIGN}{value:.1%}"


def tell_ratio(ratio: float) -> str:
    """A multiple with a real multiplication sign; "from 0" for an infinite one."""
    return f"{ratio:.2g}\N{MULTIPLICATION SIGN}" if math.isfinite(ratio) else "from 0"


def tell_size(size_bytes: int) -> str:
    """Bytes in the largest unit that keeps a figure before the point."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes} B"


def tell_day(moment: datetime) -> str:
    """Date, UTC."""
    return f"{moment:%Y-%m-%d}"


def tell_utc(moment: datetime) -> str:
    """Date and minute, UTC."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
