"""One story through the real command: quiet nights, a commit that slows a provider, the alarm, the answer, silence.

It is played in a clone of this checkout, on the CPU, whose times are those of a machine that does other things too.
"""

import html
import json
import random
import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import pytest
from consoles import run_command

from tasks.evidence import follow_incidents, gather_past
from tasks.judgement.incidents import Incident
from tasks.judgement.verdicts import judge_night
from tasks.nights import Night
from tasks.records import Measurement, ReferenceTime, State, Status, UnitResult, Version
from tasks.storage.store import Store

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is no checkout to clone"),
]
ASKED = (
    *("run", "--kernel", "silu_mul_fp8", "--scheme", "fp8_group128", "--provider", "torch", "--limit-n", 512),
    *("--batch-size", 16, 64, "--option", "token_strategy=uniform"),
)
"""One layer on two batch sizes."""
SLOW_FILE = "kernels/silu_mul_fp8.py"
ONCE = 'Launch(lambda: quantize_silu_mul(inputs["y"], scheme_of(case)))'
OFTEN = 'Launch(lambda: [quantize_silu_mul(inputs["y"], scheme_of(case)) for _ in range(12)][-1])'
"""Twelve times as slow: a busy machine alone makes it, and the reference kernels, twice as slow now and then."""
EARLIER_NIGHTS, JUDGED_NIGHTS = 80, 2
"""Noise is known the better the more nights there are; verdicts are kept of the last ones, and of the real one."""
NOISE = 0.2
"""Of the nights before, as of this machine's own: the story's runs may find it busy, or quiet again."""
SITE_OF_THE_SLOW_NIGHT = "site of the slow night"
REASON = "twelve passes are needed"

Timed = TypeVar("Timed", Measurement, ReferenceTime)


@dataclass(frozen=True)
class Story:
    """What each command of the story printed, and where its files are."""

    folder: Path
    good_commit: str
    slow_commit: str
    slow: subprocess.CompletedProcess[str]
    listed: subprocess.CompletedProcess[str]
    acknowledged: subprocess.CompletedProcess[str]
    after: subprocess.CompletedProcess[str]

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def night(self, age: int) -> Night:
        """The last night is of age 0."""
        with Store.read(self.results) as store:
            return store.night(store.runs()[-1 - age].run_id)

    @property
    def incident(self) -> Incident:
        """The only one of the story, as it is in the end."""
        with Store.read(self.results) as store:
            [incident] = store.journal.incidents()
        return incident


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story") / "clone"
    good_commit = clone_checkout(folder)
    first = run_command(*ASKED, "--save-dir", "first", cwd=folder)
    assert (first.returncode, first.stderr) == (0, "")
    with Store.read(folder / "first") as store:
        make_history(folder / "results", store.night())
    source = folder / SLOW_FILE
    assert source.read_text().count(ONCE) == 1
    source.write_text(source.read_text().replace(ONCE, OFTEN))
    slow_commit = commit_all(folder, "Twelve passes over the activations")
    told = ("--alert-json", "alerts.jsonl", "--alert-junit", "night.xml", "--alert-markdown", "night.md")
    slow = run_command(*ASKED, *told, cwd=folder)
    shutil.copytree(folder / "results" / "site", folder / SITE_OF_THE_SLOW_NIGHT)
    listed = run_command("incidents", cwd=folder)
    incident_id = listed.stdout.partition(" ")[0]
    acknowledged = run_command("acknowledge", incident_id, "--reason", REASON, cwd=folder)
    after = run_command(*ASKED, "--alert-json", "alerts.jsonl", cwd=folder)
    return Story(folder, good_commit, slow_commit, slow, listed, acknowledged, after)


