"""What vLLM's MXFP4 linear providers say of cases, devices and installations that they cannot run."""

import sys
from types import ModuleType

import pytest
import torch

from kernels.gemm import mxfp4_vllm
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES, W4A16
from kernels.requirements import NO_VLLM
from kernels.spec import Case, Device, Layer

CPU = Device("cpu", "cpu: test")
H200 = Device("cuda", "NVIDIA H200", (9, 0))
B200 = Device("cuda", "NVIDIA B200", (10, 0))
RTX_5090 = Device("cuda", "NVIDIA GeForce RTX 5090", (12, 0))
every_w4a4 = pytest.mark.parametrize("scheme", HADAMARD_SIZES)


def case_of(
    scheme: str, activations: str = "prequantized", n: int = 128, k: int = 256, dtype: str = "bfloat16"
) -> Case:
    layer = Layer("mxfp4_gemm", "grid", 1, 1, scheme, dtype, {"n": n, "k": k})
    return Case(layer, 4, {} if activations == "dynamic" else {"activations": activations})


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


@every_w4a4
@pytest.mark.usefixtures("no_vllm")
def test_marlin_takes_quantized_activations_only_as_16_bit_values_that_were_made_before(scheme):
    for device in (CPU, H200):
        assert mxfp4_vllm.unsupported_marlin(case_of(scheme, "dynamic"), device) == (
            f"computes 16-bit activations, {scheme} quantizes them inside; see activations=prequantized"
        )
    assert mxfp4_vllm.unsupported_marlin(case_of(scheme), H200) == NO_VLLM
    assert mxfp4_vllm.unsupported_marlin(case_of(W4A16, "dynamic"), H200) == NO_VLLM
    assert mxfp4_vllm.unsupported_marlin(case_of(scheme), CPU) == "needs a CUDA GPU (this is cpu)"


@every_w4a4
@pytest.mark.usefixtures("no_vllm")
def test_qutlass_wants_blackwell_and_names_what_it_got(scheme):
    assert mxfp4_vllm.unsupported_qutlass(case_of(scheme), H200) == "needs sm_100 or sm_120 (this is sm_90)"
    assert mxfp4_vllm.unsupported_qutlass(case_of(scheme), B200) == NO_VLLM
    assert mxfp4_vllm.unsupported_qutlass(case_of(scheme), RTX_5090) == NO_VLLM


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (case_of(W4A16, "dynamic"), "multiplies MXFP4 activations, mxfp4_w4a16 leaves them in 16 bits"),
        (
            case_of("mxfp4_w4a4_hadamard32", "dynamic"),
            "rounds activations to 3 x / 2**floor(log2(max|x|)), not to MXFP4; see activations=prequantized",
        ),
        (case_of("mxfp4_w4a4_hadamard64", dtype="float16"), "its output is bfloat16 (this is float16)"),
        (case_of("mxfp4_w4a4_hadamard32", k=160), "needs k to be a multiple of 128 (this is 160)"),
        (case_of("mxfp4_w4a4_hadamard32", n=100), "needs n to be a multiple of 8 (this is 100)"),
    ],
)
@pytest.mark.usefixtures("no_vllm")
def test_qutlass_refuses_what_it_does_not_compute_before_the_device_and_the_package(case, reason):
    assert [mxfp4_vllm.unsupported_qutlass(case, device) for device in (CPU, H200, B200)] == [reason] * 3


def test_a_vllm_built_without_qutlass_is_asked_and_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mxfp4_vllm, "missing_vllm", lambda: None)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm._custom_ops", ModuleType("vllm._custom_ops"))
    assert mxfp4_vllm.unsupported_qutlass(case_of("mxfp4_w4a4_hadamard32"), B200) == (
        "needs matmul_mxf4_bf16_tn, which this build of vllm lacks (torch.ops._qutlass_C)"
    )
    with torch.library._scoped_library("_qutlass_C", "DEF") as library:
        library.define("matmul_mxf4_bf16_tn(Tensor a, Tensor b, Tensor a_sf, Tensor b_sf, Tensor alpha) -> Tensor")
        assert mxfp4_vllm.unsupported_qutlass(case_of("mxfp4_w4a4_hadamard32"), B200) is None


def test_the_layer_marlin_repacks_leaves_the_weights_as_they_are():
    case = case_of(W4A16, "dynamic")
    weights = {name: torch.ones(128, k, dtype=torch.uint8) for name, k in (("w", 128), ("w_scale", 8))}
    layer = mxfp4_vllm.MarlinLayer(case, weights)
    assert (layer.output_size_per_partition, layer.input_size_per_partition) == (128, 256)
    assert layer.params_dtype == torch.bfloat16
    assert not hasattr(layer, "weight_global_scale")  # by which vLLM tells NVFP4 from MXFP4
    layer.weight = torch.nn.Parameter(torch.zeros(8), requires_grad=False)
    assert (weights["w"] == 1).all()
