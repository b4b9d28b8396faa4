"""The product of MXFP4 as FP8 in Gluon: compiled for Hopper anywhere, and on a GPU against the reference."""

from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
import torch
from compilations import assert_fits, compile_for

from kernels.gemm.mxfp4_fp8_configs import default_fp8_config, specialized_config
from kernels.mxfp4_gemm import KERNEL
from kernels.quantize.fp4 import E8M0_NAN
from kernels.spec import Case, Layer, Tensors

MAX_SPILL_BYTES = 128
"""Outside of the loop over the steps; a spilled sum would be 256 bytes or more."""
TOKENS = (64, 128, 256, 1024)

SCRIPT = f"""
import json, sys
from dataclasses import asdict, replace
import torch
from kernels.compile import compile_launches
from kernels.gemm.mxfp4_fp8 import prepare_fp8
from kernels.spec import Case, Layer

def codes(*shape):
    return torch.zeros(shape, dtype=torch.uint8)

compiled = []
for n, k in ((8192, 8192), (10240, 8192), (57344, 8192), (8192, 28672)):
    with torch.device("meta"):
        weights = {{"w": codes(n, k // 2), "w_scale": codes(n, k // 32)}}
    for m in {TOKENS}:
        with torch.device("meta"):
            inputs = {{"x": torch.empty(m, k, dtype=torch.bfloat16)}}
        case = Case(Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a4_hadamard32", "bfloat16", {{"n": n, "k": k}}), m)
        launch = prepare_fp8(case, weights, inputs)
        compiled += [asdict(record) | {{"m": m}} for record in compile_launches(sys.argv[1], launch.run)]
print(json.dumps(compiled))
"""


@cache
def compile_products() -> list[dict[str, Any]]:
    """What is launched at the sizes of Llama-3.3-70B."""
    return [record for record in compile_for("sm_90", SCRIPT) if record["name"] == "mxfp4_hopper_gemm_kernel"]


def test_it_fits_a_hopper_at_real_sizes():
    assert {record["m"] for record in compile_products()} == set(TOKENS)
    for record in compile_products():
        assert_fits(record, MAX_SPILL_BYTES)


def test_a_matrix_of_too_few_tiles_is_left_to_triton():
    assert default_fp8_config(64, 8192, 8192).PRODUCT == "specialized"
    assert default_fp8_config(64, 128, 8192).PRODUCT == "pipelined"


def case_of(num_tokens: int, n: int = 384, k: int = 1024, dtype: str = "bfloat16", **options: str) -> Case:
    return Case(
        Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a4_hadamard32", dtype, {"n": n, "k": k}), num_tokens, options
    )


def tensors_of(case: Case) -> tuple[Tensors, Tensors]:
    device = torch.device("cuda")
    weights = KERNEL.make_weights(case.layer, 1, device)
    return weights, KERNEL.make_inputs(case, weights, 2, device)


def run_specialized(case: Case, weights: Tensors, inputs: Tensors, **changes: int) -> torch.Tensor:
    config = asdict(specialized_config(case.num_tokens)) | changes
    (output,) = KERNEL.providers["triton-exact-fp8"].prepare_with(case, weights, inputs, config).run()
    return output


def errors_of(output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Of each row."""
    return (output - reference).norm(dim=1) / reference.norm(dim=1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case_of(3), id="few tokens"),
        pytest.param(case_of(100), id="a tile of 128 tokens"),
        pytest.param(case_of(1000), id="tiles of 256 tokens"),
        pytest.param(case_of(333, n=1000, k=736), id="sizes that no tile divides"),
        pytest.param(case_of(130, n=24, k=96), id="less than a step"),
        pytest.param(case_of(2000, n=4000, k=512), id="more tiles than programs"),
        pytest.param(case_of(300, n=10240, k=4096), id="programs with steps of three tiles"),
        pytest.param(case_of(1500, n=9088, k=4096), id="whole tiles, then shares of tiles"),
        pytest.param(case_of(200, dtype="float16"), id="float16"),
        pytest.param(case_of(300, activations="prequantized"), id="prequantized"),
    ],
)
def test_on_a_gpu_it_computes_the_formula(case: Case):
    weights, inputs = tensors_of(case)
    reference = KERNEL.reference(case, weights, inputs)
    for _ in range(3):  # a race would not lose every time
        output = run_specialized(case, weights, inputs, num_stages=4)
        assert output.dtype == getattr(torch, case.layer.dtype)
        assert (output - reference).norm() / reference.norm() < 0.004


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [60, 120, 500])
@pytest.mark.parametrize("sizes", [{"n": 384, "k": 1024}, {"n": 384, "k": 256}], ids=["shared tiles", "whole tiles"])
def test_on_a_gpu_wide_rows_and_nan_stay_right_and_in_their_rows(num_tokens: int, sizes: dict[str, int]):
    case = case_of(num_tokens, activations="prequantized", **sizes)
    weights, inputs = tensors_of(case)
    weights["w"][:, :16] = 0  # what is small beside the first group of a row is then all that counts
    inputs["x_scale"][1, 0] += 30
    inputs["x_scale"][num_tokens - 1, 0] += 20
    inputs["x_scale"][3, 1] = E8M0_NAN
    output = run_specialized(case, weights, inputs, num_stages=4)
    errors = errors_of(output, KERNEL.reference(case, weights, inputs))
    assert output[3].isnan().all()
    assert (errors[torch.arange(num_tokens) != 3] < 0.003).all()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case_of(300, n=10240, k=4096), id="one adds up"),
        pytest.param(case_of(64, n=8192, k=8192), id="two a tile"),
        pytest.param(case_of(256, n=10240, k=8192), id="the last two of a tile trade"),
        pytest.param(case_of(400, n=5120, k=8192), id="and there are two rows of tiles"),
    ],
)
def test_on_a_gpu_replays_of_graphs_on_three_streams_leave_what_one_launch_does(case: Case):
    """Programs that share tiles wait for each other: by flags that every launch finds as the one before left them.

    Launches have other tokens in turn, so that what one of them left behind is wrong for the next.
    """
    weights, inputs = tensors_of(case)
    turns = [inputs, {"x": inputs["x"].flip(0)}]
    expected = [run_specialized(case, weights, turn) for turn in turns]
    torch.cuda.synchronize()
    streams, graphs = [torch.cuda.Stream() for _ in range(3)], [torch.cuda.CUDAGraph() for _ in range(3)]
    captured = []
    for stream, graph in zip(streams, graphs, strict=True):
        with torch.cuda.graph(graph, stream=stream):
            captured.append([run_specialized(case, weights, turn) for turn in 3 * turns])
    for _ in range(20):
        for outputs in captured:
            for output in outputs:
                output.zero_()
        torch.cuda.synchronize()
        for stream, graph in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        torch.cuda.synchronize()
        for outputs in captured:
            assert all(torch.equal(output, of_turn) for output, of_turn in zip(outputs, 3 * expected, strict=True))
