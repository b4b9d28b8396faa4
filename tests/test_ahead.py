"""What is compiled ahead is exactly what a launch looks for in Triton's cache; what cannot be is only reported."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch
from compilations import run_alone
from test_every_kernel import small_case

from kernels.errors import KernelError
from kernels.registry import find_kernel, kernels
from kernels.spec import Case, Device, Kernel, Launch, Provider, Tensors
from tasks.ahead import compile_unit
from tasks.records import WorkUnit

H200 = Device("cuda", "NVIDIA H200", (9, 0))

UNITS = """
import json, sys, torch
from collections import Counter
from test_ahead import units_of
from kernels.compile import intercepted_launches
from kernels.footprint import CPU
from kernels.registry import find_kernel
from kernels.spec import Device
from tasks import ahead
from tasks.ahead import AheadBench, counting_cache_hits

units = units_of(find_kernel(sys.argv[1]), sys.argv[4], None if torch.cuda.is_available() else 1)
device = Device("cuda", sys.argv[2], tuple(json.loads(sys.argv[3])))
"""

AHEAD = """
ahead.LEAST_PRIORITY = 0  # beside other tests it would hardly ever run
bench = AheadBench("cuda")
reports = [bench.compile_unit(unit, device) for unit in units]
assert not torch.cuda.is_initialized()
left_out = {name: why for report in reports for name, why in report.left_out.items()}
print(json.dumps([sum(r.compiled for r in reports), sum(r.found for r in reports), left_out]))
"""

LAUNCH = """
launched = Counter()
torch_device = torch.device(sys.argv[5])
with counting_cache_hits(launched):
    for unit in units:
        kernel = find_kernel(unit.layer.kernel)
        weights = kernel.make_weights(unit.layer, 0, torch_device)
        for case in unit.cases:
            inputs = kernel.make_inputs(case, weights, 0, torch_device)
            for name in unit.providers:
                provider = kernel.providers[name]
                if name not in json.loads(sys.argv[6]) and provider.unsupported(case, device) is None:
                    provider.prepare(case, weights, inputs).run()
