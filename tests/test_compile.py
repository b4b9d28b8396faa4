"""Every kernel's Triton provider compiles for Hopper and Blackwell without a GPU, and fits their SMs."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from compilations import assert_fits, compile_everywhere

from kernels.compile import CAPABILITIES, compile_launches
from kernels.errors import KernelError
from kernels.registry import kernels

SCRIPT = """
import json, sys
from dataclasses import asdict
from kernels.compile import compile_launches
from kernels.registry import find_kernel
from test_every_kernel import small_case, small_inputs

arch, compiled = sys.argv[1], []
for kernel in map(find_kernel, sys.argv[2:]):
    for scheme in kernel.schemes:
        case = small_case(kernel, scheme)
        weights, inputs = small_inputs(kernel, case)
        records = compile_launches(arch, lambda: kernel.providers["triton"].prepare(case, weights, inputs).run())
        compiled += [{"kernel": kernel.name, **asdict(record)} for record in records]
print(json.dumps(compiled))
"""

TRITON_KERNELS = [name for name, kernel in kernels().items() if "triton" in kernel.providers]
COMPILED_TWICE = "silu_mul_fp8"
with_triton = pytest.mark.parametrize("name", TRITON_KERNELS)
every_arch = pytest.mark.parametrize("arch", CAPABILITIES)


@cache
def compile_kernels() -> list[dict[str, Any]]:
    """What the Triton provider of every kernel would launch, for every architecture and scheme.

    One process compiles them all, as importing torch and Triton takes longer than most; first the one that is compiled
    twice, so that its second process has done no less before, and from an empty cache, as the second does.
    """
    with TemporaryDirectory() as folder:
        first = sorted(TRITON_KERNELS, key=lambda name: name != COMPILED_TWICE)
        return compile_everywhere(SCRIPT, *first, cache=Path(folder))


def compile_kernel(name: str) -> list[dict[str, Any]]:
    """What one kernel's would."""
    return [record for record in compile_kernels() if record["kernel"] == name]


@with_triton
@every_arch
def test_every_triton_kernel_fits_the_registers_and_shared_memory(name: str, arch: str):
    compiled = [record for record in compile_kernel(name) if record["arch"] == arch]
    assert compiled
    for record in compiled:
        assert_fits(record)


@with_triton
def test_what_was_compiled_is_named_and_told_apart_by_its_digest(name: str):
    compiled = compile_kernel(name)
    assert all(record["name"].endswith("_kernel") and record["num_warps"] >= 1 for record in compiled)
    assert all(len(record["sha256"]) == 64 for record in compiled)
    digests = [{record["sha256"] for record in compiled if record["arch"] == arch} for arch in CAPABILITIES]
    assert not set.intersection(*digests)


def test_the_same_source_compiles_to_the_same_digest(tmp_path: Path):
    assert compile_everywhere(SCRIPT, COMPILED_TWICE, cache=tmp_path) == compile_kernel(COMPILED_TWICE)


def test_an_unknown_architecture_is_an_error_that_lists_the_known():
    with pytest.raises(KernelError, match=r"'sm_70'.*sm_90, sm_100"):
        compile_launches("sm_70", lambda: None)


def test_compiling_under_the_interpreter_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(KernelError, match="TRITON_INTERPRET"):
        compile_launches("sm_90", lambda: None)
