"""Which changes of a night are told from noise among all that were searched; what is said of each: test_verdicts.py."""

from dataclasses import replace

import numpy as np
import pytest
from pasts import number_nights
from records import make_measurement, make_points, make_retrial

from tasks.judgement.findings import DISCOVERY_RATE, Finding, Past, adjust_for_many, screen_night
from tasks.records import Measurement

NUM_SERIES, NUM_NIGHTS = 300, 40
NOISE = 0.01


def make_night(moved: dict[int, float], again: dict[int, float]) -> tuple[list[Measurement], Past]:
    """A night of many series, each of a provider of its own, some of which took so much longer."""
    rng = np.random.default_rng(0)
    measured, trends = [], {}
    for number in range(NUM_SERIES):
        nights = 100 * np.exp(rng.normal(0, NOISE, NUM_NIGHTS))
        nights[-1] = 100 * (1 + moved.get(number, 0.0))
        one = make_measurement(f"night-{NUM_NIGHTS - 1}", samples_us=(float(nights[-1]),))
        measured.append(replace(one, check=replace(one.check, provider=f"provider-{number}")))
        trends[measured[-1].series] = make_points(nights.tolist())
    retrials = [make_retrial(measured[number], 100 * (1 + by)) for number, by in again.items()]
    return measured, Past(f"night-{NUM_NIGHTS - 1}", number_nights(NUM_NIGHTS), trends, retrials=retrials)


def find(moved: dict[int, float], again: dict[int, float] | None = None) -> list[Finding]:
    measured, past = make_night(moved, moved if again is None else again)
    found = screen_night(measured, past)
    return [found[one.series] for one in measured]


def test_each_p_value_is_held_against_its_rank_among_the_groups_that_count() -> None:
    rng = np.random.default_rng(1)
    p_values, groups = rng.random(60) ** 3, [int(group) for group in rng.integers(9, size=60)]
    searched = rng.random(60) < 0.8
    counted = searched & (rng.random(60) < 0.5)
    adjusted = adjust_for_many(p_values, searched, counted, groups)
    for row in range(60):
        if not counted[row]:
            assert adjusted[row] == p_values[row]
            continue
        larger = [p for p, counts in zip(p_values, counted, strict=True) if counts and p >= p_values[row]]
        ranks = [
            len({g for p, g, c in zip(p_values, groups, counted, strict=True) if c and p <= one}) for one in larger
        ]
        expected = min(p * searched.sum() / rank for p, rank in zip(larger, ranks, strict=True))
        assert adjusted[row] == pytest.approx(min(1.0, expected))


DOUBTFUL = {0: 0.038}
"""Of one series: not to be told by itself among so many."""
OTHERS = range(1, 60)


def test_a_doubtful_change_is_told_among_many_that_are_sure() -> None:
    assert find(DOUBTFUL)[0].adjusted_p > DISCOVERY_RATE
    assert find({**DOUBTFUL, **dict.fromkeys(OTHERS, 0.1)})[0].adjusted_p <= DISCOVERY_RATE


def test_what_nobody_is_told_of_lends_no_other_change_its_credit() -> None:
    withdrawn = find({**DOUBTFUL, **dict.fromkeys(OTHERS, 0.1)}, again={**DOUBTFUL, **dict.fromkeys(OTHERS, 0.0)})
    assert withdrawn[0].adjusted_p > DISCOVERY_RATE
    measured, past = make_night(DOUBTFUL, DOUBTFUL)
    trends = dict(past.trends)
    for number in OTHERS:  # of steady series that took a little longer
        measured[number] = replace(measured[number], samples_us=(101.8,))
        trends[measured[number].series] = make_points([100.0] * (NUM_NIGHTS - 1) + [101.8])
    again = [*past.retrials, *(make_retrial(measured[number], 101.8) for number in OTHERS)]
    found = screen_night(measured, replace(past, trends=trends, retrials=again))
    doubtful, *others = (found[measured[number].series] for number in (0, *OTHERS))
    assert max(other.p_value for other in others) < doubtful.p_value
    assert doubtful.adjusted_p > DISCOVERY_RATE
