"""What searches were answered is kept in order; what they found is what later ones begin with."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from surfaces import SimulatedBench, Surface
from test_search import SPACE, list_tasks
from tuners import DEFAULT, LAYER

from tasks.records import Status
from tasks.storage.notebook import Search
from tasks.storage.store import Store
from tasks.tuning.contest import Verdict
from tasks.tuning.plan import Effort, Outcome, Task
from tasks.tuning.search import run_search
from tasks.tuning.sets import Provenance
from tasks.tuning.space import Candidates, config_key
from tasks.tuning.staleness import OURS, TUNED, key_of
from tasks.tuning.trials import Answer, Kept, Question, Replay, Trial

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
    task = Task(batch_size, Candidates((winner,)), None, DEFAULT)
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


KILLED = """
import os, signal, sys
from pathlib import Path
from surfaces import SimulatedBench, Surface
from test_notebook import SEARCH, search_few
from tasks.storage.store import Store

with Store.open(Path(sys.argv[1])) as store:
    store.notebook.begin(SEARCH)
    numbers = iter(range(10**6))

    def keep(question, answer):
        number = next(numbers)
        store.notebook.keep(SEARCH, number, question, answer)
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    search_few(SimulatedBench(Surface(5)), [], keep)
"""


def search_few(bench: SimulatedBench, kept: Kept, keep: Callable[[Question, Answer], None]) -> list[Outcome]:
    effort = Effort(first_sample=8, least_configs=8, most_rounds=1, second_rounds=1)
    return run_search(SPACE, list_tasks(bench.surface, (16, 64)), Replay(bench, kept, keep), effort)


def test_a_search_that_was_killed_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    bench, new = SimulatedBench(Surface(5)), list[tuple[Question, Answer]]()
    with Store.open(tmp_path) as store:
        kept = store.notebook.begin(SEARCH)
    assert len(kept) == 4
    outcomes = search_few(bench, kept, lambda question, answer: new.append((question, answer)))
    assert [outcome.batch_size for outcome in outcomes] == [16, 64]
    screened = [(q.batch_size, config_key(c)) for q, _ in (*kept, *new) if not q.is_checked for c in q.configs]
    assert len(set(screened)) == len(screened)
    assert len(bench.asked) == len(new)
