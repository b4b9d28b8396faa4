"""Series by the words that people use for them."""

import re
from collections.abc import Mapping

from kernels.spec import Case
from tasks.errors import UsageError
from tasks.records import Series
from tasks.storage.comparison_store import ComparisonStore

MOST_SHOWN = 3


def find_asked(store: ComparisonStore, asked: str) -> tuple[Series, Case, int]:
    """The series of some words, or the first one of an incident.

    Raises:
        UsageError: as find_series.
    """
    incident = store.series_of_incident(asked)
    return find_series(tell_series(incident[0]) if incident else asked, store.measured_series())


def find_series(words: str, known: Mapping[Series, tuple[Case, int]]) -> tuple[Series, Case, int]:
    """The one series that has all of the words; with its case and the seed it was drawn with.

    A word is a part of the series' key, between slashes and commas, such as a kernel, a scheme or num_tokens=16; or its
    provider, timer or device.

    Raises:
        UsageError: none has them, or several have.
    """
    asked = set(split(words))
    found = [series for series in known if asked <= set(split(tell_series(series)))]
    if not found:
        hint = "words are parts of a key, such as fused_moe, Mixtral-8x7B, num_tokens=16, triton or graph"
        raise UsageError(f"no series that was ever timed has all of {words!r}; {hint} (see kernel-nightly show)")
    if len(found) > 1:
        shown = "; ".join(tell_series(series) for series in found[:MOST_SHOWN])
        left = f"; and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise UsageError(f"{len(found)} series have all of {words!r}, say more words of one: {shown}{left}")
    case, seed = known[found[0]]
    return found[0], case, seed


def tell_series(series: Series) -> str:
    """A series in one line, whose words find it again."""
    return f"{series.case_key} {series.provider} {series.timer} on {series.device_name}"


def split(text: str) -> list[str]:
    """The words of a text."""
    return [word for word in re.split(r"[/,\s]+", text) if word]