print(json.dumps([launched[False], launched[True]]))
"""

LAUNCH_WITHOUT_GPU = "with intercepted_launches(device.arch):\n" + indent(LAUNCH, "    ")

TRITON_KERNELS = [name for name, kernel in kernels().items() if "triton" in kernel.providers]
with_triton = pytest.mark.parametrize("name", TRITON_KERNELS)


def units_of(kernel: Kernel, prefix: str, most_schemes: int | None) -> list[WorkUnit]:
    """Small units of the first schemes: one token, and many with every option at its last value; providers named so."""
    providers = tuple(name for name in kernel.providers if name.startswith(prefix))
    units = []
    for scheme in kernel.schemes[:most_schemes]:
        few = small_case(kernel, scheme, num_tokens=1)
        many = Case(few.layer, 700, {name: values[-1] for name, values in kernel.options.items()})
        units.append(WorkUnit(few.layer, (few, many), providers))
    return units


def run_script(script: str, cache: Path, *arguments: str) -> Any:
    """What a script prints as JSON, line by line, in a process of its own that compiles into `cache`."""
    return [json.loads(line) for line in run_alone(UNITS + script, *arguments, cache=cache).splitlines()]


@with_triton
def test_launches_with_real_tensors_find_everything_compiled(name: str, tmp_path: Path):
    script = AHEAD + LAUNCH_WITHOUT_GPU + AHEAD
    ahead, launched, again = run_script(script, tmp_path, name, H200.name, "[9, 0]", "triton", "cpu", "[]")
    compiled, found, left_out = ahead
    assert compiled > 0
    assert left_out == {}
    assert launched == [0, compiled]
    assert again == [0, compiled + found, {}]


@pytest.mark.gpu
@with_triton
def test_launches_on_a_gpu_find_everything_compiled(name: str, tmp_path: Path):
    left_out, compiled, launched = compile_then_launch(name, "triton", tmp_path)
    assert compiled > 0
    assert left_out == {}
    assert launched == [0, compiled]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fused_moe", "silu_mul_fp8"])
def test_launches_of_vllms_triton_kernels_find_everything_compiled(name: str, tmp_path: Path):
    pytest.importorskip("vllm")
    left_out, compiled, launched = compile_then_launch(name, "vllm-triton", tmp_path)
    assert compiled > 0
    assert left_out == {}
    assert launched == [0, compiled]


def compile_then_launch(name: str, prefix: str, cache: Path) -> tuple[dict[str, str], int, list[int]]:
    """In two processes: what was left out of compiling ahead, what was compiled, what launches missed and found."""
    capability = json.dumps(torch.cuda.get_device_capability())
    arguments = (name, torch.cuda.get_device_name(), capability, prefix)
    ((compiled, _, left_out),) = run_script(AHEAD, cache, *arguments)
    (launched,) = run_script(LAUNCH, cache, *arguments, "cuda", json.dumps(list(left_out)))
    return left_out, compiled, launched


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Triton as it is in a worker, for providers that launch nothing."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    yield monkeypatch


def compile_with(compiler: pytest.MonkeyPatch, **providers: Provider) -> tuple[dict[str, str], list[str]]:
    """What compile_unit leaves out of a kernel with these providers ("_" for "-"), and which of them were prepared."""
    prepared: list[str] = []

    def noting(name: str, provider: Provider) -> Provider:
        def prepare(case: Case, weights: Tensors, inputs: Tensors) -> Launch:
            prepared.append(name)
            return provider.prepare(case, weights, inputs)

        return replace(provider, prepare=prepare)

    named = {name.replace("_", "-"): provider for name, provider in providers.items()}
    kernel = replace(
        find_kernel("fused_moe"),
        providers={name: noting(name, each) for name, each in named.items()},
        baseline=next(iter(named)),
    )
    compiler.setattr("tasks.ahead.find_kernel", lambda _: kernel)
    case = small_case(kernel, kernel.schemes[0])
    unit = WorkUnit(case.layer, (case, replace(case, num_tokens=6)), tuple(named))
    report = compile_unit(unit, H200)
    assert (report.unit_key, report.compiled, report.found) == (unit.key, 0, 0)
    return dict(report.left_out), prepared


def provider_that(run: Any, reason: str | None = None) -> Provider:
    return Provider(lambda case, weights, inputs: Launch(lambda: run(inputs["hidden_states"])), lambda *_: reason)


def test_a_provider_that_looks_at_values_is_reported_and_the_next_one_is_not_kept_from_its_turn(compiler):
    left_out, prepared = compile_with(
        compiler, triton=provider_that(lambda x: x.sum().item()), triton_other=provider_that(lambda x: (x,))
    )
    assert list(left_out) == ["triton"]
    assert "\n" not in left_out["triton"]
    assert "meta" in left_out["triton"]
    assert prepared == ["triton", "triton-other", "triton-other"]


def test_the_gpu_is_described_and_never_opened(compiler):
    asked: list[object] = []

    def describe(x: torch.Tensor) -> tuple[torch.Tensor]:
        asked.append((torch.cuda.get_device_name(x.device), torch.cuda.get_device_capability(x.device)))
        return (x,)

    left_out, _ = compile_with(
        compiler,
        triton=provider_that(describe),
        triton_properties=provider_that(lambda x: torch.cuda.get_device_properties(0)),
        triton_wait=provider_that(lambda x: torch.cuda.synchronize()),
    )
    assert asked == [("NVIDIA H200", (9, 0))] * 2
    assert list(left_out) == ["triton-properties", "triton-wait"]
    assert all("while compiling ahead" in reason for reason in left_out.values())
    assert not torch.cuda.is_initialized()


def test_only_providers_that_launch_triton_and_run_on_the_gpu_are_tried(compiler):
    left_out, prepared = compile_with(
        compiler,
        torch=provider_that(lambda x: (x,)),
        vllm_marlin=provider_that(lambda x: (x,)),
        triton=provider_that(lambda x: (x,), "needs sm_100 (this is sm_90)"),
        vllm_triton_default=provider_that(lambda x: (x,)),
    )
    assert (left_out, set(prepared)) == ({}, {"vllm-triton-default"})


def test_inputs_that_cannot_be_outlined_leave_every_provider_out(compiler):
    def make_inputs(*_: object) -> Tensors:
        raise ValueError("how many?\nreally")

    kernel = replace(find_kernel("fused_moe"), make_inputs=make_inputs)
    compiler.setattr("tasks.ahead.find_kernel", lambda _: kernel)
    case = small_case(kernel, kernel.schemes[0])
    report = compile_unit(WorkUnit(case.layer, (case,), ("torch", "triton")), H200)
    assert report.left_out == {"triton": "making weights or inputs: ValueError: how many?"}


def test_the_interpreter_has_nothing_to_compile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    case = small_case(find_kernel("fused_moe"), "unquantized")
    with pytest.raises(KernelError, match="TRITON_INTERPRET"):
        compile_unit(WorkUnit(case.layer, (case,), ("triton",)), H200)


def test_a_layer_that_fits_no_gpu_is_compiled_for_all_the_same(compiler):
    kernel = find_kernel("fused_moe")
    case = small_case(kernel, "fp8_w8a8", num_tokens=65536)
    large = replace(
        case, layer=replace(case.layer, sizes={**case.layer.sizes, "num_experts": 256, "hidden_size": 2**20})
    )
    report = compile_unit(WorkUnit(large.layer, (large,), ("torch", "triton")), replace(H200, capability=(8, 0)))
    assert (report.compiled, report.left_out) == (0, {})
    assert report.seconds < 20


def test_the_process_runs_when_nothing_else_wants_the_core(tmp_path: Path):
    script = (
        "import os; AheadBench('cuda'); print(os.getpriority(os.PRIO_PROCESS, 0), torch.get_num_threads(), sep='\\n')"
    )
    assert run_script(script, tmp_path, "fused_moe", H200.name, "[9, 0]", "triton") == [19, 1]


def test_nothing_is_compiled_for_a_cpu(tmp_path: Path):
    script = "print(AheadBench('cpu').compile_unit(units[0], device).compiled)"
    assert run_script(script, tmp_path, "fused_moe", "cpu", "[0, 0]", "triton") == [0]


CONFIGS = """
import json, sys
from kernels.spec import Case, Device, Layer
from tasks.ahead import AheadBench

sizes = {"num_experts": 8, "top_k": 2, "hidden_size": 512, "intermediate_size": 256}
case = Case(Layer("fused_moe", "grid", 1, 1, "fp8_w8a8", "bfloat16", sizes), 64)
default = {
    "BLOCK_SIZE_M": 16, "GATE_UP_BLOCK_SIZE_N": 64, "DOWN_BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 8,
    "SWAP_AB": False, "QUANTIZE_ON_LOAD": False, "num_warps": 4, "num_stages": 2,
}
bench = AheadBench("cuda")
for change in ({}, {}, {"num_warps": 8}, {"BLOCK_SIZE_M": "16"}):
    print(json.dumps(bench.compile_config(case, "triton", {**default, **change}, device)))
print(json.dumps(bench.compile_config(case, "torch", default, device)))
"""


def test_a_configuration_is_told_by_the_machine_code_that_it_compiles_to(tmp_path: Path):
    first, again, other, refused, torch_only = run_script(CONFIGS, tmp_path, "fused_moe", H200.name, "[9, 0]", "triton")
    assert first == again
    assert len({first, other, refused}) == 3
    assert refused == torch_only == "", "what cannot be compiled ahead has no name"
