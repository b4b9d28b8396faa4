"""A small real search on a GPU: our fused MoE in FP8, on a worker of a real Ray, compiled ahead."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from kernels.spec import Case, Layer
from tasks.bench import Bench
from tasks.pool import WorkerPool, open_workers
from tasks.records import Status, WorkUnit
from tasks.storage.store import Store
from tasks.tuning.plan import Effort
from tasks.tuning.retuning import Request, retune
from tasks.tuning.trials import Question

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

SIZES = {"num_experts": 8, "top_k": 2, "hidden_size": 2048, "intermediate_size": 1024}
LAYER = Layer("fused_moe", "grid", 1, 1, "fp8_w8a8", "bfloat16", SIZES)
FEW = Effort(first_sample=24, sample=8, least_configs=24, most_rounds=2, second_rounds=1, most_seconds=120.0)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with open_workers("cuda") as opened:
        yield opened


def test_a_small_search_finds_what_is_no_slower_and_right(pool: WorkerPool, tmp_path: Path) -> None:
    unit = WorkUnit(LAYER, (Case(LAYER, 1), Case(LAYER, 64)), ("triton",), ("graph",))
    [device] = pool.devices()
    with Store.open(tmp_path) as store:
        retuned = retune(Request(unit, tmp_path, 0, FEW), pool, device, store.notebook, Console())
        again = retune(Request(unit, tmp_path, 0, FEW), pool, device, store.notebook, Console())
    assert again.outcomes == retuned.outcomes, "answered out of the store"
    for outcome in retuned.outcomes:
        assert outcome.num_configs >= 24
        assert outcome.verdict.incumbent_us
        assert outcome.verdict.winner_us
        assert outcome.verdict.winner_us <= outcome.verdict.incumbent_us * 1.01


def test_what_does_not_fit_or_is_refused_costs_the_others_nothing() -> None:
    bench, case = Bench("cuda"), Case(LAYER, 64)
    bench.load_layer(LAYER, 0)
    default = dict(bench.find_default(case, "triton"))
    wide = {"BLOCK_SIZE_M": 128, "GATE_UP_BLOCK_SIZE_N": 128, "DOWN_BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 256}
    configs = (
        default,
        {**default, **wide, "num_stages": 6},
        {**default, "BLOCK_SIZE_M": "16"},
        {**default, "num_warps": 8},
    )
    question = Question(64, configs, 3, is_checked=True)
    for asked in (question, replace(question, is_checked=False)):
        trials = bench.time_configs(case, "triton", asked, "graph")
        assert [trial.status for trial in trials][:2] == [Status.OK, Status.CRASHED]
        assert "OutOfResources" in trials[1].reason
        assert trials[2].status in (Status.UNSUPPORTED, Status.CRASHED)
        assert "BLOCK_SIZE_M as int" in trials[2].reason
        assert len(trials[0].samples_us) == len(trials[3].samples_us) == 3
