"""A search that was killed continues with the answers that were kept."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tasks.records import Status
from tasks.tuning.trials import Answer, Question, Replay, Trial

CONFIG = {"BLOCK_SIZE_M": 16, "num_warps": 4}


class Counter:
    """A Bench that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def measure(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.extend(questions)
        return [Answer((Trial(question.batch_size, CONFIG, (1.0,)),), 0.5) for question in questions]


def question(batch_size: int, num_trials: int = 2) -> Question:
    return Question(batch_size, (CONFIG,), num_trials)


def test_what_was_answered_is_not_asked_again() -> None:
    kept: list[tuple[Question, Answer]] = []
    first = Counter()
    whole = Replay(first, [], lambda asked, answer: kept.append((asked, answer)))
    answers = [*whole.measure([question(1), question(2)]), *whole.measure([question(3)])]
    assert [asked.batch_size for asked, _ in kept] == [1, 2, 3]
    for taken in range(4):  # killed after so many answers, even between two of one call
        second, new = Counter(), list[tuple[Question, Answer]]()
        resumed = Replay(second, kept[:taken], lambda asked, answer, new=new: new.append((asked, answer)))
        again = [*resumed.measure([question(1), question(2)]), *resumed.measure([question(3)])]
        assert again == answers
        assert [asked.batch_size for asked in second.asked] == [1, 2, 3][taken:]
        assert new == kept[taken:]


@pytest.mark.parametrize(
    "other", [question(2), question(1, 3), replace(question(1), configs=()), replace(question(1), is_checked=True)]
)
def test_another_question_than_the_kept_one_is_asked_and_what_was_kept_stays(other: Question) -> None:
    answer, bench = Answer((Trial(1, CONFIG, (9.0,)),), 0.5), Counter()
    resumed = Replay(bench, [(question(1), answer)], lambda *_: None)
    resumed.measure([other])
    assert bench.asked == [other]
    assert resumed.measure([question(1)]) == [answer]


def test_a_question_that_was_asked_twice_has_two_answers() -> None:
    answers, bench = [Answer((Trial(1, CONFIG, (us,)),), 0.5) for us in (1.0, 2.0)], Counter()
    resumed = Replay(bench, [(question(1), answer) for answer in answers], lambda *_: None)
    assert [resumed.measure([question(1)]) for _ in answers] == [[answer] for answer in answers]
    assert bench.asked == []
    resumed.measure([question(1)])
    assert bench.asked == [question(1)]


def test_names_may_come_in_another_order() -> None:
    shuffled = replace(question(1), configs=(dict(reversed(CONFIG.items())),))
    answer = Answer((Trial(1, CONFIG, (2.0,)),), 0.5)
    assert Replay(Counter(), [(question(1), answer)], lambda *_: None).measure([shuffled]) == [answer]


def test_the_median_of_a_failure_is_infinite() -> None:
    assert Trial(1, CONFIG, (), Status.WRONG, "off by 3").median_us == math.inf
    assert Trial(1, CONFIG, (3.0, 1.0, 2.0)).median_us == 2.0