def git(folder: Path, *arguments: str) -> str:
    """What a git command prints."""
    settings = ("-c", "user.name=Story", "-c", "user.email=story@localhost", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def commit_all(folder: Path, message: str) -> str:
    """Commit every file that git does not ignore; returns the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


def clone_checkout(folder: Path) -> str:
    """Clone this checkout with its files as they are now, committed; returns the commit."""
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    for name in git(folder, "ls-files", "-z").split("\0")[:-1]:
        (folder / name).unlink()
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return commit_all(folder, "The checkout as it is now")


def make_history(save_dir: Path, real: Night) -> None:
    """A store whose last night is a real one, after earlier nights that differ from it by a little noise."""
    with Store.open(save_dir) as store:
        for age in range(EARLIER_NIGHTS, -1, -1):
            store_night(store, real, age)
        store.publish()


def store_night(store: Store, real: Night, age: int) -> None:
    """Commit what was measured on a real night as that of so many days before."""
    back = timedelta(days=age)
    run_id = f"{age}-nights-before" if age else real.run.run_id
    run = store.begin_run(replace(real.run, run_id=run_id, started_at=real.run.started_at - back, status="running"))
    store.commit_ceilings([replace(ceiling, run_id=run_id) for ceiling in real.ceilings])
    noise = random.Random(age)
    [host] = real.hosts
    layer_keys = {m.check.case.layer.key for m in real.measurements}
    [receipt], [cost] = real.receipts, real.costs
    assert layer_keys == {receipt.layer_key}
    measured = tuple(
        replace(repeat(m, noise.gauss(1, NOISE) if age else 1.0), run_id=run_id, measured_at=m.measured_at - back)
        for m in real.measurements
    )
    beside = tuple(
        replace(repeat(r, noise.gauss(1, NOISE) if age else 1.0), run_id=run_id, measured_at=r.measured_at - back)
        for r in real.references
    )
    store.commit_unit(run_id, UnitResult(host, receipt, measured, beside, replace(cost, run_id=run_id)))
    if age <= JUDGED_NIGHTS:
        measurements = store.measurements(run_id)
        past = gather_past(store, run, measurements)
        verdicts = judge_night(measurements, past)
        store.journal.commit_verdicts(run_id, verdicts)
        assert follow_incidents(store, past, verdicts).alerts == ()
    assert real.run.finished_at
    store.finish_run(replace(run, status="complete", finished_at=real.run.finished_at - back))


def repeat(timed: Timed, factor: float) -> Timed:
    """The same, in so many times the time."""
    return replace(timed, samples_us=tuple(sample * factor for sample in timed.samples_us))


def test_the_run_after_the_commit_ends_with_1_and_names_the_commit(story: Story) -> None:
    assert (story.slow.returncode, story.slow.stderr) == (1, "")
    assert "2 series seem to have changed: measuring them again" in story.slow.stdout
    assert len([line for line in story.slow.stdout.splitlines() if line.startswith("opened ")]) == 1
    assert story.night(1).run.git_commit == story.slow_commit
    assert not story.night(1).run.git_dirty


def test_every_series_is_slow_and_was_so_again(story: Story) -> None:
    slow = story.night(1)
    assert [(v.state, v.is_confirmed, v.since_run) for v in slow.verdicts] == [(State.SLOW, True, slow.run.run_id)] * 2
    assert all(verdict.low and verdict.low > 0.5 for verdict in slow.verdicts)


def test_suspects_were_measured_beside_the_previous_commits_code(story: Story) -> None:
    with Store.read(story.results) as store:
        retrials = store.journal.retrials(story.night(1).run.run_id)
    told = sorted((r.version, r.of_run, r.measurement.status) for r in retrials)
    before = story.night(2).run
    previous = (Version.PREVIOUS_CODE, before.run_id, Status.OK)
    assert told == [previous, previous, *[(Version.TONIGHT, "", Status.OK)] * 2]
    assert before.git_commit == story.good_commit


def test_one_incident_says_that_the_code_is_to_blame(story: Story) -> None:
    incident = story.incident
    assert (incident.state, incident.since_run, len(incident.series)) == (State.SLOW, story.night(1).run.run_id, 2)
    assert incident.subject.startswith("silu_mul_fp8 torch on ")
    assert incident.causes[0].endswith("(2 of 2 series): the code is to blame")
    assert f"commit {story.good_commit[:12]} -> {story.slow_commit[:12]}" in incident.causes
    assert any(cause.startswith("silu_mul_fp8 torch: source ") for cause in incident.causes)


def test_the_files_for_machines_and_people_tell_the_incident(story: Story) -> None:
    [alert] = [json.loads(line) for line in (story.folder / "alerts.jsonl").read_text().splitlines()]
    assert (alert["kind"], alert["incident_id"]) == ("opened", story.incident.incident_id)
    assert tuple(alert["causes"]) == story.incident.causes
    suites = ElementTree.parse(story.folder / "night.xml").getroot()
    assert suites.get("failures") == "1"
    [failed] = [case for case in suites.iter("testcase") if case.find("failure") is not None]
    assert story.incident.incident_id in str(failed.attrib)
    assert f"| `{story.incident.incident_id}` | SLOW | 2 |" in (story.folder / "night.md").read_text()


def test_the_site_of_that_night_begins_with_the_incident(story: Story) -> None:
    index = (story.folder / SITE_OF_THE_SLOW_NIGHT / "index.html").read_text()
    told = html.unescape(index.partition('id="verdicts"')[0])
    for part in (story.incident.headline, *story.incident.causes, story.incident.evidence):
        assert part in told
    assert f"kernel-nightly acknowledge {story.incident.incident_id} --reason" in told
    page = (story.folder / SITE_OF_THE_SLOW_NIGHT / "kernel-silu_mul_fp8.html").read_text()
    assert page.count(f'href="index.html#incident-{story.incident.incident_id}"') == 2


def test_the_incident_is_listed_until_somebody_expects_it(story: Story) -> None:
    for ended in (story.listed, story.acknowledged):
        assert (ended.returncode, ended.stderr) == (0, "")
    assert story.listed.stdout.startswith(f"{story.incident.incident_id}  2 series of silu_mul_fp8 torch on ")
    assert f"commit {story.good_commit[:12]} -> {story.slow_commit[:12]}" in story.listed.stdout
    assert f"acknowledged {story.incident.incident_id}: 2 series" in story.acknowledged.stdout
    assert story.incident.acknowledgement == REASON


def test_the_run_after_that_is_silent_and_ends_with_0(story: Story) -> None:
    assert (story.after.returncode, story.after.stderr) == (0, "")
    assert not [line for line in story.after.stdout.splitlines() if line.startswith(("opened", "resolved", "worse"))]
    after = story.night(0)
    assert {verdict.state for verdict in after.verdicts} <= {State.SAME, State.AMBIGUOUS}
    assert {verdict.baseline_run for verdict in after.verdicts} == {story.night(1).run.run_id}
    assert [incident for incident in after.incidents if incident.is_open] == []
    index = (story.results / "site" / "index.html").read_text()
    assert "A quiet night: no incident is open." in index
    assert story.incident.incident_id not in index, "it ended when it was acknowledged"
