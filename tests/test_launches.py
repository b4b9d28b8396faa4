"""Every Triton launch is noted once, with the digest of what the GPU runs; nothing else about launching changes."""

import re
from typing import Any

import pytest
import torch
from compilations import compile_everywhere
from test_every_kernel import small_case, small_inputs
from triton.runtime.jit import JITFunction

from kernels.compile import CAPABILITIES
from kernels.errors import KernelError
from kernels.launches import describe_kernel, hash_machine_code, noting_launches, recording_launches, resource_usage
from kernels.registry import find_kernel

RECORD = """
import json, sys, time
from dataclasses import asdict
from kernels.compile import compile_launches, intercepted_launches
from kernels.launches import recording_launches
from kernels.registry import find_kernel
from test_every_kernel import small_case, small_inputs

arch = sys.argv[1]
kernel = find_kernel("fused_moe")
case = small_case(kernel, "fp8_w8a8")
launch = kernel.providers["triton"].prepare(case, *small_inputs(kernel, case))
with recording_launches() as recorded:
    compiled = compile_launches(arch, launch.run)
    compile_launches(arch, launch.run)
assert sorted(compiled, key=lambda record: record.name) == recorded


def seconds(repeats=300):
    best = 1.0
    for _ in range(repeats):
        start = time.perf_counter()
        launch.run()
        best = min(best, time.perf_counter() - start)
    return best


with intercepted_launches(arch):
    launch.run()
    before = seconds()
    with recording_launches():
        cost_us = 1e6 * (seconds() - before) / len(compiled)
print(json.dumps([{"cost_us": cost_us, **asdict(record)} for record in recorded]))
"""

EDITED = """
import importlib.util, json, sys, tempfile
from dataclasses import asdict
from pathlib import Path
import torch
from kernels.compile import compile_launches

SOURCE = '''
import triton
import triton.language as tl

@triton.jit
def scale_kernel(x_ptr, BLOCK_SIZE: tl.constexpr):
    offsets = tl.arange(0, BLOCK_SIZE)
    tl.store(x_ptr + offsets, tl.load(x_ptr + offsets) * 2.0)
'''
COMMENTED = "# a line more" + SOURCE.replace("    offsets =", "    # another\\n    offsets =")
records = []
for source in (SOURCE, COMMENTED, SOURCE.replace("2.0", "3.0")):
    path = Path(tempfile.mkdtemp()) / "scaling.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("scaling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    launch = lambda: module.scale_kernel[(1,)](torch.ones(64), BLOCK_SIZE=64)
    records += [asdict(record) for record in compile_launches(sys.argv[1], launch)]
print(json.dumps(records))
"""

MOE_KERNELS = ["moe_down_kernel", "moe_gate_up_kernel", "moe_sum_kernel"]

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    """Of a fused MoE, launched twice, for every architecture."""
    return compile_everywhere(RECORD)


def test_every_kernel_that_is_launched_is_noted_once_and_by_name(recorded: list[dict[str, Any]]) -> None:
    for arch in CAPABILITIES:
        names = [record["name"] for record in recorded if record["arch"] == arch]
        assert names == sorted(names)
        assert set(MOE_KERNELS) < set(names)
    assert len({record["sha256"] for record in recorded}) == len(recorded)


def test_noting_a_launch_costs_next_to_nothing(recorded: list[dict[str, Any]]) -> None:
    assert all(record["cost_us"] < 50 for record in recorded)


def test_a_comment_or_another_folder_is_the_same_machine_code_and_another_factor_is_not() -> None:
    records = compile_everywhere(EDITED)
    for arch in CAPABILITIES:
        first, commented, other = (record["sha256"] for record in records if record["arch"] == arch)
        assert first == commented != other


def test_in_the_interpreter_there_is_nothing_to_note() -> None:
    kernel = find_kernel("silu_mul_fp8")
    case = small_case(kernel, "fp8_group128")
    with recording_launches() as compiled:
        kernel.providers["triton"].prepare(case, *small_inputs(kernel, case)).run()
    assert compiled == []


def test_launching_is_as_before_when_the_block_has_ended_also_by_an_error() -> None:
    run = JITFunction.run
    with recording_launches():
        assert JITFunction.run is not run
    assert JITFunction.run is run
    with pytest.raises(ZeroDivisionError), recording_launches():
        raise ZeroDivisionError
    assert JITFunction.run is run


def test_a_file_that_is_no_cubin_is_an_error() -> None:
    with pytest.raises(KernelError, match="cuobjdump"):
        resource_usage(b"not a cubin")
    with pytest.raises(KernelError, match=re.escape("11 bytes that start with b'not ' are no cubin")):
        hash_machine_code(b"not a cubin")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("name", "scheme", "provider"),
    [
        ("silu_mul_fp8", "fp8_group128", "triton"),
        ("silu_mul_fp8", "fp8_group128", "vllm-triton"),
        ("fused_moe", "fp8_w8a8", "triton"),
        ("fused_moe", "fp8_w8a8", "vllm-triton-default"),
        ("mxfp4_moe", "mxfp4_w4a16", "triton"),
    ],
)
def test_what_the_driver_says_of_a_launched_kernel_is_what_its_cubin_says(
    name: str, scheme: str, provider: str
) -> None:
    kernel = find_kernel(name)
    case, device = small_case(kernel, scheme), torch.device("cuda", 0)
    weights = kernel.make_weights(case.layer, 0, device)
    launch = kernel.providers[provider].prepare(case, weights, kernel.make_inputs(case, weights, 0, device))
    with noting_launches() as noted, recording_launches() as compiled:
        launch.run()
        launch.run()
    assert compiled
    assert {describe_kernel(loaded) for loaded in noted.values()} == set(compiled)
    major, minor = torch.cuda.get_device_capability(device)
    for loaded in noted.values():
        record, usage = describe_kernel(loaded), resource_usage(loaded.asm["cubin"])
        assert loaded.module is not None
        assert record.arch == f"sm_{major}{minor}"
        assert (record.registers, record.spill_bytes) == (usage["REG"], usage["STACK"] + usage["LOCAL"])
    with recording_launches() as again:
        launch.run()
    assert set(again) == set(compiled)
