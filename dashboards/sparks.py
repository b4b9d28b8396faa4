"""A month of a series in the width of a word."""

import numpy as np

from tasks.judgement.histories import History

NIGHTS = 30
WIDTH, HEIGHT = 60, 14
LEAST_RANGE = 0.03
"""The height stands for 3 % at least, so that noise does not look like news."""


def draw_spark(history: History) -> str:
    """The path of its last nights for a tiny SVG; "" for fewer than two."""
    values = history.median_us[-NIGHTS:]
    if len(values) < 2:
        return ""
    middle = float(np.median(values))
    reach = max(float(np.abs(values / middle - 1).max()), LEAST_RANGE / 2)
    xs = np.linspace(1, WIDTH - 1, len(values)).round()
    ys = (HEIGHT / 2 - (HEIGHT / 2 - 1) * (values / middle - 1) / reach).round()
    return "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in zip(xs, ys, strict=True))
