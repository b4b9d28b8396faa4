"""GPUs of one name are not alike: what each of them adds to all series, and to one series beyond that."""

import numpy as np

from tasks.statistics.spreads import Floats, Integers, find_common, find_medians, find_spread

POLISHES = 5
"""Times that series, nights and cards are set right by the others."""
PRIOR_ON_CARD = 2
"""Nights on a card that outweigh the expectation that it suits a series no better than others."""


def estimate_card_offsets(values: Floats, cards: Integers, runs: Integers, pools: Integers) -> Floats:
    """[num_cards] what a card's series have in common, as logarithms: how much slower it is than the others.

    The median over all of a card's nights of how far each is from the middle of its series, and of all series that
    night: a card that came with a new driver is not taken for what the driver did. A card that nobody has seen before
    tonight is told by tonight.

    Source: Tukey, Exploratory Data Analysis: median polish.
    """
    offsets, common = np.zeros(int(cards.max(initial=0)) + 1), np.zeros(values.shape)
    if len(offsets) == 1:
        return offsets
    for _ in range(POLISHES):
        residuals = values - find_medians(values - offsets[cards] - common)[:, None]
        for card in range(len(offsets)):
            of_card = (residuals - common)[(cards == card) & np.isfinite(residuals)]
            offsets[card] = np.median(of_card) if len(of_card) else 0.0
        common = find_common(residuals - offsets[cards], runs, pools)
    return offsets


def estimate_suits(residuals: Floats, cards: Integers, tonight: Floats) -> tuple[Floats, Floats]:
    """How much slower a series is on the card of each night than on others, beyond what its series have in common.

    Args:
        residuals: [num_series, num_nights] nights before tonight around their level; NaN tonight.
        tonight: [num_series] how far tonight is from that level.
    Returns:
        [num_series, num_nights], near zero where a series has few nights on the card; and [num_series] how far that may
        be from the truth tonight: the spread of such differences over all series, less where tonight's card is known.
    """
    suits, known = np.zeros(residuals.shape), np.zeros(len(residuals))
    seen = []
    num_nights = np.isfinite(residuals).sum(axis=1)
    for card in range(int(cards.max(initial=0)) + 1):
        on_card = (cards == card) & np.isfinite(residuals)
        count = on_card.sum(axis=1)
        difference = np.nan_to_num(find_medians(np.where(on_card, residuals, np.nan)))
        seen.append(difference[(count > 0) & (count < num_nights)])
        suits = np.where(cards == card, (difference * count / (count + PRIOR_ON_CARD))[:, None], suits)
        known = np.where(cards[:, -1] == card, count, known)
    if len(seen) == 1:
        return np.zeros(residuals.shape), np.zeros(len(residuals))
    differences = np.concatenate(seen)
    spread = find_spread(differences)
    is_new = (known == 0) & (num_nights > 0)
    if is_new.any():  # tonight itself tells how differently a new card suits its series
        spread = max(spread, find_spread(tonight[is_new]))
    return suits, spread * np.sqrt(PRIOR_ON_CARD / (known + PRIOR_ON_CARD))
