"""The tree is as design says: one owner per outside thing, imports go down, rooms stay small, every file is tested."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import AT_THE_END, LONGEST

import kernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "dashboards", "tasks", "kernels")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).glob("**/*.py"))
MOST_LINES = 400

TESTED_ELSEWHERE = {
    "tasks/storage/journal_rows.py": "test_journal.py: every record",
    "tasks/knocking.py": "test_workers.py: ports that are nobody's, and not Ray's",
    "tasks/nights.py": "test_store.py: every field",
    "flows/attempts.py": "test_nightly.py, test_branch.py: every attempt",
    "flows/bisect.py": "test_branch.py: the command, on a planted slow commit",
    "flows/culprit.py": "test_branch.py: the commit that was found",
    "flows/__main__.py": "test_cli.py: python -m flows",
    "flows/arguments.py": "test_cli.py: every option, and its help",
    "flows/listings.py": "test_cli.py: lists everything",
    "flows/server.py": "test_nightly.py: the command starts it",
    "dashboards/arrangement.py": "test_site.py, test_report.py: every row",
    "dashboards/axes.py": "test_charts.py, test_bars.py: every chart",
    "dashboards/columns.py": "test_site.py: every CSV",
    "dashboards/compare.py": "test_site.py, test_browser.py: every comparison",
    "dashboards/drawing.py": "test_folder.py: by one process and by two",
    "dashboards/listing.py": "test_browser.py: found, filtered, followed",
    "dashboards/paper.py": "test_charts.py, test_sheets.py: every chart",
    "dashboards/rooflines.py": "test_bars.py: every point under its roof",
    "dashboards/series/render.py": "test_sheets.py, test_browser.py: every page of a series",
    "dashboards/series/views.py": "test_chronicle.py, test_sheets.py: what the page of a series shows",
    "dashboards/sparks.py": "test_heat.py: a month in a word",
    "dashboards/templating.py": "test_site.py: every page",
    "dashboards/comparisons.py": "test_charts.py, test_tables.py: references, floors, errors",
    "dashboards/incidents.py": "test_site.py: every incident",
    "dashboards/machines.py": "test_site.py, test_report.py: every machine and its references",
    "dashboards/pages.py": "test_site.py: every page",
    "dashboards/rows.py": "test_site.py: every row",
    "dashboards/svg.py": "test_charts.py: every chart",
    "dashboards/words.py": "test_site.py, test_tables.py: every figure",
    "kernels/configs.py": "test_every_kernel.py: given to every provider that takes one; test_vllm_fused.py",
    "kernels/errors.py": "raised and matched in the test of whatever raises it",
    "kernels/gemm/mxfp4_inputs.py": "test_mxfp4_gemm.py: sizes, weights, inputs and costs",
    "kernels/gemm/mxfp4_fp8_activations.py": "test_mxfp4_fp8.py, test_mxfp4_rotate_hopper.py",
    "kernels/gemm/mxfp4_fp8_codes.py": "test_mxfp4_fp8.py: every code; test_mxfp4_{triton,hopper}.py: compiled",
    "kernels/gemm/mxfp4_fp8_kernels.py": "test_mxfp4_fp8.py: in the interpreter; test_mxfp4_triton.py: compiled",
    "kernels/gemm/mxfp4_fp8_words.py": "test_mxfp4_fp8.py: packed, multiplied by one, refused",
    "kernels/gemm/mxfp4_wide_rows.py": "test_mxfp4_fp8.py: in the interpreter; test_mxfp4_triton.py: compiled",
    "kernels/gemm/mxfp4_kernels.py": "test_mxfp4_gemm.py: in the interpreter; test_mxfp4_triton.py: compiled",
    "kernels/moe/fused_triton.py": "test_fused_moe.py",
    "kernels/moe/vllm_configs.py": "test_vllm_fused.py",
    "kernels/moe/vllm_cutlass.py": "test_vllm_fused.py",
    "kernels/gemm/tiles.py": "test_fused_moe.py, test_mxfp4_gemm.py: every tile of a product",
    "kernels/gemm/int4_tile.py": "test_int4_words.py: in the interpreter; test_words_triton.py: compiled",
    "kernels/gemm/w4_tile.py": "test_w4_words.py: in the interpreter; test_words_triton.py: compiled",
    "kernels/gemm/w8_tile.py": "test_w8_words.py: in the interpreter; test_moe_compile.py: compiled",
    "kernels/gemm/words.py": "test_w4_words.py, test_w8_words.py",
    "kernels/moe/blocks_hopper.py": "test_{fused,words,int4}_gluon.py: compiled, and on a GPU",
    "kernels/moe/columns.py": "test_words_gluon.py: on a GPU, before every product by lanes",
    "kernels/moe/down_hopper.py": "test_fused_gluon.py: compiled, and on a GPU",
    "kernels/moe/gemm_hopper.py": "test_fused_gluon.py: compiled, and on a GPU",
    "kernels/moe/gemm_int4_hopper.py": "test_int4_gluon.py: compiled, and on a GPU",
    "kernels/moe/halves_hopper.py": "test_int4_gluon.py: compiled, and on a GPU",
    "kernels/moe/gemm_words.py": "test_moe_schemes.py, test_{mxfp4,nvfp4,w4a8}_moe.py; test_words_triton.py: compiled",
    "kernels/moe/words_hopper.py": "test_words_gluon.py: compiled, and on a GPU",
    "kernels/moe/vllm_cutlass_fp4.py": "test_vllm_w4.py",
    "kernels/moe/vllm_cutlass_w4a8.py": "test_vllm_w4.py",
    "kernels/moe/vllm_deepgemm.py": "test_vllm_fused.py",
    "kernels/moe/vllm_layer.py": "test_vllm_fused.py",
    "kernels/moe/vllm_marlin.py": "test_vllm_w4.py",
    "kernels/moe/vllm_schemes.py": "test_vllm_fused.py",
    "kernels/moe/vllm_triton.py": "test_vllm_fused.py",
    "kernels/moe/activations.py": "test_moe_schemes.py, test_int4_words.py",
    "kernels/moe/align.py": "test_fused_moe.py",
    "kernels/moe/gemm.py": "test_fused_moe.py",
    "kernels/moe/inputs.py": "test_moe_inputs.py",
    "kernels/moe/reference.py": "test_moe_schemes.py: against one token at a time",
    "kernels/moe/routing.py": "test_fused_moe.py, test_moe_schemes.py: both formats, every layout of blocks",
    "kernels/moe/sums.py": "test_fused_moe.py, test_moe_schemes.py",
    "kernels/moe/schemes.py": "test_moe_schemes.py",
    "kernels/moe/triton_configs.py": "test_fused_moe.py; test_moe_compile.py: at real sizes",
    "kernels/moe/w4_weights.py": "test_mxfp4_moe.py, test_nvfp4_moe.py, test_w4a8_moe.py: weights, reference, torch",
    "kernels/silu/groups.py": "test_silu_mul_fp8.py",
    "kernels/silu/triton.py": "test_silu_mul_fp8.py",
    "kernels/silu/vllm.py": "test_silu_mul_fp8.py",
    "kernels/rates.py": "test_ceilings.py: every rate",
    "kernels/sms.py": "test_silu_mul_fp8.py; test_fused_gluon.py; test_fused_moe.py: shared memory",
    "kernels/spec.py": "test_registry.py",
    "tasks/commits/comparisons.py": "test_comparison_store.py: every record round trips; test_paired.py",
    "tasks/commits/sides.py": "test_retrial.py, test_sittings.py: both sides of both",
    "tasks/planning/entries.py": "test_suites.py: what every suite is made of",
    "tasks/planning/hopper_suite.py": "test_suites.py: every suite",
    "tasks/errors.py": "raised and matched in the test of whatever raises it",
    "tasks/progress.py": "test_nightly.py: the lines per unit",
    "tasks/records.py": "test_rows.py and test_store.py: every record round trips",
    "tasks/session.py": "test_nightly.py: complete, killed and interrupted runs",
    "tasks/stages.py": "test_nightly.py: every stage runs",
    "tasks/tuning/compilers.py": "test_lanes.py: beside real workers",
    "tasks/tuning/requests.py": "test_retune.py: every bad request",
    "tasks/tuning/sets.py": "test_staleness.py: every key",
    "tasks/tuning/upkeep.py": "test_retuning.py: a night's own tuning",
}
"""Source files without a test file of their own name, and where they are tested."""


def imports_of(path: Path, *, only_at_top: bool = False) -> set[str]:
    """Top-level names of the modules a file imports, anywhere or where importing it runs them."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if only_at_top and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield child
            yield from walk(child)

    names = set()
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def importers_of(module: str, *, only_at_top: bool = False) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in SOURCES if module in imports_of(path, only_at_top=only_at_top)}


