"""How the machine moved between some nights and others, from what the reference kernels took beside each case.

Whatever nights a series is compared over, its reference kernels are compared over the same ones: then a driver, an
outage, or one after the other shows in both.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tasks.records import Series
from tasks.statistics.cards import estimate_card_offsets
from tasks.statistics.lasting_moves import LastingMove, find_lasting_moves, shift_to_last_move
from tasks.statistics.spreads import COMMON_MOVE, Flags, Floats, Integers, find_medians

LATE_NIGHTS = 3
"""The last nights before a machine is as it is: it may have moved one way and then the other, and kernels follow
the one further than the other."""
BACK, BACK_NIGHTS = COMMON_MOVE / 2, 2
"""A machine is back where it was if it was as near to where it is now, on so many nights."""
SAME_MOVE = 0.5
"""Nights in a row that were off by this share of a move are of it."""


class ReferenceKey(NamedTuple):
    """One reference kernel beside one case."""

    device_name: str
    case_key: str
    timer: str
    name: str


@dataclass(frozen=True, slots=True)
class Compared:
    """The nights that some series are compared over; [num_series, num_nights] each, tonight last."""

    runs: Integers
    """Number of the run of each night; -1 where there is no night."""
    before: Flags
    """Whether a night is of the baseline."""
    since: Flags
    """Whether it is held against that."""
    is_again: Flags
    """[num_series] whether tonight counts twice, as what was measured again."""


class Move(NamedTuple):
    """How far a reference kernel moved beside a case."""

    change: float
    """Relative, from the median of the nights before to that of those since."""
    since: int
    """Number of the first run of those in a row, up to tonight, that are nearer to this than to before."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceHistories:
    """What each reference kernel took beside each case in each run, without what the cards add."""

    rows: Mapping[ReferenceKey, int] = field(default_factory=dict)
    runs: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Number of the run of each column, in order."""
    values: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """[num_rows, num_runs] logarithms of medians; NaN where nothing was timed."""
    moves: Mapping[str, Sequence[LastingMove]] = field(default_factory=dict)
    """By device name, when its machines changed for good; what they took before is shifted by as much."""

    def find_moves(self, series: Sequence[Series], compared: Compared) -> list[dict[str, tuple[Move, ...]]]:
        """How far each reference kernel moved beside each series, by its name; what was not timed is left out.

        From the baseline, and from there to tonight alone; and where the machine had never been as it is now, from the
        last nights before too, and to these from the baseline.
        """
        found: list[dict[str, tuple[Move, ...]]] = [{} for _ in series]
        known = np.pad(self.values, ((0, 1), (0, 1)), constant_values=np.nan)  # the last row and column: not timed
        places = np.searchsorted(self.runs, compared.runs)
        columns = np.where(np.append(self.runs, -1)[places] == compared.runs, places, -1)
        for name in sorted({key.name for key in self.rows}):
            keys = [ReferenceKey(one.device_name, one.case_key, one.timer, name) for one in series]
            taken = known[np.array([self.rows.get(key, -1) for key in keys], dtype=np.int64)[:, None], columns]
            late, is_back = find_late(taken, compared)
            until_late = replace(compared, since=late, is_again=np.zeros(len(late), dtype=bool))
            is_known = np.isfinite(measure_moves(taken, compared)[0])
            is_tonight = np.broadcast_to(np.arange(taken.shape[1]) == taken.shape[1] - 1, taken.shape)
            ways = compared, replace(compared, since=is_tonight), replace(compared, before=late), until_late
            for number, way in enumerate(ways):
                change, since = measure_moves(taken, way)
                is_told = is_known & np.isfinite(change) & (~is_back | (number < 2))
                for row in np.flatnonzero(is_told).tolist():
                    move = Move(float(np.expm1(change[row])), int(compared.runs[row, since[row]]))
                    found[row][name] = (*found[row].get(name, ()), move)
        return found


def arrange_references(
    keys: Sequence[ReferenceKey], runs: Integers, values: Floats, cards: Integers
) -> ReferenceHistories:
    """The histories without what each card adds, which is another share of it for each reference kernel, and without
    what changed for good.

    Args:
        runs: number of the run of each column, in order.
        values: [num_keys, num_runs] logarithms; NaN where nothing was timed.
        cards: [num_keys, num_runs] number of the card; 0 where there is no value.
    """
    steady, moves = values.copy(), dict[str, Sequence[LastingMove]]()
    columns = np.tile(np.arange(len(runs)), (len(keys), 1))
    for rows in group_rows([(key.device_name, key.timer, key.name) for key in keys]):
        _, numbers = np.unique(cards[rows], return_inverse=True)
        on_cards = numbers.reshape(len(rows), -1)
        offsets = estimate_card_offsets(values[rows], on_cards, columns[rows], np.zeros(len(rows), dtype=np.int64))
        offsets[~find_known_cards(np.where(np.isfinite(values[rows]), on_cards, -1), len(offsets))] = 0.0
        steady[rows] -= offsets[on_cards]
    for rows in group_rows([key.device_name for key in keys]):
        device_name = keys[rows[0]].device_name
        of_device = steady[rows] - find_medians(steady[rows])[:, None]
        of_names = group_rows([keys[row].name for row in rows])
        levels = np.array([find_medians(of_device[of_name].T) for of_name in of_names])
        is_known = np.isfinite(levels).all(axis=0)
        moves[device_name] = find_lasting_moves(levels[:, is_known], runs[is_known])
        tells = np.broadcast_to(runs < runs[-1], steady[rows].shape)
        one_regime = np.zeros(tells.shape, dtype=np.int64)
        told = steady[rows], runs[columns[rows]], moves[device_name], one_regime, tells
        steady[rows], _ = shift_to_last_move(*told)
    return ReferenceHistories({key: row for row, key in enumerate(keys)}, runs, steady, moves)


def find_known_cards(on_cards: Integers, num_cards: int) -> Flags:
    """[num_cards] whether it is known what each adds: another was timed between its first run and its last.

    A card that came alone cannot be told from what the machine did since, and is taken for that.

    Args:
        on_cards: [num_rows, num_runs] number of the card; -1 where nothing was timed.
    """
    num_rows = np.array([(on_cards == card).sum(axis=0) for card in range(num_cards)])  # [num_cards, num_runs]
    is_timed, num_others = num_rows > 0, num_rows.sum(axis=0) - num_rows
    has_begun = np.logical_or.accumulate(is_timed, axis=1)
    will_be = np.logical_or.accumulate(is_timed[:, ::-1], axis=1)[:, ::-1]
    known: Flags = (has_begun & will_be & (num_others > 0)).any(axis=1)
    return known


def group_rows(names: Sequence[Hashable]) -> list[list[int]]:
    """The rows of each name."""
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return list(rows.values())


def measure_moves(taken: Floats, compared: Compared) -> tuple[Floats, Integers]:
    """[num_series] how far the median moved, and the column since which it has.

    Args:
        taken: [num_series, num_nights] what a reference kernel took, logarithms; NaN where it was not timed.
    """
    level = find_medians(np.where(compared.before, taken, np.nan))
    change = find_now(taken, compared) - level
    off = (taken - level[:, None]) * np.sign(change)[:, None]
    is_off = (compared.runs >= 0) & (np.nan_to_num(off, nan=np.inf) >= SAME_MOVE * np.abs(change)[:, None])
    in_a_row = np.logical_and.accumulate(is_off[:, ::-1], axis=1).sum(axis=1)
    return change, taken.shape[1] - np.maximum(in_a_row, 1)


def find_now(taken: Floats, compared: Compared) -> Floats:
    """[num_series] the median over the nights of the change."""
    tonight = np.where(compared.is_again, taken[:, -1], np.nan)
    return find_medians(np.column_stack([np.where(compared.since, taken, np.nan), tonight]))


def find_late(taken: Floats, compared: Compared) -> tuple[Flags, Flags]:
    """The last nights before the machine was as it is now; and [num_series] whether it had been so before."""
    is_so = np.abs(taken - find_now(taken, compared)[:, None]) < COMMON_MOVE
    in_a_row = np.logical_and.accumulate((is_so | np.isnan(taken))[:, ::-1], axis=1).sum(axis=1)
    end = np.minimum(compared.since.argmax(axis=1), taken.shape[1] - in_a_row)
    earlier = (compared.runs >= 0) & (np.arange(taken.shape[1]) < end[:, None])
    is_late: Flags = earlier & (earlier[:, ::-1].cumsum(axis=1)[:, ::-1] <= LATE_NIGHTS)
    is_near = np.abs(taken - find_now(taken, compared)[:, None]) < BACK
    return is_late, (earlier & is_near).sum(axis=1) >= BACK_NIGHTS
