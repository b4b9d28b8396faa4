"""Tiles that several programs share, in Gluon: on a GPU against the reference, whoever finishes which tokens."""

import pytest
import torch
from test_mxfp4_hopper import case_of, errors_of, run_specialized, tensors_of

from kernels.gemm.mxfp4_fp8 import find_pairs
from kernels.gemm.mxfp4_fp8_configs import divide_steps, specialized_config
from kernels.mxfp4_gemm import KERNEL
from kernels.quantize.fp4 import E8M0_NAN
from kernels.sms import DEFAULT_NUM_SMS

PAIRED = {"n": 8192, "k": 1024}
ADDED_UP = {"n": 384, "k": 2048}
UNEVEN = {"n": 10240, "k": 8192}


@pytest.mark.parametrize("num_tokens", [40, 64, 100, 200, 256])
def test_sizes_of_the_tests_below_are_shared_as_they_say(num_tokens: int):
    config = specialized_config(num_tokens)

    def pairs_of(sizes: dict[str, int]) -> str:
        work = divide_steps(num_tokens, sizes["n"], sizes["k"], config, DEFAULT_NUM_SMS)
        return find_pairs(work, config.turns, is_early=True)

    assert pairs_of(PAIRED) == "all"
    assert pairs_of(ADDED_UP) == "none"
    assert pairs_of(UNEVEN) == ("some" if num_tokens > 128 else "none")
    assert divide_steps(num_tokens, ADDED_UP["n"], ADDED_UP["k"], config, DEFAULT_NUM_SMS).programs_per_tile > 2


every_division = pytest.mark.parametrize(
    "sizes", [PAIRED, ADDED_UP, UNEVEN], ids=["two a tile", "several a tile", "parts of several tiles"]
)


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [20, 40, 64, 100, 128, 200, 256])
@every_division
@pytest.mark.parametrize("activations", ["dynamic", "prequantized"])
def test_on_a_gpu_wide_rows_and_nan_stay_in_their_rows_of_either_half(
    num_tokens: int, sizes: dict[str, int], activations: str
):
    case = case_of(num_tokens, activations=activations, **sizes)
    weights, inputs = tensors_of(case)
    weights["w"][:, :16] = 0  # what is small beside the first group of a row is then all that counts
    if activations == "dynamic":
        inputs["x"][[1, num_tokens - 1], :32] *= 2.0**24
        inputs["x"][3, 32] = torch.nan
    else:
        inputs["x_scale"][1, 0] += 30
        inputs["x_scale"][num_tokens - 1, 0] += 20
        inputs["x_scale"][3, 1] = E8M0_NAN
    reference = KERNEL.reference(case, weights, inputs)
    for _ in range(5):  # a race would not lose every time
        output = run_specialized(case, weights, inputs, num_stages=4)
        assert output[3].isnan().all()
        assert (errors_of(output, reference)[torch.arange(num_tokens) != 3] < 0.003).all()


@pytest.mark.gpu
@every_division
def test_on_a_gpu_it_gives_the_same_bits_every_time(sizes: dict[str, int]):
    case = case_of(256, **sizes)
    weights, inputs = tensors_of(case)
    first = run_specialized(case, weights, inputs)
    assert all(torch.equal(run_specialized(case, weights, inputs), first) for _ in range(50))
