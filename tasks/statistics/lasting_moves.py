"""When a machine changed for good, and the nights before as they would have been since: floats in, floats out.

A new driver is the machine, not the kernel: once reference kernels have been elsewhere for a week, each series is held
against where it has been since. Its nights before the move are shifted by the difference of its medians around it, so
that nothing else of its past is lost, and by no more than the machine explains.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tasks.statistics.spreads import COMMON_MOVE, COMMON_NIGHTS, Flags, Floats, Integers, find_medians

EXPLAINED_SHARE = 0.4
"""The machine is to blame where it moved by at least this share of what the kernel did."""
NIGHTS_AROUND = 14
"""Most nights on either side of a move that tell how far a series followed it."""
OF_A_MEDIAN = np.pi / 2
"""Variance of a median of n nights, in n-ths of that of one."""


@dataclass(frozen=True, slots=True)
class LastingMove:
    """The machines of one device are others from one run on."""

    run: int
    """Its number."""
    low: float
    """How far a kernel may have followed, as logarithms: from this, at most 0, to `high`, at least 0."""
    high: float


def find_lasting_moves(levels: Floats, runs: Integers) -> list[LastingMove]:
    """The moves of some reference kernels that have lasted, in order.

    A move is where two medians, of the COMMON_NIGHTS runs before and of those since, fit the runs better than one. It
    has lasted if each of those since is nearer to theirs, or else after as many again: two outages in a week are none.

    Args:
        levels: [num_kernels, num_runs] logarithms.
        runs: number of the run of each column, in order.
    """
    num_runs = levels.shape[1]
    jumps, gains = np.zeros(levels.shape), np.zeros(num_runs)
    for first in range(COMMON_NIGHTS, num_runs):
        before, since = levels[:, first - COMMON_NIGHTS : first], levels[:, first : first + COMMON_NIGHTS]
        jumps[:, first] = np.median(since, axis=1) - np.median(before, axis=1)
        if np.abs(jumps[:, first]).max() >= COMMON_MOVE:
            one = _find_deviation(np.column_stack([before, since]))
            gains[first] = one - _find_deviation(before) - _find_deviation(since)
    found = []
    while gains.max(initial=0.0) > 0:
        best = int(gains.argmax())
        gains[max(0, best - COMMON_NIGHTS + 1) : best + COMMON_NIGHTS] = 0.0
        wait = COMMON_NIGHTS if _is_settled(levels, best) else 2 * COMMON_NIGHTS
        if best + wait <= num_runs:
            low, high = min(0.0, jumps[:, best].min()), max(0.0, jumps[:, best].max())
            found.append(LastingMove(int(runs[best]), float(low / EXPLAINED_SHARE), float(high / EXPLAINED_SHARE)))
    return sorted(found, key=lambda move: move.run)


def _is_settled(levels: Floats, first: int) -> bool:
    """Whether all runs since a move are nearer to their median than to that before, of the kernel that moved most."""
    before, since = levels[:, first - COMMON_NIGHTS : first], levels[:, first : first + COMMON_NIGHTS]
    middles = np.median(before, axis=1), np.median(since, axis=1)
    most = int(np.abs(middles[1] - middles[0]).argmax())
    off = [np.abs(since[most] - middle[most]) for middle in middles]
    return bool((off[1] < off[0]).all())


def _find_deviation(levels: Floats) -> float:
    """How far all runs are from the median of each kernel."""
    return float(np.abs(levels - np.median(levels, axis=1)[:, None]).sum())


def shift_to_last_move(
    values: Floats, runs: Integers, moves: Iterable[LastingMove], regimes: Integers, tells: Flags
) -> tuple[Floats, Floats]:
    """With the nights before each move shifted by as much as the series followed it.

    Args:
        values: [num_series, num_nights] logarithms; NaN where there is none.
        runs: [num_series, num_nights] number of the run of each.
        regimes: [num_series, num_nights] number of the kernel's own regime: nights of the one that it was in tell how
            far it followed.
        tells: [num_series, num_nights] whether a night does.
    Returns:
        The nights; and [num_series, num_nights] how many times its noise, squared, a shifted one may be wrong by.
    """
    shifted, doubts = values.copy(), np.zeros(values.shape)
    for move in sorted(moves, key=lambda move: -move.run):
        is_before = runs < move.run
        is_of_regime = regimes == np.take_along_axis(regimes, is_before.argmin(axis=1)[:, None], axis=1)
        known = np.isfinite(shifted) & is_of_regime & tells
        before, since = known & is_before, known & ~is_before
        before &= before[:, ::-1].cumsum(axis=1)[:, ::-1] <= NIGHTS_AROUND
        since &= since.cumsum(axis=1) <= NIGHTS_AROUND
        followed = find_medians(np.where(since, shifted, np.nan)) - find_medians(np.where(before, shifted, np.nan))
        shift = np.nan_to_num(followed).clip(move.low, move.high)
        shifted = np.where(is_before, shifted + shift[:, None], shifted)
        doubt = OF_A_MEDIAN * (1 / np.maximum(before.sum(axis=1), 1) + 1 / np.maximum(since.sum(axis=1), 1))
        doubts += np.where(is_before, doubt[:, None], 0.0)
    return shifted, doubts
