"""In which order a search goes, and what it draws."""

import random
from itertools import product

from tasks.tuning.contest import Verdict
from tasks.tuning.plan import Outcome, Task, draw_sample, order_outward
from tasks.tuning.space import Candidates

A, B = {"a": 1}, {"a": 2}


def test_batch_sizes_come_from_the_middle_outward() -> None:
    assert order_outward([1, 2, 4, 8, 16]) == [4, 2, 8, 1, 16]
    assert order_outward([16, 1]) == [16, 1]
    assert order_outward([7]) == [7]
    assert order_outward([]) == []


def test_a_sample_has_every_value_as_often_as_any_other() -> None:
    configs = [{"a": a, "b": b, "c": c} for a, b, c in product(range(4), range(4), range(2))]
    drawn = draw_sample(configs, 8, random.Random(1))
    assert len(drawn) == 8
    for name, count in (("a", 2), ("b", 2), ("c", 4)):
        values = [config[name] for config in drawn]
        assert all(values.count(value) == count for value in set(values)), name
    assert draw_sample(configs, 8, random.Random(1)) == drawn
    assert draw_sample(configs, 8, random.Random(2)) != drawn
    assert len(draw_sample(configs, 1000, random.Random(1))) == len(configs)
    assert draw_sample([], 3, random.Random(1)) == []


def test_what_is_used_today_is_the_default_where_nothing_is_tuned() -> None:
    candidates = Candidates((A, B))
    tuned, untuned = Task(1, candidates, A, B), Task(1, candidates, None, B)
    assert (tuned.used, untuned.used) == (A, B)
    for task, winner, is_replaced in ((tuned, A, False), (tuned, B, True), (untuned, B, False), (untuned, A, True)):
        assert Outcome(task, Verdict(winner, ""), 1, 1.0).is_replaced is is_replaced
