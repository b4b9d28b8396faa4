"""What a card adds, found again where it was put in."""

import statistics

import numpy as np
import pytest

from tasks.statistics.cards import PRIOR_ON_CARD, estimate_card_offsets, estimate_suits
from tasks.statistics.spreads import Floats, Integers

NUM_SERIES, NUM_NIGHTS = 60, 40


def draw(seed: int = 0) -> tuple[Floats, Integers, Integers, Integers]:
    """Quiet series of three cards; values, cards, runs, pools."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(1, 5, (NUM_SERIES, 1)) + rng.normal(0, 0.002, (NUM_SERIES, NUM_NIGHTS))
    cards = rng.integers(3, size=values.shape)
    return values, cards, np.tile(np.arange(NUM_NIGHTS), (NUM_SERIES, 1)), np.zeros(NUM_SERIES, dtype=np.int64)


def test_one_card_adds_nothing() -> None:
    values, cards, runs, pools = draw()
    assert estimate_card_offsets(values, cards * 0, runs, pools).tolist() == [0.0]


def test_what_cards_add_is_found_up_to_a_constant() -> None:
    values, cards, runs, pools = draw()
    true = np.array([0.03, -0.02, 0.0])
    found = estimate_card_offsets(values + true[cards], cards, runs, pools)
    assert found - found[2] == pytest.approx(true, abs=0.001)


def test_a_card_that_is_new_tonight_is_told_by_tonight() -> None:
    values, cards, runs, pools = draw()
    cards[:, -1] = 3
    values[:, -1] += 0.03
    found = estimate_card_offsets(values, cards, runs, pools)
    assert found[3] - found[0] == pytest.approx(0.03, abs=0.002)


def test_a_card_that_came_with_a_driver_is_not_taken_for_what_the_driver_did() -> None:
    values, cards, runs, pools = draw()
    cards[:, 30:][cards[:, 30:] == 2] = 3
    values[:, 30:] -= 0.04
    found = estimate_card_offsets(values, cards, runs, pools)
    assert found == pytest.approx(np.zeros(4), abs=0.004)


def test_a_card_suits_a_series_by_the_median_of_its_nights_on_it_drawn_towards_none() -> None:
    values, cards, _, _ = draw()
    residuals = values - np.median(values, axis=1, keepdims=True)
    residuals[:, -1] = np.nan
    suits, unfamiliar = estimate_suits(residuals, cards, np.zeros(NUM_SERIES))
    for row in range(NUM_SERIES):
        for card in range(3):
            nights = [float(one) for one in residuals[row, :-1][cards[row, :-1] == card]]
            expected = statistics.median(nights) * len(nights) / (len(nights) + PRIOR_ON_CARD)
            assert suits[row][cards[row] == card] == pytest.approx(expected)
    assert (unfamiliar < 0.001).all()


def test_a_card_that_a_series_has_not_been_on_is_as_unfamiliar_as_cards_differ() -> None:
    values, cards, _, _ = draw()
    apart = np.random.default_rng(1).normal(0, 0.01, (NUM_SERIES, 4))
    cards[:30, -1] = 3
    cards[30:, -1] = 0
    values += apart[np.arange(NUM_SERIES)[:, None], cards]
    residuals = values - np.median(values, axis=1, keepdims=True)
    tonight = residuals[:, -1].copy()
    residuals[:, -1] = np.nan
    _, unfamiliar = estimate_suits(residuals, cards, tonight)
    assert unfamiliar[:30] == pytest.approx(unfamiliar[0])
    assert 0.006 < unfamiliar[0] < 0.02
    assert (unfamiliar[30:] < 0.6 * unfamiliar[0]).all()


def test_one_card_suits_all() -> None:
    values, cards, _, _ = draw()
    suits, unfamiliar = estimate_suits(values, cards * 0, np.zeros(NUM_SERIES))
    assert not suits.any()
    assert not unfamiliar.any()