@pytest.mark.parametrize(
    ("module", "owner"),
    [("duckdb", "tasks/storage/database.py"), ("ray", "tasks/workers.py"), ("pynvml", "tasks/nvml.py")],
)
def test_an_outside_thing_has_one_owner(module: str, owner: str) -> None:
    assert importers_of(module) == {owner}


def test_only_dashboards_draw() -> None:
    importers = importers_of("matplotlib")
    assert importers
    assert {Path(path).parts[0] for path in importers} == {"dashboards"}


def test_only_flows_stages_and_channels_know_prefect() -> None:
    importers = importers_of("prefect")
    known = {"tasks/stages.py", "tasks/channels/events.py", "tasks/channels/secrets.py"}
    assert {path for path in importers if not path.startswith("flows/")} == known
    assert not importers_of("prefect", only_at_top=True) & (known - {"tasks/stages.py"})


def test_vllm_is_imported_only_by_providers_and_only_inside_functions() -> None:
    assert all(path.startswith("kernels/") for path in importers_of("vllm"))
    assert all("vllm" in Path(path).name for path in importers_of("vllm", only_at_top=True))


def test_only_the_timing_file_owns_cuda_clocks() -> None:
    names = ("torch.cuda.Event", "torch.cuda.CUDAGraph", "perf_counter_ns")
    users = {str(path.relative_to(ROOT)) for path in SOURCES if any(name in path.read_text() for name in names)}
    assert users == {"kernels/timing/graphs.py", "kernels/timing/timers.py"}


