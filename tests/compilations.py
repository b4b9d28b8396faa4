"""Compiles for Hopper and Blackwell in processes of their own: the interpreter that conftest.py asks for stays."""

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import cache
from io import StringIO
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import triton
from servers import shared_folder

from kernels.compile import CAPABILITIES, intercepted_launches
from kernels.launches import describe_kernel

PRELOADED = "preloaded"
MAX_SHARED_BYTES = 227 * 1024
MAX_REGISTERS = 255
MAX_SPILL_BYTES = 64
"""A few spilled addresses outside the loop cost nothing; a spilled accumulator is hundreds of bytes."""


def compile_everywhere(script: str, *arguments: str, cache: Path | None = None) -> list[dict[str, Any]]:
    """What a script compiles, for every architecture at the same time.

    Args:
        script: finds its architecture in sys.argv[1] and the arguments after it; prints a list of records as JSON.
        cache: Triton's folder; by default one that all tests share: another may have compiled a kernel already.
    """
    processes = [start_alone(script, arch, *arguments, cache=cache) for arch in CAPABILITIES]
    return [record for process in processes for record in json.loads(process.result())]


def compile_for(arch: str, script: str, *arguments: str, cache: Path | None = None) -> list[dict[str, Any]]:
    """As compile_everywhere, for one architecture."""
    records: list[dict[str, Any]] = json.loads(run_alone(script, arch, *arguments, cache=cache))
    return records


def run_alone(script: str, *arguments: str, cache: Path | None = None) -> str:
    """What a script prints, in a process of its own that compiles into `cache`, or into the folder of all tests."""
    return start_alone(script, *arguments, cache=cache).result()


def start_alone(script: str, *arguments: str, cache: Path | None) -> Future[str]:
    """As run_alone, without waiting."""
    return start_processes().submit(execute, script, arguments, str(cache or shared_folder() / "triton"))


@cache
def start_processes() -> ProcessPoolExecutor:
    """Processes for one script each, forked from one that has done without the interpreter what preloaded.py says."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        forkserver.ensure_running()
    return ProcessPoolExecutor(len(CAPABILITIES), context, max_tasks_per_child=1)


def execute(script: str, arguments: tuple[str, ...], cache: str) -> str:
    """As run_alone, where we are alone already."""
    assert PRELOADED in sys.modules, "a forkserver that cannot import something says nothing"
    gc.set_threshold(100_000, 50, 50)  # looking for garbage would take a sixth of its time
    os.environ["TRITON_CACHE_DIR"] = cache
    sys.argv = ["script", *arguments]
    with redirect_stdout(StringIO()) as printed:
        exec(script, {"__name__": "__main__"})
    return printed.getvalue()


def record_launches(arch: str, run: Callable[[], object], *, looks_at_products: bool = True) -> list[dict[str, Any]]:
    """What a run launches, compiled for an architecture; of Hopper's kernels whether products wait for each other.

    For the scripts: it is called in a process without the interpreter.
    """
    with intercepted_launches(arch) as compiled:
        run()
    records = []
    for kernel in compiled.values():
        record = asdict(describe_kernel(kernel))
        if looks_at_products and "hopper" in record["name"]:
            record["is_serialized"] = is_serialized(kernel.asm["ptx"])
        records.append(record)
    return records


def is_serialized(ptx: str) -> bool:
    """Whether ptxas lets warps wait for each of their products: notes C7510 to C7515, which Triton does not show."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [
            triton.knobs.nvidia.ptxas.path,
            "-v",
            "--gpu-name",
            "sm_90a",
            str(path),
            "-o",
            f"{folder}/kernel.cubin",
        ]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Used" in process.stderr, process.stderr
    return "serialized" in process.stderr


def assert_fits(record: dict[str, Any], max_spill_bytes: int = MAX_SPILL_BYTES) -> None:
    """A compiled kernel keeps within an SM's shared memory and a thread's registers."""
    assert record["spill_bytes"] <= max_spill_bytes, record
    assert record["shared_bytes"] <= MAX_SHARED_BYTES, record
    assert 0 < record["registers"] <= MAX_REGISTERS, record
