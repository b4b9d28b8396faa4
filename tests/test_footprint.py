"""What weights need of memory is known exactly before a byte of it is allocated."""

import time
from dataclasses import replace

import pytest
import torch
from test_every_kernel import every_scheme, small_case, small_inputs

from kernels.footprint import Unallocated, outline_weights, weights_footprint
from kernels.quantize.fp4 import e2m1_table
from kernels.registry import kernels
from kernels.spec import Case, Kernel, Layer
from tasks.weights import generate_weights

CPU = torch.device("cpu")


def odd_layer(kernel: Kernel, scheme: str, num_experts: int = 5) -> Layer:
    """A layer whose dimensions are all different."""
    sizes = {"num_experts": num_experts, "hidden_size": 384, "intermediate_size": 256, "n": 4232}
    layer = small_case(kernel, scheme).layer
    return replace(layer, sizes={name: sizes.get(name, size) for name, size in layer.sizes.items()})


@every_scheme
def test_the_outline_of_a_layer_is_what_it_turns_out_to_be(kernel: Kernel, scheme: str):
    layer = odd_layer(kernel, scheme)
    weights, receipt = generate_weights(layer, 0, CPU, "host")
    outline, _ = outline_weights(layer)
    assert all(tensor.is_meta for tensor in outline.values())
    assert {name: (tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in outline.items()} == {
        name: (tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in weights.items()
    }
    assert weights_footprint(layer).size_bytes == receipt.size_bytes


@every_scheme
def test_a_layer_of_hundreds_of_experts_is_outlined_in_no_time(kernel: Kernel, scheme: str):
    layer = odd_layer(kernel, scheme, num_experts=384)
    weights_footprint(layer)  # torch imports what it does this with
    start = time.process_time()
    weights_footprint(layer)
    assert time.process_time() - start < 0.5


@every_scheme
def test_inputs_have_the_shapes_they_would_have_with_memory(kernel: Kernel, scheme: str):
    plain = small_case(kernel, scheme, num_tokens=70)
    cases = [Case(plain.layer, 70, {name: values[-1]}) for name, values in kernel.options.items()]
    for case in [plain, *cases, replace(plain, layer=replace(plain.layer, ep_size=2))]:
        weights, inputs = small_inputs(kernel, case)
        with Unallocated():
            shadows = kernel.make_inputs(case, weights, 0, CPU)
        assert all(tensor.is_meta for tensor in shadows.values())
        assert {name: (tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in shadows.items()} == {
            name: (tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in inputs.items()
        }


def test_the_peak_is_what_is_alive_at_once():
    kernel = kernels()["fused_moe"]
    layer = odd_layer(kernel, "unquantized")
    sizes = layer.sizes
    w1, w2 = 2 * sizes["intermediate_size"] * sizes["hidden_size"], sizes["intermediate_size"] * sizes["hidden_size"]
    footprint = weights_footprint(layer)
    assert footprint.size_bytes == 2 * 5 * (w1 + w2)
    # w1's float32 draw and its scaled copy, while w2's scaled copy and its 16 bits wait to be replaced
    assert footprint.peak_bytes == footprint.size_bytes + 8 * w1 + 6 * w2


def test_the_peak_of_a_large_linear_layer_is_that_of_some_of_its_rows():
    kernel = kernels()["mxfp4_gemm"]
    layer = replace(small_case(kernel, "mxfp4_w4a16").layer, sizes={"n": 2**17, "k": 2**14})
    footprint = weights_footprint(layer)
    assert footprint.size_bytes == 2**31 // 2 + 2**31 // 32
    assert footprint.size_bytes < footprint.peak_bytes < footprint.size_bytes + 2**31


def test_what_is_freed_is_no_longer_counted():
    with Unallocated() as counted:
        first = torch.ones(1024)
        view = first[3:].view(torch.int32)
        del first
        assert counted.live_bytes == 4096
        del view
        assert counted.live_bytes == 0
        torch.zeros(2**50, dtype=torch.uint8)
    assert counted.peak_bytes == 2**50


def test_values_cannot_be_asked_for():
    with Unallocated(), pytest.raises(RuntimeError, match="meta"):
        torch.ones(1).item()


def test_a_view_is_as_aligned_as_it_would_be_in_memory():
    with Unallocated():
        x = torch.empty(64, dtype=torch.bfloat16)
        assert [x.data_ptr() % 16, x[3:].data_ptr() % 16, x[8:].data_ptr() % 16] == [0, 6, 0]


def test_nothing_without_memory_is_left_behind():
    e2m1_table.cache_clear()
    kernel = kernels()["nvfp4_moe"]
    case = small_case(kernel, "nvfp4_w4a4")
    with Unallocated():
        weights, inputs = small_inputs(kernel, case)
        kernel.providers["torch"].prepare(case, weights, inputs)
    assert not e2m1_table(CPU).is_meta
    assert not torch.ones(1).is_meta


def test_an_operator_that_writes_into_its_arguments_has_nothing_to_write_into():
    library = torch.library.Library("footprint_test", "DEF")
    library.define("fill(Tensor(a!) out, Tensor x) -> ()")
    library.define("make(Tensor x) -> Tensor")
    with Unallocated():
        out, x = torch.empty(3), torch.empty(3)
        torch.ops.footprint_test.fill(out, x)
        with pytest.raises(NotImplementedError):
            torch.ops.footprint_test.make(x)


def test_vllms_operators_run_the_python_that_launches_their_kernels():
    seen = []

    def launch(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.empty(x.shape[0], 2, device=x.device)

    library = torch.library.Library("vllm", "FRAGMENT")
    library.define("footprint_test(Tensor x) -> Tensor")
    library.impl("footprint_test", launch, "CUDA")
    library._register_fake("footprint_test", lambda x: torch.empty_like(x))
    with Unallocated() as counted:
        result = torch.ops.vllm.footprint_test(torch.empty(3))
    assert [tensor.is_meta for tensor in seen] == [True]
    assert (result.is_meta, result.shape) == (True, (3, 2))
    assert counted.live_bytes == 3 * 4 + 6 * 4
