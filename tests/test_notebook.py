"""What searches were answered is kept in order; what they found is what later ones begin with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tuners import DEFAULT, LAYER

from tasks.notebook import Search
from tasks.records import Status
from tasks.store import Store
from tasks.tuning.contest import Verdict
from tasks.tuning.plan import Outcome, Task
from tasks.tuning.sets import Provenance
from tasks.tuning.space import Candidates
from tasks.tuning.staleness import OURS, TUNED, key_of
from tasks.tuning.trials import Answer, Question, Trial

KEY = key_of(LAYER, TUNED, "NVIDIA H200")
NOW = Provenance("vllm 0.32.0", "3.7.1", "ab" * 32)
SEARCH = Search("one", KEY, LAYER.key, (16, 64), NOW, 0)
OURS_CONFIG = {"BLOCK_SIZE_M": 16, "SWAP_AB": True, "num_warps": 4}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def answer_of(batch_size: int, *trials: Trial) -> tuple[Question, Answer]:
    return Question(batch_size, tuple(trial.config for trial in trials), 2, batch_size > 16), Answer(trials, 0.25)


def outcome_of(batch_size: int, winner: dict[str, int], median_us: float | None = 41.5) -> Outcome:
    task = Task(batch_size, Candidates((winner,), {}), None, DEFAULT)
    return Outcome(task, Verdict(winner, "replaced: because", 45.0, median_us), 7, 1.5)


def test_answers_come_back_in_order_and_whole(store: Store, tmp_path: Path) -> None:
    kept = [
        answer_of(64, Trial(64, DEFAULT, (1.5, 2.5)), Trial(64, OURS_CONFIG, (), Status.HUNG, "no answer within 5 s")),
        answer_of(16, Trial(16, OURS_CONFIG, (3.25, 1.125))),
    ]
    assert store.notebook.begin(SEARCH) == []
    for number, (question, answer) in enumerate(kept):
        store.notebook.keep(SEARCH, number, question, answer)
    assert store.notebook.begin(replace(SEARCH, search_id="other")) == []
    store.close()
    with Store.open(tmp_path) as again:
        found = again.notebook.begin(SEARCH)
    assert found == kept
    assert found[0][1].trials[1].config["SWAP_AB"] is True


def test_the_newest_search_that_ended_says_what_a_set_was_tuned_with(store: Store) -> None:
    notebook, newer = store.notebook, replace(SEARCH, search_id="two", provenance=replace(NOW, triton_version="3.8.0"))
    notebook.begin(SEARCH)
    assert notebook.find_tuned(KEY) is None
    notebook.finish(SEARCH, [outcome_of(16, DEFAULT), outcome_of(64, OURS_CONFIG, None)])
    notebook.begin(newer)
    found = notebook.find_tuned(KEY)
    assert found is not None
    assert (found.provenance, found.configs) == (NOW, {16: DEFAULT, 64: OURS_CONFIG})
    notebook.finish(newer, [outcome_of(16, OURS_CONFIG)])
    notebook.finish(SEARCH, [outcome_of(16, DEFAULT)])  # replayed: it ended when it ended
    found = notebook.find_tuned(KEY)
    assert found is not None
    assert (found.provenance, found.configs) == (newer.provenance, {16: OURS_CONFIG})
    assert notebook.find_tuned(replace(KEY, provider=OURS)) is None


def test_seeds_are_what_other_searches_found_of_the_shape_first(store: Store) -> None:
    notebook, older = store.notebook, replace(NOW, triton_version="3.6.0")
    neighbour = replace(SEARCH, search_id="neighbour", key=replace(KEY, num_experts=16))
    before = replace(SEARCH, search_id="before", provenance=older)
    for search, stages in ((before, 3), (neighbour, 4), (SEARCH, 5)):
        notebook.begin(search)
        notebook.finish(search, [outcome_of(16, {**DEFAULT, "num_stages": stages})])
    assert [seed["num_stages"] for seed in notebook.list_seeds(KEY, NOW, 16)] == [3, 4], "never its own answer"
    assert notebook.list_seeds(KEY, NOW, 64) == []
    assert notebook.list_seeds(replace(KEY, scheme="int8_w8a16"), NOW, 16) == []
