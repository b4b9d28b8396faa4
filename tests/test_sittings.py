"""Sittings on a real worker: two commits beside each other, and what each way to fail costs the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from lightcode import commit_benches, make_bench, write_light_code
from records import make_comparison
from test_checkout import git

from kernels.spec import Case, Layer
from tasks.commits.archive import Archive, open_archive
from tasks.commits.comparisons import Sitting
from tasks.commits.paired import judge_sittings
from tasks.commits.sittings import sit
from tasks.measure import Limits
from tasks.records import State, Status, WorkUnit
from tasks.turns import ROUNDS_OF_A_TURN
from tasks.workers import Worker, start_ray

pytestmark = pytest.mark.timeout(120)

LAYER = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 512})
UNIT = WorkUnit(LAYER, (Case(LAYER, 16), Case(LAYER, 64)), ("torch", "triton"), ("wall",))
LIMITS = Limits(30.0, 30.0, 10.0)


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A repository of light code: as it was, slow, off the reference, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("light")
    git(folder, "init", "--quiet")
    write_light_code(folder)
    benches = {
        "good": make_bench(),
        "slow": make_bench(loops=16),
        "wrong": make_bench(status="wrong", reason="relative error 0.3 is over 0.01"),
        "broken": "raise RuntimeError('no bench yet')",
    }
    yield {**commit_benches(folder, benches), "folder": str(folder)}


@pytest.fixture(scope="module")
def archive(commits: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with open_archive(tmp_path_factory.mktemp("results"), Path(commits["folder"])) as opened:
        yield opened


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    start_ray("", num_cpus=1)
    made = Worker("cpu")
    yield made
    made.end()
    ray.shutdown()


def sit_down(worker: Worker, archive: Archive, head: str, base: str, number: int = 0) -> Sitting:
    comparison = make_comparison(head_commit=head, base_commit=base)
    sitting, host = sit(worker, UNIT, comparison, number, archive, LIMITS)
    assert host == worker.host()
    assert {m.check.host_id for m in (*sitting.head, *sitting.base)} == {host.host_id}
    assert [m.series for m in sitting.head] == [m.series for m in sitting.base]
    assert len(sitting.head) == 4
    return sitting


def turns_of(sitting: Sitting) -> list[set[int]]:
    return [{t.round // ROUNDS_OF_A_TURN for m in side for t in m.trials} for side in (sitting.head, sitting.base)]


def test_both_commits_run_and_take_turns_whose_order_alternates(
    worker: Worker, archive: Archive, commits: dict[str, str]
) -> None:
    first = sit_down(worker, archive, commits["slow"], commits["good"])
    second = sit_down(worker, archive, commits["slow"], commits["good"], 1)
    assert {m.check.reason for m in first.head} == {""}
    assert (turns_of(first), turns_of(second)) == ([{0, 3}, {1, 2}], [{1, 2}, {0, 3}])
    for contrast in judge_sittings([first, second], least_change=0.2):
        assert contrast.num_sittings == 2, contrast.reason
        assert contrast.change is not None
        assert 5 < contrast.change < 500  # 15 on a quiet machine; who interrupts a loop moves it either way


def test_a_commit_that_cannot_be_imported_costs_the_base_nothing(
    worker: Worker, archive: Archive, commits: dict[str, str]
) -> None:
    sitting = sit_down(worker, archive, commits["broken"], commits["good"])
    assert {m.status for m in sitting.base} == {Status.OK}
    assert all(m.samples_us for m in sitting.base)
    for contrast in judge_sittings([sitting], least_change=0.2):
        assert (contrast.state, contrast.is_regression) == (State.FAILED, True)
        assert contrast.reason.endswith("no bench yet")
        assert contrast.base_us is not None


def test_a_commit_that_is_wrong_is_not_timed_and_one_that_is_not_there_says_so(
    worker: Worker, archive: Archive, commits: dict[str, str]
) -> None:
    sitting = sit_down(worker, archive, commits["wrong"], "ab" * 20)
    assert {(m.status, m.samples_us) for m in sitting.head} == {(Status.WRONG, ())}
    assert all(m.check.reason.startswith("commit abababababab is not at hand") for m in sitting.base)
    contrasts = judge_sittings([sitting], least_change=0.2)
    assert {(c.state, c.is_regression) for c in contrasts} == {(State.WRONG, False)}
    told = "wrong: relative error 0.3 is over 0.01; on the base crashed: commit abababababab is not at hand: "
    assert contrasts[0].reason.startswith(told)
