"""The source that a kernel runs from, as one digest: it changes with every file the kernel needs, and with no other."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from kernels.errors import KernelError

PACKAGE_DIR = Path(__file__).parent
NOT_RUN = ("errors", "registry", "spec", "timing")
"""What kernels import and do not run from: their declarations, and the clocks they are timed with."""


@cache
def hash_sources(kernel_name: str, package_dir: Path = PACKAGE_DIR) -> str:
    """sha256 over kernels/<kernel_name>.py and every module of the package that it reaches by imports.

    Imports inside functions count. Names of modules count, where the package lies does not. The first answer stays, as
    the modules of a process do.

    Raises:
        KernelError: there is no such file.
    """
    digest = hashlib.sha256()
    for module, path in sorted(find_sources(kernel_name, package_dir).items()):
        digest.update(f"{module} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def find_sources(kernel_name: str, package_dir: Path = PACKAGE_DIR) -> dict[str, Path]:
    """The files of `hash_sources`, by the dotted names of their modules."""
    package = package_dir.name
    first = f"{package}.{kernel_name}"
    if find_module(first, package_dir) is None:
        raise KernelError(f"no kernel {kernel_name!r} to hash: {package_dir / kernel_name}.py does not exist")
    found: dict[str, Path] = {}
    left = [first]
    while left:
        module = left.pop()
        path = find_module(module, package_dir)
        if path and module not in found and not is_left_out(module, package):
            found[module] = path
            left.extend(name for name in imported_names(module, path) if name.partition(".")[0] == package)
    return found


def is_left_out(module: str, package: str) -> bool:
    """Whether a module is one of NOT_RUN, or inside one."""
    return any(f"{module}.".startswith(f"{package}.{name}.") for name in NOT_RUN)


def find_module(module: str, package_dir: Path) -> Path | None:
    """The file of a module of the package; None for a name that is no module, such as that of a function."""
    stem = package_dir.parent.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def imported_names(module: str, path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, and of the packages that are imported on the way."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
