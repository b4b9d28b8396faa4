"""Every scheme of fused_moe compiled at sizes of a real layer: nothing spills, everything fits into an SM."""

from functools import cache
from typing import Any

import pytest
from compilations import assert_fits, compile_everywhere

from kernels.compile import CAPABILITIES
from kernels.moe.schemes import MOE_SCHEMES

# Weights of the right shapes are enough to compile; memory that nobody writes costs nothing.
SCRIPT = """
import json, sys
from dataclasses import asdict
from itertools import product
import torch
from kernels.compile import compile_launches
from kernels.fused_moe import KERNEL, dtype_of
from kernels.moe.schemes import GROUP_SIZE, scheme_of
from kernels.spec import Case, Layer

CPU = torch.device("cpu")
E, K, N = 8, 4096, 1792  # Mixtral-8x7B on eight ranks
ROUTED = {"num_experts": E, "top_k": 2, "hidden_size": K, "intermediate_size": N}

def empty_weights(layer):
    scheme, weights = scheme_of(layer), {}
    for name, rows, columns in (("w1", 2 * N, K), ("w2", K, N)):
        shapes = {
            "tensor": (E,),
            "channel": (E, rows, 1),
            "block": (E, rows // GROUP_SIZE, columns // GROUP_SIZE),
            "group": (E, rows, columns // GROUP_SIZE),
        }
        weights[name] = torch.empty(E, rows, columns, dtype=scheme.weight_dtype or dtype_of(layer))
        if scheme.scaling in shapes:
            weights[f"{name}_scale"] = torch.empty(shapes[scheme.scaling])
    return weights | ({"a1_scale": torch.ones(1), "a2_scale": torch.ones(1)} if scheme.scaling == "tensor" else {})

CASES = (
    (1, 4, {}),
    (256, 1, {"activation_format": "batched"}),
    (4096, 1, {"apply_router_weight_on_input": "true"}),
)
compiled = []
for scheme, (num_tokens, ep_size, options) in product(KERNEL.schemes, CASES):
    case = Case(Layer("fused_moe", "grid", 8, ep_size, scheme, "bfloat16", ROUTED), num_tokens, options)
    weights = empty_weights(case.layer)
    inputs = KERNEL.make_inputs(case, weights, 0, CPU)
    for record in compile_launches(sys.argv[1], KERNEL.providers["triton"].prepare(case, weights, inputs).run):
        compiled.append({"scheme": scheme, "case": case.key, **asdict(record)})
print(json.dumps(compiled))
"""


@cache
def compile_schemes() -> list[dict[str, Any]]:
    """What our provider would launch for a token on one of four ranks, rows by expert, and 4096 tokens, by scheme."""
    return compile_everywhere(SCRIPT)


@pytest.mark.parametrize("scheme", MOE_SCHEMES)
@pytest.mark.parametrize("arch", CAPABILITIES)
def test_every_scheme_fits_an_sm_at_real_sizes(scheme: str, arch: str):
    compiled = [record for record in compile_schemes() if (record["scheme"], record["arch"]) == (scheme, arch)]
    family = "words" if MOE_SCHEMES[scheme].has_words else "moe"
    names = {record["name"] for record in compiled}
    assert {f"{family}_gate_up_kernel", f"{family}_down_kernel"} <= names
    assert {"gate_up_gemv_kernel", "down_gemv_kernel"} <= names or scheme.startswith("int8")
    for record in compiled:
        assert_fits(record)


def test_only_schemes_that_round_whole_rows_quantize_row_by_row():
    for scheme in MOE_SCHEMES:
        names = {record["name"] for record in compile_schemes() if record["scheme"] == scheme}
        assert ("quantize_rows_kernel" in names) == MOE_SCHEMES[scheme].rounds_whole_rows
