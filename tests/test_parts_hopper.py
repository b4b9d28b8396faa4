"""Tiles that several programs share, in Gluon: on a GPU against the reference, whoever finishes which tokens."""

import pytest
import torch
from test_mxfp4_hopper import case_of, errors_of, run_specialized, tensors_of

from kernels.gemm.mxfp4_fp8_configs import divide_steps, specialized_config
from kernels.mxfp4_gemm import KERNEL
from kernels.quantize.fp4 import E8M0_NAN
from kernels.sms import DEFAULT_NUM_SMS

PAIRED = {"n": 8192, "k": 1024}
ADDED_UP = {"n": 384, "k": 2048}


@pytest.mark.parametrize("num_tokens", [40, 64, 100, 200, 256])
def test_sizes_of_the_tests_below_are_shared_as_they_say(num_tokens: int):
    config = specialized_config(num_tokens)
    assert divide_steps(num_tokens, PAIRED["n"], PAIRED["k"], config, DEFAULT_NUM_SMS).in_pairs
    added_up = divide_steps(num_tokens, ADDED_UP["n"], ADDED_UP["k"], config, DEFAULT_NUM_SMS)
    assert added_up.in_parts
    assert not added_up.in_pairs


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [20, 40, 64, 100, 128, 200, 256])
@pytest.mark.parametrize("sizes", [PAIRED, ADDED_UP], ids=["two programs trade halves", "one adds up"])
def test_on_a_gpu_wide_rows_and_nan_stay_in_their_rows_of_either_half(num_tokens: int, sizes: dict[str, int]):
    case = case_of(num_tokens, activations="prequantized", **sizes)
    weights, inputs = tensors_of(case)
    weights["w"][:, :16] = 0  # what is small beside the first group of a row is then all that counts
    inputs["x_scale"][1, 0] += 30
    inputs["x_scale"][num_tokens - 1, 0] += 20
    inputs["x_scale"][3, 1] = E8M0_NAN
    reference = KERNEL.reference(case, weights, inputs)
    for _ in range(5):  # a race would not lose every time
        output = run_specialized(case, weights, inputs, num_stages=4)
        assert output[3].isnan().all()
        assert (errors_of(output, reference)[torch.arange(num_tokens) != 3] < 0.003).all()


@pytest.mark.gpu
def test_on_a_gpu_it_gives_the_same_bits_every_time():
    case = case_of(256, **PAIRED)
    weights, inputs = tensors_of(case)
    first = run_specialized(case, weights, inputs)
    assert all(torch.equal(run_specialized(case, weights, inputs), first) for _ in range(50))
