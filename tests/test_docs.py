"""The documentation names everything that exists, and nothing that does not."""

import argparse
import re
import shutil
from pathlib import Path

import pytest
from records import make_host, make_measurement, make_run

from flows.arguments import LISTINGS, make_parser
from flows.coverage import coverage_lines
from kernels.registry import kernels
from kernels.timing.timers import TIMERS
from tasks import measure
from tasks.planning.shapes import list_models
from tasks.planning.suites import SUITES
from tasks.records import State, Status, UnitResult
from tasks.storage.database import database_path, snapshot_path
from tasks.storage.store import Store

ROOT = Path(__file__).resolve().parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
OPERATIONS, KERNELS, TIMING, ALERTS, BRANCH, TUNING = (
    ROOT / "docs" / f"{name}.md" for name in ("operations", "kernels", "timing", "alerts", "branch", "tuning")
)
PAGES = (
    README,
    CONTRIBUTING,
    OPERATIONS,
    KERNELS,
    TIMING,
    ALERTS,
    BRANCH,
    TUNING,
    ROOT / "CHANGELOG.md",
    ROOT / "tasks" / "planning" / "model_configs" / "README.md",
)
SOURCE = "\n".join(
    path.read_text()
    for folder in ("flows", "dashboards", "tasks", "kernels")
    for path in sorted((ROOT / folder).glob("**/*.py"))
)
READ_BY_OTHERS = {
    "HF_HUB_OFFLINE": "transformers",
    "CUDA_VISIBLE_DEVICES": "CUDA",
    "RAY_AUTH_MODE": "Ray",
    "RAY_AUTH_TOKEN": "Ray",
    "TRITON_INTERPRET": "Triton",
}
"""Environment variables in the docs that our own source never names."""
VARIABLE = re.compile(r"\b(?:KERNEL_NIGHTLY|PREFECT|RAY|VLLM|HF|XDG|TRITON|CUDA|DO_NOT)_[A-Z0-9_]+\b")
MACHINE_PATH = re.compile(r"(?<![\w:/.-])/(?:work|tmp|home|root|mnt|Users|private|opt|data|scratch)(?:/|\b)")

CONSTANTS = {"VLLM_PROVIDERS", "VLLM_SCHEMES", "VLLM_VALUES"}
"""What looks like a variable in our source and is none."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_of(page: Path) -> list[str]:
    """Lines of a page that are code: fenced, or indented by four after an empty line."""
    lines, fenced, indented, empty = [], False, False, True
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
            continue
        indented = not fenced and line.startswith("    ") and (empty or indented)
        if fenced or indented:
            lines.append(line)
        empty = not line.strip()
    return lines


def names(page: Path, name: str) -> bool:
    """Whether a page names something as a word of its own."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page.read_text()) is not None


def missing_from(page: Path, wanted: list[str]) -> list[str]:
    return [name for name in wanted if not names(page, name)]


def make_targets() -> list[str]:
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:")]
    return line.removeprefix(".PHONY:").split()


def list_commands() -> list[str]:
    [commands] = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return list(commands.choices)


# What exists is named


@pytest.mark.parametrize("page", [README, KERNELS], ids=lambda page: page.name)
def test_every_kernel_with_its_schemes_and_providers_is_documented(page: Path) -> None:
    for kernel in kernels().values():
        assert missing_from(page, [kernel.name, *kernel.schemes, *kernel.providers]) == []
    options = [name for kernel in kernels().values() for name in kernel.options]
    assert missing_from(KERNELS, options) == []


def test_every_kernel_has_a_section_with_its_formula_tensors_providers_and_log() -> None:
    found = re.split(r"^## ", KERNELS.read_text(), flags=re.MULTILINE)[1:]
    sections = [section for section in found if section.startswith("`")]
    assert {section.partition("\n")[0].strip("`") for section in sections} == set(kernels())
    for section in sections:
        assert re.search(r"^    \S.* = ", section, re.MULTILINE)
        assert "| tensor | layout |" in section
        assert "| provider | what it launches |" in section
        assert re.search(r"^\| version \| prediction \| result on an H200.* \| share of the floor \|$", section, re.M)
        kernel = kernels()[section.partition("\n")[0].strip("`")]
        assert all(f"\n| `{name}` | " in section for name in kernel.providers)


def test_every_timer_is_documented() -> None:
    assert missing_from(TIMING, list(TIMERS)) == []


