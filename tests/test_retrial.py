"""Suspects measured again on real workers, beside the code of real commits."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import retrials
from records import make_run
from retrials import RepeatingBench, repeat_torch
from sending import sending
from test_archive import commit
from test_checkout import git

from kernels.registry import PACKAGE_DIR, kernels
from kernels.source import hash_sources
from kernels.spec import Case, Layer
from tasks.bench import Bench
from tasks.checkout import CHECKOUT
from tasks.commits.archive import Archive, open_archive
from tasks.measure import Limits
from tasks.records import Measurement, Retrial, Series, Status, Suspect, Version
from tasks.retrial import make_units, measure_again
from tasks.turns import ROUNDS_OF_A_TURN, find_retrial_ratio
from tasks.workers import Worker, start_ray

pytestmark = pytest.mark.timeout(180)

SILU = Layer("silu_mul_fp8", "grid", 1, 1, "fp8_group128", "bfloat16", {"num_experts": 4, "intermediate_size": 512})
OTHER = replace(SILU, model="other")
LIMITS = Limits(60.0, 60.0, 10.0)
ONCE = 'Launch(lambda: quantize_silu_mul(inputs["y"], scheme_of(case)))'
FOUR_TIMES = 'Launch(lambda: [quantize_silu_mul(inputs["y"], scheme_of(case)) for _ in range(4)][-1])'
KERNEL_FILE = "kernels/silu_mul_fp8.py"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with our code as it is, with a slower torch, and with a bench that cannot be imported."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("kernels", "tasks"):
        shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    git(folder, "tag", "same", commit(folder))
    source = (folder / KERNEL_FILE).read_text()
    assert ONCE in source
    (folder / KERNEL_FILE).write_text(source.replace(ONCE, FOUR_TIMES))
    git(folder, "tag", "slow", commit(folder))
    (folder / "tasks" / "bench.py").write_text("raise RuntimeError('first line\\nno bench yet')")
    git(folder, "tag", "broken", commit(folder))
    return folder


@pytest.fixture(scope="module")
def archive(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with open_archive(tmp_path_factory.mktemp("results"), checkout) as opened:
        yield opened


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with sending(retrials):
        start_ray("")
        yield
        ray.shutdown()


def make_suspect(
    device_name: str,
    num_tokens: int = 64,
    good_commit: str = "",
    layer: Layer = SILU,
    timer: str = "wall",
    good_config: Mapping[str, object] | None = None,
) -> Suspect:
    case = Case(layer, num_tokens)
    tonight = {"repeats": 4} if good_config else {}
    return Suspect(
        Series(case.key, "torch", timer, device_name), case, "good night", good_commit, good_config or {}, tonight
    )


def commit_of(checkout: Path, tag: str) -> str:
    return git(checkout, "rev-parse", f"{tag}^{{commit}}")


def measure(
    bench: type, archive: Archive, git_commit: str, suspects: Mapping[str, Suspect]
) -> dict[str, list[Retrial]]:
    """What a worker of a bench finds of each suspect in a run of that commit."""
    run = make_run("tonight", git_commit=git_commit, git_dirty=False)
    worker = Worker("cpu", bench)
    try:
        before = worker.host()
        named = {name: place(suspect, before.device.name) for name, suspect in suspects.items()}
        [unit] = make_units(list(named.values()))[before.device.name]
        found = measure_again(worker, unit, list(named.values()), run, archive, LIMITS)
    finally:
        worker.end()
    assert {(r.measurement.run_id, r.measurement.check.host_id) for r in found} == {("tonight", before.host_id)}
    of = {name: [r for r in found if r.measurement.series == suspect.series] for name, suspect in named.items()}
    assert sum(map(len, of.values())) == len(found)
    return of


def place(suspect: Suspect, device_name: str) -> Suspect:
    return replace(suspect, series=replace(suspect.series, device_name=device_name))


def versions_of(retrials: Sequence[Retrial]) -> dict[Version, Measurement]:
    return {retrial.version: retrial.measurement for retrial in retrials}


def ratio_of(retrials: Sequence[Retrial], against: Version = Version.PREVIOUS_CODE) -> float:
    interval = find_retrial_ratio(retrials, against)
    assert interval is not None
    assert interval.low <= interval.median <= interval.high
    return interval.median


@pytest.fixture(scope="module")
def found(local_ray: None, archive: Archive, checkout: Path) -> dict[str, list[Retrial]]:
    """Of suspects with other good commits each, on a worker that runs the code as it is."""
    commits = {name: commit_of(checkout, name) for name in ("same", "slow")}
    commits |= {"missing": "ab" * 20, "unknown": "", "tonight's": commit_of(checkout, "broken")}
    suspects = {
        name: make_suspect("", 64 + number, good_commit) for number, (name, good_commit) in enumerate(commits.items())
    }
    return measure(Bench, archive, commits["tonight's"], suspects)


def test_identical_code_takes_about_the_same_time(found: dict[str, list[Retrial]]) -> None:
    versions = versions_of(found["same"])
    assert {version: m.status for version, m in versions.items()} == {
        Version.TONIGHT: Status.OK,
        Version.PREVIOUS_CODE: Status.OK,
    }
    assert len({m.check.source_sha256 for m in versions.values()}) == 1
    interval = find_retrial_ratio(found["same"], Version.PREVIOUS_CODE)
    assert interval is not None
    assert interval.low < 1.5  # of other tests on this machine the two have unequal shares
    assert interval.high > 1 / 1.5


def test_the_previous_code_really_runs_and_the_two_processes_take_turns(found: dict[str, list[Retrial]]) -> None:
    versions = versions_of(found["slow"])
    tonight, previous = versions[Version.TONIGHT], versions[Version.PREVIOUS_CODE]
    assert (tonight.status, previous.status) == (Status.OK, Status.OK), previous.check.reason
    assert ratio_of(found["slow"]) < 0.67  # that commit's torch does its work four times
    assert tonight.check.source_sha256 == hash_sources("silu_mul_fp8") != previous.check.source_sha256
    assert tonight.series == previous.series
    turns = {name: {trial.round // ROUNDS_OF_A_TURN for trial in m.trials} for name, m in versions.items()}
    assert turns == {Version.TONIGHT: {0, 3, 4, 7, 8, 11}, Version.PREVIOUS_CODE: {1, 2, 5, 6, 9, 10}}
    assert sum(trial.num_samples for trial in previous.trials) == len(previous.samples_us)
    assert [retrial.of_run for retrial in found["slow"]] == ["", "good night"]


def test_code_that_is_not_at_hand_costs_tonights_version_nothing(
    found: dict[str, list[Retrial]], checkout: Path
) -> None:
    here = commit_of(checkout, "broken")[:12]
    reasons = {
        "missing": "commit abababababab is not at hand: fatal: not a ",
        "unknown": "no commit was asked for, since none is known without edits or others tell for this series",
        "tonight's": f"tonight's code is that of the last good run: commit {here}",
    }
    for name, reason in reasons.items():
        versions = versions_of(found[name])
        previous = versions[Version.PREVIOUS_CODE]
        assert (previous.status, previous.check.reason[: len(reason)]) == (Status.UNSUPPORTED, reason)
        assert (previous.samples_us, previous.trials) == ((), ())
        assert versions[Version.TONIGHT].status is Status.OK
        assert find_retrial_ratio(found[name], Version.PREVIOUS_CODE) is None


def test_slower_code_of_tonight_is_told_from_both_and_code_that_does_not_start_is_a_crash(
    local_ray: None, archive: Archive, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernels(PACKAGE_DIR), "silu_mul_fp8", repeat_torch())  # as in the worker
    suspects = {
        "slow": make_suspect("", 64, commit_of(checkout, "same"), good_config={"repeats": 1}),
        "broken": make_suspect("", 65, commit_of(checkout, "broken"), good_config={"times": 1}),
    }
    found = measure(RepeatingBench, archive, commit_of(checkout, "slow"), suspects)
    versions = versions_of(found["slow"])
    assert {version: m.status for version, m in versions.items()} == dict.fromkeys(Version, Status.OK)
    assert ratio_of(found["slow"]) > 1.5  # four, on a machine that is not busy
    assert ratio_of(found["slow"], Version.LAST_GOOD_CONFIG) > 1.5
    assert versions[Version.LAST_GOOD_CONFIG].check.config == {"repeats": 1}
    assert versions[Version.LAST_GOOD_CONFIG].series == versions[Version.TONIGHT].series
    versions = versions_of(found["broken"])
    assert {version: (m.status, m.check.reason) for version, m in versions.items()} == {
        Version.TONIGHT: (Status.OK, ""),
        Version.LAST_GOOD_CONFIG: (
            Status.UNSUPPORTED,
            "silu_mul_fp8 needs repeats in a launch configuration: this has times",
        ),
        Version.PREVIOUS_CODE: (Status.CRASHED, versions[Version.PREVIOUS_CODE].check.reason),
    }
    reason = versions[Version.PREVIOUS_CODE].check.reason
    assert "is lost: its process does not start" in reason
    assert reason.endswith("no bench yet")


# Units, and turns paired by hand


def test_a_layers_suspects_are_one_unit_on_each_device() -> None:
    suspects = [
        make_suspect("b", 64, timer="eager"),
        make_suspect("a", 64, timer="wall"),
        make_suspect("a", 16),
        make_suspect("a", 64, timer="cold"),
        make_suspect("a", 64, layer=OTHER),
    ]
    lines = make_units(suspects)
    assert {device: [unit.key for unit in units] for device, units in lines.items()} == {
        "a": [SILU.key, OTHER.key] if SILU.key < OTHER.key else [OTHER.key, SILU.key],
        "b": [SILU.key],
    }
    [unit] = [unit for unit in lines["a"] if unit.key == SILU.key]
    assert unit.cases == (Case(SILU, 64), Case(SILU, 16))
    assert (unit.providers, unit.timers) == (("torch",), ("wall", "cold"))
    assert make_units([]) == {}
