"""What tonight ran on that the night before did not, in words."""

from dataclasses import replace

from nights import H200, make_histories, make_host, make_measurements, make_night

from dashboards.environment import tell_environment
from tasks.judgement.histories import Histories
from tasks.nights import Night


def make_nights(num_nights: int = 3) -> Night:
    """On one GPU, whose card is known."""
    night = make_night(num_nights, measurements=make_measurements(H200)[-2:])
    cards = {s: [replace(p, device_uuid="GPU-4f2c") for p in found] for s, found in night.trends.items()}
    return replace(night, trends=make_histories(cards))


def test_a_night_like_the_one_before_has_nothing_to_tell() -> None:
    assert tell_environment(make_nights()) == []


def test_versions_and_the_commit_are_told_and_the_card_is_not() -> None:
    night = make_nights()
    newer = replace(make_host(H200), triton="3.7.1", device_uuid="GPU-other")
    tonight = replace(night, hosts=(newer,), run=replace(night.run, git_commit="9b" * 20))
    assert tell_environment(tonight) == [
        "commit 252e9d4c0ffe \N{RIGHTWARDS ARROW} 9b9b9b9b9b9b",
        "NVIDIA H200: triton 3.6.0 \N{RIGHTWARDS ARROW} 3.7.1",
    ]


def test_a_first_night_says_that_it_has_nothing_to_compare_with() -> None:
    night = replace(make_nights(1), trends=Histories())
    assert tell_environment(night) == ["nothing to compare with: no earlier night of these series"]