def test_every_suite_state_and_table_name_is_documented() -> None:
    assert missing_from(README, list(SUITES)) == []
    assert missing_from(README, list(State)) == []
    assert missing_from(OPERATIONS, [status for status in Status if status is not Status.OK]) == []


@pytest.mark.parametrize("page", [README, CONTRIBUTING, OPERATIONS], ids=lambda page: page.name)
def test_every_command_is_documented(page: Path) -> None:
    assert missing_from(page, list_commands()) == []


def test_everything_that_can_be_listed_is_documented() -> None:
    assert all(f"kernel-nightly list {what}" in OPERATIONS.read_text() for what in LISTINGS)


def test_the_readme_holds_the_table_that_list_coverage_prints() -> None:
    assert "\n".join(coverage_lines()) in README.read_text()


def test_contributing_names_every_kernel_and_every_make_target() -> None:
    assert missing_from(CONTRIBUTING, list(kernels())) == []
    text = CONTRIBUTING.read_text()
    assert [target for target in make_targets() if f"make {target}" not in text] == []


def test_every_model_has_a_row() -> None:
    assert missing_from(ROOT / "tasks" / "planning" / "model_configs" / "README.md", list(list_models())) == []


# What is named exists


@every_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    told = {match for line in code_of(page) for match in re.findall(r"^\s*make ([a-z][\w-]*)", line)}
    told |= set(re.findall(r"`make ([a-z][\w-]*)", page.read_text()))
    assert told <= set(make_targets())


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    inside = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@every_page
def test_every_path_in_backticks_exists(page: Path) -> None:
    """Of the packages; what a recipe is about to write does not exist yet."""
    paths = set(re.findall(r"`((?:flows|dashboards|tasks|kernels|tests|docs|benchmarks)/[\w/.-]*)`", page.read_text()))
    written = {path for path in paths if page == CONTRIBUTING and ("rms_norm_fp8" in path or "OLMoE" in path)}
    assert [path for path in paths - written if not (ROOT / path).exists()] == []


@every_page
def test_no_page_names_a_path_of_one_machine(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if MACHINE_PATH.search(line)] == []


@every_page
def test_every_environment_variable_is_one_that_is_read(page: Path) -> None:
    told = set(VARIABLE.findall(page.read_text()))
    assert [name for name in sorted(told) if name not in SOURCE and name not in READ_BY_OTHERS] == []


def test_every_variable_of_ours_is_documented() -> None:
    ours = set(VARIABLE.findall(SOURCE)) - CONSTANTS
    told = set(VARIABLE.findall(OPERATIONS.read_text()))
    assert {name for name in ours if name.startswith(("KERNEL_NIGHTLY_", "PREFECT_", "XDG_", "RAY_", "VLLM_"))} <= told


def test_every_message_in_the_table_of_failures_is_one_that_is_printed() -> None:
    section = OPERATIONS.read_text().partition("| line | what to do |")[2].partition("\n## ")[0]
    told = [text for line in section.splitlines() for text in re.findall(r"`([^`]+)`", line.partition(" | ")[0])]
    assert len(told) >= 10
    assert [text for text in told if text not in SOURCE] == []


def test_the_limits_that_are_told_are_those_of_the_code() -> None:
    limits = f"within {measure.CHECK_LIMIT_SECONDS:.0f} s ({measure.WEIGHTS_LIMIT_SECONDS:.0f} s for weights)"
    for_each = f"{measure.TIMING_LIMIT_SECONDS_PER_PROVIDER:.0f} s for each of them"
    assert limits in OPERATIONS.read_text()
    assert f"within {measure.TIMING_LIMIT_SECONDS:.0f} s and {for_each}" in OPERATIONS.read_text()


# Moving


def test_a_copy_of_the_published_snapshot_is_a_database_to_go_on_from(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with Store.open(results) as store:
        store.begin_run(make_run("first", status="complete"))
        store.commit_unit("first", UnitResult(make_host(), None, (make_measurement("first"),)))
        store.publish()
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(snapshot_path(results), database_path(moved))
    with Store.open(moved) as store:
        assert [run.run_id for run in store.runs()] == ["first"]
        store.begin_run(make_run("second", nights=1))
        again = UnitResult(make_host(), None, (make_measurement("second"),))  # the same host and case
        store.commit_unit("second", again)
        store.publish()
    with Store.read(moved) as store:
        assert [run.run_id for run in store.runs()] == ["first", "second"]
        assert [len(points) for points in store.night("second").trends.values()] == [2]
