"""The recipes of CONTRIBUTING.md, followed word for word on a copy of the tree: one that rots fails here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from consoles import find_server, make_environment

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("flows", "dashboards", "tasks", "kernels", "tests", "pyproject.toml", "prefect.yaml")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLAN = """
import sys
from flows.arguments import make_parser, read_selection
from tasks.planning.cases import plan_units, resolve_shapes
from tasks.planning.suites import find_suite

arguments = make_parser().parse_args(sys.argv[1:])
suite, selection = find_suite(arguments.suite), read_selection(arguments)
plan = plan_units(suite, resolve_shapes(suite, selection), selection, "cpu")
print(*(f"{unit.key} {','.join(unit.providers)}" for unit in plan.units), *plan.left_out, sep="\\n")
"""
"""What a `kernel-nightly run` would measure, without the seconds that measuring takes."""

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Block:
    """One fenced block and the words that lead to it."""

    language: str
    code: str
    before: str

    @property
    def path(self) -> str:
        """The file that the words before the block name last."""
        return re.findall(r"`((?:kernels|tasks|tests)/[\w/.-]+)`", self.before)[-1]


def read_recipe(title: str) -> list[Block]:
    """The fenced blocks of one section of CONTRIBUTING.md."""
    sections = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    [section] = [section for section in sections if section.startswith(f"{title}\n")]
    blocks, end = [], 0
    for match in BLOCK.finditer(section):
        blocks.append(Block(match[1], match[2], section[end : match.start()]))
        end = match.end()
    return blocks


def read_commands(block: Block) -> list[list[str]]:
    assert block.language == "bash"
    return [shlex.split(line) for line in block.code.splitlines()]


@dataclass(frozen=True)
class Copy:
    """A copy of the tree, in which the recipe's commands run as a contributor's would."""

    folder: Path

    def write(self, block: Block) -> None:
        """Put a whole new file where the recipe says."""
        path = self.folder / block.path
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code)

    def replace(self, path: str, old: str, new: str) -> None:
        """Change the one place of a file that the recipe describes."""
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, f"{path} has {text.count(old)} places like this:\n{old}"
        (self.folder / path).write_text(text.replace(old, new))

    def patch(self, path: str, block: Block) -> None:
        """Add the lines of each hunk of a diff that start with a plus, among those that do not."""
        assert block.language == "diff"
        for hunk in filter(None, re.split(r"^@@.*\n", block.code, flags=re.MULTILINE)):
            lines = hunk.splitlines(keepends=True)
            assert {line[0] for line in lines} == {"+", " "}
            old = "".join(line[1:] for line in lines if line.startswith(" "))
            self.replace(path, old, "".join(line[1:] for line in lines))

    def run(self, command: list[str]) -> str:
        """What a command of the recipe prints; it must succeed."""
        spelled = {"kernel-nightly": [sys.executable, "-m", "flows"], "python": [sys.executable]}
        called = [*spelled[command[0]], *command[1:]]
        named = {"PYTHONPATH": str(self.folder), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        environment = make_environment(**named, **find_server(command[1]))
        done = subprocess.run(
            called, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def plan(self, command: list[str]) -> str:
        """The units and providers that a `kernel-nightly run` of the recipe would measure."""
        assert command[:2] == ["kernel-nightly", "run"]
        return self.run(["python", "-c", PLAN, *command[1:]])

    def lint(self, *paths: str) -> None:
        """The project's own style, which a recipe must not break."""
        ruff = Path(sys.executable).parent / "ruff"
        for check in (["check"], ["format", "--check"]):
            done = subprocess.run([ruff, *check, *paths], cwd=self.folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    folder = tmp_path / "copy"
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    return Copy(folder)


def test_the_recipe_for_a_kernel_gives_one_that_is_listed_checked_and_measured(copy: Copy) -> None:
    kernel, test, suite, shell = read_recipe("Add a kernel")
    assert (kernel.path, test.path) == ("kernels/rms_norm_fp8.py", "tests/test_rms_norm_fp8.py")
    copy.write(kernel)
    copy.write(test)
    assert suite.path == "tasks/planning/suites.py"
    copy.patch(suite.path, suite)
    copy.lint(kernel.path, test.path, suite.path)
    listing, testing, running = read_commands(shell)
    assert {"rms_norm_fp8: torch", "rms_norm_fp8: triton"} <= set(copy.run(listing).splitlines())
    tested = copy.run(testing)
    assert re.search(r"\d+ passed", tested)
    ran = copy.run(running)
    assert "rms_norm_fp8  Mixtral-8x7B TP8  fp8_token  (hidden_size 4096)" in ran
    assert "triton: needs a CUDA GPU (this is cpu) (2 cases)" in ran
    assert "verdicts: 2 NEW, 2 UNSUPPORTED" in ran or "verdicts: 2 UNSUPPORTED, 2 NEW" in ran


def test_the_recipe_for_a_provider_gives_one_that_is_listed_and_checked(copy: Copy) -> None:
    functions, entry, shell = read_recipe("Add a provider")
    path = functions.path
    assert path == "kernels/silu_mul_fp8.py"
    copy.replace(path, "KERNEL = Kernel(\n", f"{functions.code}\n\nKERNEL = Kernel(\n")
    copy.patch(path, entry)
    copy.lint(path)
    listing, testing, running = read_commands(shell)
    assert "silu_mul_fp8: torch-by-expert" in copy.run(listing).splitlines()
    assert re.search(r"\d+ passed", copy.run(testing))
    assert set(copy.plan(running).split()[1::2]) == {"torch,torch-by-expert"}


def test_the_recipe_for_a_model_gives_one_that_is_listed_and_planned(copy: Copy) -> None:
    config, row, suite, test, shell = read_recipe("Add a model")
    assert config.path == "tasks/planning/model_configs/OLMoE-1B-7B/config.json"
    copy.write(config)
    assert row.path == "tasks/planning/model_configs/README.md"
    readme = (copy.folder / row.path).read_text()
    columns = [line.count("|") for line in readme.splitlines() if line.startswith("| `")]
    assert {row.code.count("|")} == set(columns)
    following = "| `Qwen1.5-MoE-A2.7B/config.json` |"
    copy.replace(row.path, following, row.code + following)
    assert (suite.path, test.path) == ("tasks/planning/suites.py", "tests/test_shapes.py")
    copy.patch(suite.path, suite)
    copy.patch(test.path, test)
    copy.lint(suite.path, test.path)
    listing, testing, running = read_commands(shell)
    assert "OLMoE-1B-7B" in copy.run(listing).splitlines()
    tested = copy.run(testing)
    assert re.search(r"\d+ passed", tested)
    sizes = "num_experts=64,top_k=8,hidden_size=2048,intermediate_size=128"
    assert copy.plan(running).split() == [f"fused_moe/OLMoE-1B-7B/tp8/ep1/fp8_w8a8/bfloat16/{sizes}", "torch"]


def test_every_recipe_is_followed_here() -> None:
    titles = re.findall(r"^## (Add .*)$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert titles == ["Add a kernel", "Add a provider", "Add a model"]


def test_the_copy_is_what_a_recipe_runs(copy: Copy) -> None:
    where = "import kernels.registry, tasks.errors; print(kernels.registry.__file__, tasks.errors.__file__)"
    assert all(path.startswith(f"{copy.folder}{os.sep}") for path in copy.run(["python", "-c", where]).split())
