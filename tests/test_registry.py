"""The registry finds every kernel file, and says what is wrong with one that is not a kernel."""

import sys
from pathlib import Path

import pytest

import kernels as kernels_package
from kernels.errors import RegistryError
from kernels.registry import NOT_KERNELS, PACKAGE_DIR, find_kernel, kernels
from kernels.spec import Case, Layer

KERNEL_FILE = """
from dataclasses import replace

from kernels.silu_mul_fp8 import KERNEL

KERNEL = replace(KERNEL, name="{name}")
"""


@pytest.fixture
def package_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty importable package, forgotten again after the test."""
    folder = tmp_path / f"package_of_{tmp_path.name}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_the_package_is_ours_and_its_init_is_empty():
    assert kernels_package.__file__ == str(PACKAGE_DIR / "__init__.py")
    assert (PACKAGE_DIR / "__init__.py").read_text() == ""


def test_every_file_is_a_kernel_or_named_as_none():
    files = {path.stem for path in PACKAGE_DIR.glob("*.py")}
    assert set(kernels()) == files - set(NOT_KERNELS)
    assert "silu_mul_fp8" in kernels()


def test_every_kernel_is_named_as_its_file():
    assert all(kernel.name == name for name, kernel in kernels().items())


def test_the_kernels_are_imported_once():
    assert kernels() is kernels()


def test_a_kernel_file_dropped_into_the_package_is_found(package_dir: Path):
    (package_dir / "my_kernel.py").write_text(KERNEL_FILE.format(name="my_kernel"))
    (package_dir / "errors.py").write_text("raise RuntimeError('plumbing is not imported')")
    assert list(kernels(package_dir)) == ["my_kernel"]
    assert find_kernel("my_kernel", package_dir).name == "my_kernel"


def test_a_file_without_a_kernel_is_an_error_that_names_the_file_and_contributing(package_dir: Path):
    (package_dir / "my_kernel.py").write_text("KERNELS = []")
    with pytest.raises(RegistryError, match=r"my_kernel\.py declares no KERNEL.*CONTRIBUTING\.md"):
        kernels(package_dir)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("KERNEL = Kernel(", r"SyntaxError: '\(' was never closed \(my_kernel\.py, line 1\)"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise ValueError('one line\\nand another')", "ValueError: one line"),
    ],
)
def test_a_file_that_does_not_import_is_an_error_of_one_line_that_names_it(
    source: str, told: str, package_dir: Path
) -> None:
    (package_dir / "my_kernel.py").write_text(source)
    with pytest.raises(RegistryError, match=rf"^\S+/my_kernel\.py does not import: {told}; mend it, or git stash it$"):
        kernels(package_dir)


def test_a_kernel_that_is_something_else_is_an_error(package_dir: Path):
    (package_dir / "my_kernel.py").write_text("KERNEL = 'my_kernel'")
    with pytest.raises(RegistryError, match=r"my_kernel\.py declares no KERNEL"):
        kernels(package_dir)


def test_a_kernel_named_unlike_its_file_is_an_error_that_names_both(package_dir: Path):
    (package_dir / "my_kernel.py").write_text(KERNEL_FILE.format(name="your_kernel"))
    with pytest.raises(RegistryError, match=r"my_kernel\.py .*'your_kernel'.*'my_kernel'.*CONTRIBUTING\.md"):
        kernels(package_dir)


def test_an_unknown_kernel_is_an_error_that_lists_those_there_are():
    with pytest.raises(RegistryError, match=r"'silu_mull'.*silu_mul_fp8"):
        find_kernel("silu_mull")


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "M=5"),
        ({"token_strategy": "max_t"}, "M=5 max_t"),
        ({"apply_router_weight_on_input": "true"}, "M=5 apply_router_weight_on_input"),
        (
            {"apply_router_weight_on_input": "true", "activation_format": "batched"},
            "M=5 batched apply_router_weight_on_input",
        ),
    ],
)
def test_an_option_that_is_switched_on_is_told_by_its_name_and_another_by_its_value(
    options: dict[str, str], label: str
):
    layer = Layer("fused_moe", "Mixtral-8x7B", 2, 1, "fp8_w8a8", "bfloat16", {"num_experts": 8})
    assert Case(layer, 5, options).label == f"Mixtral-8x7B TP2 fp8_w8a8 {label}"


def test_the_key_of_a_case_spells_its_options_out():
    layer = Layer("fused_moe", "grid", 1, 1, "fp8_w8a8", "bfloat16", {"num_experts": 8})
    key = Case(layer, 5, {"b": "true", "a": "batched"}).key
    assert key == f"{layer.key}/num_tokens=5/a=batched/b=true"
