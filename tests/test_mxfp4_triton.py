"""The Triton MXFP4 linear layer compiles for Hopper and Blackwell at the sizes that matter, without spilling."""

import re
from typing import Any

import pytest
from compilations import assert_fits, compile_everywhere, compile_for

SCRIPT = """
import json, sys
from dataclasses import asdict
import torch
from kernels.compile import compile_launches
from kernels.gemm.mxfp4_fp8 import prepare_fp8
from kernels.gemm.mxfp4_inputs import SCHEMES, W4A16
from kernels.gemm.mxfp4_triton import prepare_triton
from kernels.spec import Case, Layer

def codes(*shape):
    return torch.zeros(shape, dtype=torch.uint8)

n = k = 8192
weights = {"w": codes(n, k // 2), "w_scale": codes(n, k // 32)}
compiled = []
sizes = [(scheme, m) for scheme in (SCHEMES[0], W4A16) for m in (1, 64, 1024)]
for scheme, m in [*sizes, ("mxfp4_w4a4_hadamard64", 1), ("mxfp4_w4a4_hadamard128", 1)]:
    inputs = {"x": torch.zeros(m, k, dtype=torch.bfloat16)}
    case = Case(Layer("mxfp4_gemm", "grid", 1, 1, scheme, "bfloat16", {"n": n, "k": k}), m)
    launch = prepare_triton(case, weights, inputs)
    compiled += [asdict(record) for record in compile_launches(sys.argv[1], launch.run)]

for_hopper = [(2, {}), (1024, {}), (4096, {"activations": "prequantized"})] if sys.argv[1] == "sm_90" else []
torch._scaled_mm = lambda a, b, *scales, out_dtype, use_fast_accum: torch.empty(len(a), b.shape[1], dtype=out_dtype)
for m, options in for_hopper:
    inputs = {"x": torch.zeros(m, k, dtype=torch.bfloat16)}
    if options:
        inputs |= {"x_codes": codes(m, k // 2), "x_scale": codes(m, k // 32)}
    case = Case(Layer("mxfp4_gemm", "grid", 1, 1, SCHEMES[0], "bfloat16", {"n": n, "k": k}), m, options)
    launch = prepare_fp8(case, weights, inputs)
    compiled += [asdict(record) for record in compile_launches(sys.argv[1], launch.run)]
print(json.dumps(compiled))
"""

MAX_SPILL_BYTES = 16
"""A few bytes of stack that cuobjdump shows without a spill in the loop."""


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, Any]]:
    return compile_everywhere(SCRIPT)


@pytest.mark.parametrize("arch", ["sm_90", "sm_100"])
def test_nothing_spills_at_8192_by_8192_for_decode_and_prefill(compiled, arch):
    records = [record for record in compiled if record["arch"] == arch]
    only_hopper = {"mxfp4_fp8_gemm_kernel", "mxfp4_hopper_gemm_kernel", "wide_rows_kernel"}
    only_hopper |= {"rotate_to_fp8_kernel", "rows_to_fp8_kernel", "unpack_words_kernel"}
    assert {record["name"] for record in records} == {
        "mxfp4_gemm_kernel",
        "rotate_round_kernel",
        "sum_splits_kernel",
        *(only_hopper if arch == "sm_90" else ()),
    }
    for record in records:
        assert_fits(record, MAX_SPILL_BYTES)


ASSEMBLY = """
import json, sys
import torch
from kernels.compile import intercepted_launches
from kernels.gemm.mxfp4_fp8 import prepare_fp8
from kernels.spec import Case, Layer

def codes(*shape):
    return torch.zeros(shape, dtype=torch.uint8)

n, found = 1024, []
torch._scaled_mm = lambda a, b, *scales, out_dtype, use_fast_accum: torch.empty(len(a), b.shape[1], dtype=out_dtype)
PREQUANTIZED = {"activations": "prequantized"}
for m, k, options in (
    (5, 1184, {}), (32, 1184, {}), (64, 1184, {}), (4096, 1184, {}), (5, 96, PREQUANTIZED), (5, 1024, PREQUANTIZED)
):
    case = Case(Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a4_hadamard32", "bfloat16", {"n": n, "k": k}), m, options)
    inputs = {"x": torch.zeros(m, k, dtype=torch.bfloat16)}
    if options:
        inputs |= {"x_codes": codes(m, k // 2), "x_scale": codes(m, k // 32)}
    launch = prepare_fp8(case, {"w": codes(n, k // 2), "w_scale": codes(n, k // 32)}, inputs)
    with intercepted_launches(sys.argv[1]) as compiled:
        launch.run()
    found += [{"name": kernel.metadata.name, "ttgir": kernel.asm["ttgir"]} for kernel in compiled.values()]
print(json.dumps(found))
"""


def test_assembly_that_unpacks_bytes_has_the_four_that_it_takes_in_one_thread():
    unpacking = {"mxfp4_fp8_gemm_kernel", "wide_rows_kernel", "unpack_words_kernel", "rows_to_fp8_kernel"}
    layouts = [
        (kernel["name"], re.search(rf"^{layout} = (.*)$", kernel["ttgir"], re.M)[1])
        for kernel in compile_for("sm_90", ASSEMBLY)
        if kernel["name"] in unpacking
        for layout in re.findall(r"elementwise_inline_asm .* : tensor<\w+xi8, (#\w+)>", kernel["ttgir"])
    ]
    assert {name for name, _ in layouts} == unpacking
    for name, layout in layouts:
        linear = re.search(r"register = \[\[0, 0, 1\], \[0, 0, 2\]", layout)
        blocked = re.search(r"sizePerThread = \[(?:\d+, )+(4|8|16)\].*order = \[[12],", layout)
        assert linear or blocked, (name, layout)
