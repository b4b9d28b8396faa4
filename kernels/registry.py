"""Finds the KERNEL that each file of the package declares: dropping a file in is all the registration there is."""

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from kernels.errors import RegistryError
from kernels.spec import Kernel

PACKAGE_DIR = Path(__file__).parent

NOT_KERNELS = (
    "__init__",
    "ceilings",
    "compile",
    "configs",
    "errors",
    "footprint",
    "launches",
    "rates",
    "registry",
    "requirements",
    "sms",
    "source",
    "spec",
    "timing",
)
"""Files of the package that declare no kernel; every other one must. Folders hold what kernels share."""


@cache
def kernels(package_dir: Path = PACKAGE_DIR) -> dict[str, Kernel]:
    """Every kernel of the package by name, in alphabetical order.

    Args:
        package_dir: the package's folder; its parent must be importable.
    Raises:
        RegistryError: a file does not import, declares no KERNEL, or one under another name than its own.
    """
    names = sorted(path.stem for path in package_dir.glob("*.py") if path.stem not in NOT_KERNELS)
    return {name: declared_kernel(import_file(package_dir, name), name) for name in names}


def import_file(package_dir: Path, name: str) -> ModuleType:
    """The module of a kernel file, which may raise anything while somebody works on it."""
    try:
        return importlib.import_module(f"{package_dir.name}.{name}")
    except Exception as error:
        told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise RegistryError(f"{package_dir / name}.py does not import: {told}; mend it, or git stash it") from error


def declared_kernel(module: ModuleType, name: str) -> Kernel:
    """The KERNEL of a module, checked against the name of its file."""
    kernel = getattr(module, "KERNEL", None)
    where = f"{module.__file__}"
    if not isinstance(kernel, Kernel):
        raise RegistryError(
            f"{where} declares no KERNEL: end it with KERNEL = Kernel(...) as CONTRIBUTING.md shows, "
            "or name it in NOT_KERNELS of kernels/registry.py"
        )
    if kernel.name != name:
        raise RegistryError(f"{where} declares a kernel named {kernel.name!r}: name it {name!r}, see CONTRIBUTING.md")
    return kernel


def find_kernel(name: str, package_dir: Path = PACKAGE_DIR) -> Kernel:
    """The kernel of that name.

    Raises:
        RegistryError: there is none; the message lists those there are.
    """
    known = kernels(package_dir)
    if name not in known:
        raise RegistryError(f"no kernel is named {name!r}: choose one of {', '.join(known) or '(none)'}")
    return known[name]
