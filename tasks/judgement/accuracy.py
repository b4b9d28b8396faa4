"""How the error of a series moved over its nights; the same code, seed and device repeat their error."""

import math

import numpy as np

from tasks.judgement.histories import Floats

ERROR_JUMP = 1.5
"""A change of the relative error by more than this factor, up or down, is told."""


def usual_error(errors: Floats) -> float | None:
    """Median of the nights' relative errors, None without any; one that is not a number is not known."""
    known = errors[np.isfinite(errors)]
    return float(np.median(known)) if len(known) else None


def compare_errors(error: float, earlier: float) -> float:
    """error / earlier: 1 where both are zero, infinite where only the earlier one is."""
    if earlier == 0:
        return 1.0 if error == 0 else math.inf
    return error / earlier


def is_jump(ratio: float) -> bool:
    """Whether errors that far apart are worth a look."""
    return not 1 / ERROR_JUMP <= ratio <= ERROR_JUMP