def test_the_kernels_package_is_ours_and_stays_empty() -> None:
    assert Path(str(kernels.__file__)).resolve() == ROOT / "kernels" / "__init__.py"
    assert (ROOT / "kernels" / "__init__.py").read_text() == ""


def loaded_after(code: str) -> set[str]:
    """Top-level modules of a fresh Python that ran `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_worker_process_loads_no_plumbing() -> None:
    loaded = loaded_after("import tasks.bench, kernels.registry; kernels.registry.kernels()")
    assert "torch" in loaded
    assert loaded & {"prefect", "duckdb", "ray", "matplotlib", "rich", "vllm", "transformers"} == set()


def test_who_handles_readings_does_not_wait_for_torch() -> None:
    assert loaded_after("import tasks.sampling, tasks.records, kernels.rates") & {"torch", "triton"} == set()


def test_help_does_not_wait_for_heavy_imports() -> None:
    loaded = loaded_after("import flows.cli; flows.cli.make_parser().format_help()")
    assert loaded & {"prefect", "ray", "matplotlib", "vllm", "transformers", "torch", "triton", "duckdb"} == set()


@pytest.mark.parametrize(
    "command",
    [
        "list models",
        "list suites",
        "list runs --from examples/h200",
        "list branches --from examples/h200",
        "incidents --from examples/h200",
        "changes --from examples/h200",
        "export nowhere --save-dir no-such-folder",
        "acknowledge slow-3f9a1c --reason why --save-dir no-such-folder",
        "baseline --reason why --save-dir no-such-folder",
    ],
)
def test_what_asks_nothing_of_the_kernels_does_not_wait_for_torch(command: str) -> None:
    loaded = loaded_after(f"import flows.cli; flows.cli.main({command.split()!r})")
    assert "duckdb" in loaded
    assert loaded & {"prefect", "ray", "matplotlib", "vllm", "transformers", "torch", "triton"} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_a_small_room(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_file_has_a_test_file_or_a_reason(path: Path) -> None:
    tested = (ROOT / "tests" / f"test_{path.stem}.py").is_file()
    listed = str(path.relative_to(ROOT)) in TESTED_ELSEWHERE
    assert tested or listed, f"add tests/test_{path.stem}.py, or say in TESTED_ELSEWHERE where {path.name} is tested"


def test_no_reason_outlives_its_file() -> None:
    assert [path for path in TESTED_ELSEWHERE if not (ROOT / path).is_file()] == []


def test_every_file_that_has_a_place_in_the_order_of_tests_is_there_and_has_one() -> None:
    placed = [*LONGEST, *AT_THE_END]
    assert [name for name in placed if not (ROOT / "tests" / f"test_{name}.py").is_file()] == []
    assert len(set(placed)) == len(placed)


def test_no_source_file_checks_its_input_with_assert() -> None:
    with_assert = [
        path for path in SOURCES if any(isinstance(n, ast.Assert) for n in ast.walk(ast.parse(path.read_text())))
    ]
    assert with_assert == []


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
