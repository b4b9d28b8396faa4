"""vLLM's 4-bit MoE providers: what they say that they cannot do, and how weights are made to fit; none needs vLLM."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.moe.vllm_marlin import pad_w1, pad_w2, padded_intermediate_size
from kernels.moe.vllm_w4 import MXFP4_VLLM_PROVIDERS, NVFP4_VLLM_PROVIDERS, W4A8_VLLM_PROVIDERS
from kernels.quantize.fp4 import dequantize_mxfp4, quantize_mxfp4
from kernels.requirements import NO_VLLM
from kernels.spec import Case, Device, Layer, Provider

CPU = Device("cpu", "cpu: test")
T4 = Device("cuda", "NVIDIA T4", (7, 5))
A100 = Device("cuda", "NVIDIA A100", (8, 0))
H200 = Device("cuda", "NVIDIA H200", (9, 0))
B200 = Device("cuda", "NVIDIA B200", (10, 0))
RTX_5090 = Device("cuda", "NVIDIA GeForce RTX 5090", (12, 0))

W4A8 = W4A8_VLLM_PROVIDERS["vllm-cutlass"]
NVFP4_MARLIN, NVFP4_CUTLASS = NVFP4_VLLM_PROVIDERS["vllm-marlin"], NVFP4_VLLM_PROVIDERS["vllm-cutlass"]
MXFP4_MARLIN, MXFP4_CUTLASS = MXFP4_VLLM_PROVIDERS["vllm-marlin"], MXFP4_VLLM_PROVIDERS["vllm-cutlass"]
MARLINS, FP4_CUTLASSES = (NVFP4_MARLIN, MXFP4_MARLIN), (NVFP4_CUTLASS, MXFP4_CUTLASS)

NEEDS_FP4 = "needs sm_100 or sm_110 or sm_120"


def layer_of(scheme: str, k: int = 512, n: int = 256, top_k: int = 2, dtype: str = "bfloat16") -> Layer:
    sizes = {"num_experts": 8, "top_k": top_k, "hidden_size": k, "intermediate_size": n}
    return Layer("moe", "grid", 1, 1, scheme, dtype, sizes)


def case_of(scheme: str, k: int = 512, n: int = 256, top_k: int = 2, dtype: str = "bfloat16", **options: str) -> Case:
    return Case(layer_of(scheme, k, n, top_k, dtype), 16, options)


def scheme_of(provider: Provider) -> str:
    """A scheme that the provider takes."""
    if provider is W4A8:
        return "int4_w4a8_fp8"
    name = "nvfp4" if provider in NVFP4_VLLM_PROVIDERS.values() else "mxfp4"
    return f"{name}_w4a16" if provider in MARLINS else f"{name}_w4a4"


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not found: what is asked here comes before the package."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


@pytest.mark.parametrize(
    ("provider", "device", "reason"),
    [
        (W4A8, A100, "needs sm_90, which the kernel is built for (this is sm_80)"),
        (W4A8, H200, NO_VLLM),
        (W4A8, B200, "needs sm_90, which the kernel is built for (this is sm_100)"),
        *((marlin, T4, "needs sm_80 (this is sm_75)") for marlin in MARLINS),
        *((marlin, device, NO_VLLM) for marlin in MARLINS for device in (A100, H200, B200)),
        *((cutlass, A100, f"{NEEDS_FP4} (this is sm_80)") for cutlass in FP4_CUTLASSES),
        *((cutlass, H200, f"{NEEDS_FP4} (this is sm_90)") for cutlass in FP4_CUTLASSES),
        *((cutlass, device, NO_VLLM) for cutlass in FP4_CUTLASSES for device in (B200, RTX_5090)),
    ],
)
def test_the_device_is_asked_before_the_package(no_vllm: None, provider: Provider, device: Device, reason: str) -> None:
    assert provider.unsupported(case_of(scheme_of(provider)), device) == reason
    assert provider.unsupported(case_of(scheme_of(provider)), CPU) == "needs a CUDA GPU (this is cpu)"


@pytest.mark.parametrize(
    ("provider", "scheme", "reason"),
    [
        (NVFP4_MARLIN, "nvfp4_w4a4", "computes 16-bit activations, nvfp4_w4a4 quantizes them"),
        (MXFP4_MARLIN, "mxfp4_w4a4", "computes 16-bit activations, mxfp4_w4a4 quantizes them"),
        (NVFP4_CUTLASS, "nvfp4_w4a16", "quantizes activations to 4 bits, nvfp4_w4a16 keeps 16"),
        (MXFP4_CUTLASS, "mxfp4_w4a16", "quantizes activations to 4 bits, mxfp4_w4a16 keeps 16"),
    ],
)
@pytest.mark.parametrize("device", [CPU, T4, H200, B200], ids=lambda device: device.arch)
def test_a_scheme_with_other_activations_is_refused_before_the_device_and_the_package(
    no_vllm: None, provider: Provider, device: Device, scheme: str, reason: str
) -> None:
    assert provider.unsupported(case_of(scheme), device) == reason


@pytest.mark.parametrize(("provider", "device"), [(W4A8, H200), (NVFP4_CUTLASS, B200), (MXFP4_CUTLASS, B200)])
def test_cutlass_takes_no_batched_activations(no_vllm: None, provider: Provider, device: Device) -> None:
    case = case_of(scheme_of(provider), activation_format="batched")
    assert provider.unsupported(case, device) == "takes standard activations (this is batched)"


@pytest.mark.parametrize(
    ("provider", "device"), [(W4A8, H200), *((marlin, H200) for marlin in MARLINS), (NVFP4_CUTLASS, B200)]
)
def test_only_the_input_of_one_expert_a_token_is_weighted(no_vllm: None, provider: Provider, device: Device) -> None:
    case = case_of(scheme_of(provider), top_k=2, apply_router_weight_on_input="true")
    reason = provider.unsupported(case, device)
    assert reason == "vLLM: apply_router_weight_on_input is only implemented for topk=1 (this is 2)"


@pytest.mark.parametrize("provider", FP4_CUTLASSES)
def test_cutlass_would_weight_the_input_twice(no_vllm: None, provider: Provider) -> None:
    case = case_of(scheme_of(provider), top_k=1, apply_router_weight_on_input="true")
    reason = provider.unsupported(case, B200)
    assert reason == "vLLM weights the input twice, in its prepare step and in these experts"


@pytest.mark.parametrize(
    ("provider", "device", "k", "n", "reason"),
    [
        (W4A8, H200, 512, 384, "needs intermediate_size divisible by 256 (this is 384)"),
        (W4A8, H200, 640, 384, "needs hidden_size divisible by 256 (this is 640)"),
        *((marlin, H200, 544, 256, "needs hidden_size divisible by 64 (this is 544)") for marlin in MARLINS),
        (NVFP4_CUTLASS, B200, 2880, 256, "needs hidden_size divisible by 128 (this is 2880)"),
        (NVFP4_CUTLASS, B200, 512, 96, "needs intermediate_size divisible by 64 (this is 96)"),
        (MXFP4_CUTLASS, B200, 512, 192, "needs intermediate_size divisible by 128 (this is 192)"),
    ],
)
def test_sizes_that_do_not_fill_the_tiles_are_named(
    no_vllm: None, provider: Provider, device: Device, k: int, n: int, reason: str
) -> None:
    assert provider.unsupported(case_of(scheme_of(provider), k, n), device) == reason


def test_marlin_multiplies_e8m0_scales_with_bfloat16_only(no_vllm: None) -> None:
    reason = MXFP4_MARLIN.unsupported(case_of("mxfp4_w4a16", dtype="float16"), H200)
    assert reason == "needs bfloat16 activations (this is float16)"


def marlin_has_a_tile(rows: int, columns: int) -> bool:
    """vLLM, marlin_utils.marlin_padded_nk: tiles are 64 x 128 or 128 x 64 of rows x columns, and their multiples."""
    return (rows % 64 == 0 and columns % 128 == 0) or (rows % 128 == 0 and columns % 64 == 0)


@given(k=st.integers(1, 40).map(lambda tiles: 64 * tiles), n=st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_the_padded_intermediate_size_is_the_least_with_tiles_for_both_gemms(k: int, n: int) -> None:
    padded = next(
        m for m in range(n, n + 129) if m % 64 == 0 and marlin_has_a_tile(2 * m, k) and marlin_has_a_tile(k, m)
    )
    assert padded_intermediate_size(layer_of("mxfp4_w4a16", k, n)) == padded


@given(st.integers(0, 2**16), st.sampled_from([(64, 32, 64), (128, 96, 128), (64, 64, 64), (192, 160, 256)]))
@settings(max_examples=10, deadline=None)
def test_padding_adds_zeros_after_gate_and_up_and_leaves_the_values(seed: int, sizes: tuple[int, int, int]) -> None:
    k, n, padded_n = sizes
    generator = torch.Generator().manual_seed(seed)
    w1, w1_scale = quantize_mxfp4(torch.randn(3, 2 * n, k, generator=generator))
    w2, w2_scale = quantize_mxfp4(torch.randn(3, k, n, generator=generator))
    wide_w1 = dequantize_mxfp4(pad_w1(w1, padded_n), pad_w1(w1_scale, padded_n))
    wide_w2 = dequantize_mxfp4(pad_w2(w2, padded_n // 2), pad_w2(w2_scale, padded_n // 32))
    assert wide_w1.shape == (3, 2 * padded_n, k)
    assert wide_w2.shape == (3, k, padded_n)
    values_w1, values_w2 = dequantize_mxfp4(w1, w1_scale), dequantize_mxfp4(w2, w2_scale)
    for expert in range(3):
        for row in range(padded_n):
            gate = values_w1[expert, row] if row < n else torch.zeros(k)
            up = values_w1[expert, n + row] if row < n else torch.zeros(k)
            down = values_w2[expert, :, row] if row < n else torch.zeros(k)
            assert torch.equal(wide_w1[expert, row], gate)
            assert torch.equal(wide_w1[expert, padded_n + row], up)
            assert torch.equal(wide_w2[expert, :, row], down)
