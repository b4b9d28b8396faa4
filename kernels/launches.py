"""Notes which Triton kernels are launched, whoever launches them, and says what machine code ran and what it costs.

Seen is every launch of a jit function, ours and vLLM's; not what torch.compile starts, nor the replay of a CUDA graph.
"""

import hashlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import triton
from triton.runtime.jit import JITFunction

from kernels.errors import KernelError
from kernels.spec import CompiledKernel

ELF_HEADER = struct.Struct("<40xQ10xHHH")
"""Of ELF64: where the section headers are; the size of one, how many there are, and which names them."""
SECTION_HEADER = struct.Struct("<II16xQQ")
"""Name, type, and where and how many the bytes are."""
NO_BYTES = 8
"""Type of a section that takes memory and nothing in the file."""
TABLES = (b".shstrtab", b".strtab", b".symtab")


@contextmanager
def recording_launches() -> Iterator[list[CompiledKernel]]:
    """Note every Triton kernel that is launched in the block, once.

    The list is filled when the block ends without an error: by name, kernels of one name in the order of their first
    launch. In Triton's interpreter nothing is compiled, and it stays empty.
    """
    compiled: list[CompiledKernel] = []
    with noting_launches() as noted:
        yield compiled
    compiled += sorted(dict.fromkeys(map(describe_kernel, noted.values())), key=lambda kernel: kernel.name)


@contextmanager
def noting_launches(*, compile_only: bool = False) -> Iterator[dict[str, Any]]:
    """While open, note Triton's compiled kernels by their hash, in the order of their first launch.

    Args:
        compile_only: every launch ends once its kernel is compiled.
    """
    noted: dict[str, Any] = {}
    run = JITFunction.run

    def run_and_note(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=warmup or compile_only, **kwargs)
        noted.setdefault(kernel.hash, kernel)
        return kernel

    JITFunction.run = run_and_note
    try:
        yield noted
    finally:
        JITFunction.run = run


def describe_kernel(kernel: Any) -> CompiledKernel:
    """What one compiled kernel of Triton costs: as the driver says where it is loaded, else as cuobjdump does."""
    cubin: bytes = kernel.asm["cubin"]
    if kernel.module is None:
        usage = resource_usage(cubin)
        registers, spill_bytes = usage["REG"], usage["STACK"] + usage["LOCAL"]
    else:
        registers, spill_bytes = kernel.n_regs, 4 * kernel.n_spills  # Triton counts words
    return CompiledKernel(
        name=kernel.metadata.name,
        arch=f"sm_{kernel.metadata.target.arch}",
        num_warps=kernel.metadata.num_warps,
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=kernel.metadata.shared,
        sha256=hash_machine_code(cubin),
    )


def hash_machine_code(cubin: bytes) -> str:
    """sha256 over what a GPU runs: instructions, constants, attributes.

    Debug sections name the source's folder and lines: another checkout, or one more comment, is the same machine code.

    Raises:
        KernelError: this is no cubin.
    """
    digest = hashlib.sha256()
    for name, content in sorted(read_sections(cubin)):
        if b"debug" not in name and name not in TABLES:
            digest.update(b"%s %d\n%s" % (name, len(content), content))
    return digest.hexdigest()


def read_sections(cubin: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of the sections of an ELF file; of one that only takes memory, how much instead."""
    if not cubin.startswith(b"\x7fELF"):
        raise KernelError(f"{len(cubin)} bytes that start with {cubin[:4]!r} are no cubin: an ELF file was expected")
    offset, header_size, count, names_index = ELF_HEADER.unpack_from(cubin)
    headers = [SECTION_HEADER.unpack_from(cubin, offset + index * header_size) for index in range(count)]
    _, _, names_at, _ = headers[names_index]
    found = []
    for name_at, kind, start, size in headers:
        name = cubin[names_at + name_at : cubin.index(b"\0", names_at + name_at)]
        found.append((name, b"%d" % size if kind == NO_BYTES else cubin[start : start + size]))
    return found


def resource_usage(cubin: bytes) -> dict[str, int]:
    """The figures cuobjdump prints for a cubin with one function: {"REG": 64, "STACK": 0, "LOCAL": 0, ...}."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", result.stdout)}
    if not {"REG", "STACK", "LOCAL"} <= usage.keys():
        raise KernelError(f"cuobjdump printed no resource usage: {result.stderr.strip() or result.stdout.strip()}")
    return usage
