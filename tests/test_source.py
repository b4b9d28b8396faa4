"""The digest of a kernel's source changes with every file that the kernel runs from, and with no other."""

import shutil
from pathlib import Path

import pytest

from kernels.errors import KernelError
from kernels.registry import kernels
from kernels.source import NOT_RUN, PACKAGE_DIR, find_sources, hash_sources

REACHED = ("silu_mul_fp8", "silu.triton", "silu.vllm", "silu.groups", "quantize.fp8", "requirements")
"""Some of what silu_mul_fp8 is made of."""
FOREIGN = ("fused_moe", "mxfp4_gemm", "moe.gemm", "quantize.fp4", "ceilings", "compile", "launches", "source")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of our package."""
    return copy_package(tmp_path / "copy")


def copy_package(folder: Path) -> Path:
    return Path(shutil.copytree(PACKAGE_DIR, folder / "kernels", ignore=shutil.ignore_patterns("__pycache__")))


def edit(package: Path, module: str) -> None:
    path = package.joinpath(*module.split(".")).with_suffix(".py")
    path.write_text(f"{path.read_text()}\n# edited\n")


def hash_again(package: Path, kernel: str = "silu_mul_fp8") -> str:
    """As a process that starts now would."""
    hash_sources.cache_clear()
    return hash_sources(kernel, package)


@pytest.mark.parametrize("module", REACHED)
def test_an_edit_of_any_file_that_a_kernel_runs_from_changes_its_digest(package: Path, module: str) -> None:
    before = hash_again(package)
    edit(package, module)
    assert hash_again(package) != before


@pytest.mark.parametrize("module", FOREIGN)
def test_an_edit_of_another_kernels_file_does_not(package: Path, module: str) -> None:
    before = hash_again(package)
    edit(package, module)
    assert hash_again(package) == before


def test_neither_declarations_nor_timers_are_part_of_what_runs(package: Path) -> None:
    before = {name: hash_again(package, name) for name in kernels()}
    for name in NOT_RUN:
        for path in (package / name).glob("**/*.py") if (package / name).is_dir() else [package / f"{name}.py"]:
            path.write_text(f"{path.read_text()}\n# edited\n")
    assert {name: hash_again(package, name) for name in kernels()} == before


def test_the_digest_is_that_of_any_copy_and_another_for_every_kernel(package: Path) -> None:
    ours = {name: hash_sources(name) for name in kernels()}
    assert {name: hash_sources(name, package) for name in kernels()} == ours
    assert len(set(ours.values())) == len(ours)
    assert all(len(digest) == 64 for digest in ours.values())


def test_a_file_under_another_name_is_another_source(package: Path) -> None:
    before = hash_again(package)
    (package / "silu" / "groups.py").rename(package / "silu" / "grouping.py")
    for path in package.glob("**/*.py"):
        path.write_text(path.read_text().replace("kernels.silu.groups", "kernels.silu.grouping"))
    assert "kernels.silu.grouping" in find_sources("silu_mul_fp8", package)
    assert hash_again(package) != before


def test_every_way_to_import_is_followed(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "one.py": "import kernels.deep.two\nfrom kernels.deep import three, name\nimport kernelsize\n",
        "deep/__init__.py": "from . import six\nname = 1\n",
        "deep/two.py": "def run():\n    from kernels.four import run\n",
        "deep/three.py": "from .five import a\nfrom ..seven import b\nfrom kernels.spec import Kernel\n",
        "deep/five.py": "from kernels.one import cycle\n",
        "deep/six.py": "import torch.kernels\n",
        "four.py": "",
        "seven.py": "from kernels.timing.timers import x\n",
        "spec.py": "from kernels.unreached import x\n",
        "timing/__init__.py": "",
        "timing/timers.py": "from kernels.unreached import x\n",
        "unreached.py": "",
    }
    for name, source in files.items():
        path = tmp_path / "kernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    found = find_sources("one", tmp_path / "kernels")
    left_out = {"spec.py", "timing/__init__.py", "timing/timers.py", "unreached.py"}
    assert {str(path.relative_to(tmp_path / "kernels")) for path in found.values()} == set(files) - left_out
    assert found["kernels.deep"].name == "__init__.py"


def test_a_name_without_a_file_is_an_error() -> None:
    with pytest.raises(KernelError, match=r"no kernel 'lost' to hash: .*lost\.py does not exist"):
        hash_sources("lost")
