"""vLLM's providers of fused_moe without vLLM and without a GPU: names, lookups, arguments and reasons."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from kernels.errors import ConfigError, KernelError
from kernels.moe import vllm_deepgemm, vllm_triton
from kernels.moe.vllm_configs import config_file_name, read_config, shipped_folder, tuned_folder
from kernels.moe.vllm_fused import VLLM_PROVIDERS
from kernels.moe.vllm_schemes import VLLM_SCHEMES, block_shape_of, quant_config_arguments
from kernels.spec import Case, Device, Layer

CPU = Device("cpu", "a CPU")
A100 = Device("cuda", "NVIDIA A100-SXM4-80GB", (8, 0))
L40S = Device("cuda", "NVIDIA L40S", (8, 9))
H100 = Device("cuda", "NVIDIA H100 80GB HBM3", (9, 0))
H200 = Device("cuda", "NVIDIA H200", (9, 0))
B200 = Device("cuda", "NVIDIA B200", (10, 0))

NO_VLLM = "needs the vllm package, which is not installed"
STANDARD = ("vllm-triton-shipped", "vllm-triton-default", "vllm-triton-tuned", "vllm-cutlass")
CUTLASS_SCHEMES = ("fp8_w8a8", "fp8_w8a8_channel")
SCHEMES_OF = {
    **dict.fromkeys(("vllm-triton-shipped", "vllm-triton-default", "vllm-triton-tuned"), tuple(VLLM_SCHEMES)),
    "vllm-cutlass": CUTLASS_SCHEMES,
    "vllm-cutlass-batched": CUTLASS_SCHEMES,
    "vllm-deepgemm": ("fp8_w8a8_block128",),
}
"""By provider, the schemes that it multiplies."""
BATCHED = {"activation_format": "batched"}
ON_INPUT = {"apply_router_weight_on_input": "true"}


def case_of(
    scheme: str = "fp8_w8a8",
    num_tokens: int = 40,
    options: dict[str, str] | None = None,
    *,
    num_experts: int = 8,
    top_k: int = 2,
    n: int = 512,
    k: int = 1024,
    ep_size: int = 1,
) -> Case:
    sizes = {"num_experts": num_experts, "top_k": top_k, "hidden_size": k, "intermediate_size": n}
    return Case(Layer("fused_moe", "grid", 1, ep_size, scheme, "bfloat16", sizes), num_tokens, options or {})


@pytest.fixture
def vllm_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as looking for its folder goes."""
    monkeypatch.setattr(vllm_triton, "missing_vllm", lambda: None)


# Files that vLLM 0.26 and 0.32 ship.
@pytest.mark.parametrize(
    ("scheme", "num_experts", "n", "device", "name"),
    [
        ("unquantized", 8, 14336, "NVIDIA H200", "E=8,N=14336,device_name=NVIDIA_H200.json"),
        ("int8_w8a8", 64, 640, "NVIDIA H200", "E=64,N=640,device_name=NVIDIA_H200.json"),
        ("fp8_w8a8", 8, 7168, "NVIDIA H200", "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"),
        ("fp8_w8a8_channel", 160, 192, "NVIDIA H200 NVL", "E=160,N=192,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"),
        (
            "fp8_w8a8_block128",
            256,
            256,
            "NVIDIA H200",
            "E=256,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json",
        ),
        ("int8_w8a16", 16, 3072, "NVIDIA H200", "E=16,N=3072,device_name=NVIDIA_H200,dtype=int8_w8a16.json"),
        (
            "int8_w8a16_group128",
            16,
            1792,
            "NVIDIA H100 80GB HBM3",
            "E=16,N=1792,device_name=NVIDIA_H100_80GB_HBM3,dtype=int8_w8a16.json",
        ),
    ],
)
def test_a_file_is_named_as_vllm_names_it(scheme: str, num_experts: int, n: int, device: str, name: str):
    assert config_file_name(case_of(scheme, num_experts=num_experts, n=n), device) == name


def test_a_file_is_named_after_the_experts_of_one_rank():
    alone, parallel = case_of(), case_of(ep_size=4)
    assert config_file_name(alone, H200.name) == config_file_name(parallel, H200.name)


def entry_of(block_size_m: int) -> dict[str, int]:
    """An entry that vLLM's kernel can launch."""
    return {"BLOCK_SIZE_M": block_size_m, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1}


def test_the_entry_of_the_nearest_batch_size_counts(tmp_path: Path):
    name = "E=8,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
    few, some, many = entry_of(16), entry_of(64), entry_of(128)
    (tmp_path / name).write_text(json.dumps({"triton_version": "3.6.0", "1": few, "64": some, "96": many}))
    assert read_config(tmp_path, case_of(num_tokens=40), H200.name) == (f"{name}, batch size 64", some)
    assert read_config(tmp_path, case_of(num_tokens=32), H200.name) == (f"{name}, batch size 1", few)
    assert read_config(tmp_path, case_of(num_tokens=80), H200.name) == (f"{name}, batch size 64", some)
    assert read_config(tmp_path, case_of(num_tokens=9999), H200.name) == (f"{name}, batch size 96", many)
    assert read_config(tmp_path, case_of(n=256), H200.name) is None
    assert read_config(None, case_of(), H200.name) is None
    (tmp_path / name).write_text(json.dumps({"96": many, "64": some}))
    assert read_config(tmp_path, case_of(num_tokens=80), H200.name) == (f"{name}, batch size 96", many)


@pytest.mark.usefixtures("vllm_is_there")
def test_a_broken_file_is_a_reason_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    path = tmp_path / "E=8,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
    tuned = VLLM_PROVIDERS["vllm-triton-tuned"]
    path.write_text("{")
    reason = tuned.unsupported(case_of(), H200)
    assert reason
    assert reason.startswith(f"{path}: Expecting property name")
    assert reason.endswith("(must be JSON in UTF-8): correct it or remove the file")
    path.write_text(json.dumps({"1": entry_of(16), "64": entry_of(48)}))
    assert tuned.unsupported(case_of(num_tokens=1), H200) is None
    assert tuned.unsupported(case_of(num_tokens=4096), H200) == (
        f"{path}, batch size 64: BLOCK_SIZE_M=48 (must be a power of two from 1): correct it or remove the file"
    )
    with pytest.raises(ConfigError, match="BLOCK_SIZE_M=48"):
        read_config(tmp_path, case_of(num_tokens=4096), H200.name)


def test_without_vllm_nothing_is_shipped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert shipped_folder() is None


@pytest.mark.usefixtures("vllm_is_there")
def test_a_shape_without_a_shipped_configuration_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm_triton, "shipped_folder", lambda: tmp_path)
    unsupported = VLLM_PROVIDERS["vllm-triton-shipped"].unsupported
    name = "E=8,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    case = case_of("fp8_w8a8_block128")
    assert unsupported(case, H200) == f"vLLM ships no {name}"
    (tmp_path / name).write_text(json.dumps({"64": entry_of(64)}))
    assert unsupported(case, H200) is None


@pytest.mark.usefixtures("vllm_is_there")
def test_a_tuned_configuration_comes_from_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    unsupported = VLLM_PROVIDERS["vllm-triton-tuned"].unsupported
    name = "E=8,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    assert tuned_folder() is None
    assert unsupported(case_of(), H200) == f"VLLM_TUNED_CONFIG_FOLDER is not set: no {name}"
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    assert unsupported(case_of(), H200) == f"VLLM_TUNED_CONFIG_FOLDER {tmp_path} has no {name}"
    (tmp_path / name).write_text(json.dumps({"64": entry_of(64)}))
    assert tuned_folder() == tmp_path
    assert unsupported(case_of(), H200) is None
    assert unsupported(case_of(n=256), H200) is not None


def test_preparing_a_configuration_that_is_not_there_says_what_to_ask(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    with pytest.raises(KernelError, match=r"has no E=8,N=512,.*: ask `unsupported` before preparing"):
        VLLM_PROVIDERS["vllm-triton-tuned"].prepare(case_of(), {}, {"hidden_states": torch.empty(1)})


@pytest.mark.usefixtures("vllm_is_there")
def test_a_configuration_for_groups_must_have_what_vllms_kernel_for_groups_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As vLLM ships it for INT8 weights: without SPLIT_K, which only its other kernel fills in.
    name = "E=16,N=3072,device_name=NVIDIA_H200,dtype=int8_w8a16.json"
    shipped = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1, "num_warps": 4}
    (tmp_path / name).write_text(json.dumps({"1": shipped}))
    monkeypatch.setattr(vllm_triton, "shipped_folder", lambda: tmp_path)
    unsupported = VLLM_PROVIDERS["vllm-triton-shipped"].unsupported
    sizes = {"num_experts": 16, "n": 3072}
    assert unsupported(case_of("int8_w8a16", **sizes), H200) is None
    reason = unsupported(case_of("int8_w8a16_group128", **sizes), H200)
    assert reason == f"vLLM's kernel for groups needs SPLIT_K, which is not in {name}, batch size 1"


GIVEN = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4}
NOTES = {"source": "vLLM configs/a file", "VLLM_USE_DEEP_GEMM_E8M0": 0}


def test_a_given_configuration_is_what_was_recorded_without_the_notes_on_it():
    assert vllm_triton.read_given(case_of(), GIVEN | NOTES) == (GIVEN, "vLLM configs/a file")
    assert vllm_triton.read_given(case_of(), GIVEN) == (GIVEN, "given")
    grouped = {"BLOCK_SIZE_M": 16, "GROUP_SIZE_M": 1, "SPLIT_K": 1}  # as vLLM's heuristic has it
    assert vllm_triton.read_given(case_of("int8_w8a16_group128"), grouped) == (grouped, "given")


@pytest.mark.parametrize(
    ("scheme", "given", "reason"),
    [
        ("fp8_w8a8", GIVEN | {"kpack": 2}, r"^fused_moe takes no kpack in a launch configuration: it has BLOCK_SIZE_M"),
        ("fp8_w8a8", {"BLOCK_SIZE_M": 16}, r"^fused_moe needs BLOCK_SIZE_N in a launch configuration: this has BLOCK"),
        ("int8_w8a16_group128", GIVEN, r"^fused_moe needs SPLIT_K in a launch configuration"),
        ("fp8_w8a8", GIVEN | {"num_warps": "4"}, r"^fused_moe takes num_warps as int \(this is '4'\)$"),
        ("fp8_w8a8", GIVEN | {"VLLM_USE_DEEP_GEMM_E8M0": 1}, r"^VLLM_USE_DEEP_GEMM_E8M0=1: only 0 is what we compare$"),
    ],
)
def test_a_given_configuration_that_vllm_would_not_take_says_why(scheme: str, given: dict[str, object], reason: str):
    with pytest.raises(ConfigError, match=reason):
        vllm_triton.read_given(case_of(scheme), given)


def test_every_scheme_of_the_kernel_has_vllms_words():
    from kernels.fused_moe import KERNEL

    assert set(KERNEL.schemes) <= set(VLLM_SCHEMES)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("fp8_w8a8", {"a1_scale": "a1", "a2_scale": "a2"}),
        ("fp8_w8a8_block128", {"a1_scale": None, "a2_scale": None, "block_shape": [128, 128]}),
        (
            "fp8_w8a8_channel",
            {"a1_scale": None, "a2_scale": None, "per_act_token_quant": True, "per_out_ch_quant": True},
        ),
        ("int8_w8a16", {}),
        ("int8_w8a16_group128", {"block_shape": [0, 128]}),
        ("int8_w8a8", {"a1_scale": None, "a2_scale": None, "per_act_token_quant": True}),
    ],
)
def test_a_scheme_maps_to_the_arguments_of_its_quant_config(scheme: str, expected: dict[str, object]):
    weights = {"w1_scale": "s1", "w2_scale": "s2"} | (
        {"a1_scale": "a1", "a2_scale": "a2"} if scheme == "fp8_w8a8" else {}
    )
    assert quant_config_arguments(scheme, weights) == {"w1_scale": "s1", "w2_scale": "s2", **expected}


def test_block_shapes_are_lists_as_vllm_compares_them():
    assert block_shape_of("fp8_w8a8_block128") == [128, 128]
    assert block_shape_of("int8_w8a16_group128") == [0, 128]
    assert block_shape_of("unquantized") is None


def test_only_the_kernel_for_groups_takes_unsigned_codes():
    codes = torch.tensor([-127, -1, 0, 1, 127], dtype=torch.int8)
    unsigned = vllm_triton.weights_for_triton(case_of("int8_w8a16_group128"), codes)
    assert unsigned.dtype == torch.uint8
    assert torch.equal(unsigned.int() - 128, codes.int())
    assert vllm_triton.weights_for_triton(case_of("int8_w8a16"), codes) is codes


@pytest.mark.parametrize("provider", VLLM_PROVIDERS)
@pytest.mark.parametrize("scheme", VLLM_SCHEMES)
def test_a_provider_names_another_scheme_first_and_then_wants_a_gpu_and_vllm(
    provider: str, scheme: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    case = case_of(scheme, options=BATCHED if provider == "vllm-cutlass-batched" else {})
    reasons = [VLLM_PROVIDERS[provider].unsupported(case, device) for device in (CPU, H200)]
    if scheme in SCHEMES_OF[provider]:
        assert reasons == ["needs a CUDA GPU (this is cpu)", NO_VLLM]
    else:
        assert reasons == [f"takes {' or '.join(SCHEMES_OF[provider])} (this is {scheme})"] * 2


@pytest.mark.parametrize("scheme", VLLM_SCHEMES)
def test_triton_needs_the_tensor_cores_of_the_scheme(scheme: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    reason = VLLM_PROVIDERS["vllm-triton-default"].unsupported(case_of(scheme), A100)
    assert reason == ("needs sm_89 (this is sm_80)" if scheme.startswith("fp8") else NO_VLLM)


def test_grouped_gemms_start_with_hopper_and_deepgemm_ends_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for provider, because in (("vllm-cutlass", ""), ("vllm-deepgemm", ", where DeepGEMM's scales are float32")):
        case = case_of(SCHEMES_OF[provider][0])
        assert VLLM_PROVIDERS[provider].unsupported(case, L40S) == f"needs sm_90{because} (this is sm_89)"
    reason = VLLM_PROVIDERS["vllm-deepgemm"].unsupported(case_of("fp8_w8a8_block128"), B200)
    assert reason == "needs sm_90, where DeepGEMM's scales are float32 (this is sm_100)"
    assert VLLM_PROVIDERS["vllm-cutlass"].unsupported(case_of(), B200) == NO_VLLM


def test_a_provider_takes_one_activation_format(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for provider in STANDARD:
        reason = VLLM_PROVIDERS[provider].unsupported(case_of(options=BATCHED), H200)
        assert reason == "takes standard activations (this is batched)"
    batched = VLLM_PROVIDERS["vllm-cutlass-batched"].unsupported
    assert batched(case_of(), H200) == "takes batched activations (this is standard)"
    assert batched(case_of(options=BATCHED | ON_INPUT), H200) == NO_VLLM


def test_deepgemm_takes_both_formats(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for options in ({}, BATCHED):
        case = case_of("fp8_w8a8_block128", options=options)
        assert VLLM_PROVIDERS["vllm-deepgemm"].unsupported(case, H200) == NO_VLLM


def test_weighting_the_input_of_several_experts_is_refused_in_vllms_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for provider in ("vllm-cutlass", "vllm-deepgemm"):
        unsupported, scheme = VLLM_PROVIDERS[provider].unsupported, SCHEMES_OF[provider][0]
        reason = unsupported(case_of(scheme, options=ON_INPUT), H200)
        assert reason == "vLLM: apply_router_weight_on_input is only implemented for topk=1 (this is 2)"
        assert unsupported(case_of(scheme, options=ON_INPUT, top_k=1), H200) == NO_VLLM


@pytest.mark.parametrize("scheme", VLLM_SCHEMES)
def test_triton_weights_the_input_where_rounding_follows_the_weight(scheme: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    reason = VLLM_PROVIDERS["vllm-triton-default"].unsupported(case_of(scheme, options=ON_INPUT), H200)
    static = "vLLM's fused_experts weights the first GEMM's result, not what the static scale of fp8_w8a8 rounds"
    assert reason == (static if scheme == "fp8_w8a8" else NO_VLLM)


def test_cutlass_wants_rows_of_16_bytes():
    reason = VLLM_PROVIDERS["vllm-cutlass"].unsupported(case_of(n=520), H200)
    assert reason == "needs intermediate_size divisible by 16 (this is 520)"


def test_deepgemm_looks_for_nvcc_where_cuda_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm_deepgemm.shutil, "which", lambda _: None)
    monkeypatch.setattr(Path, "is_file", lambda path: str(path).startswith(str(tmp_path)))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert vllm_deepgemm.missing_nvcc() == (
        "needs nvcc, with which DeepGEMM compiles its kernels: install CUDA's and set CUDA_HOME"
    )
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert vllm_deepgemm.missing_nvcc() is None


def test_the_configurations_of_the_h200_family_are_one(tmp_path: Path):
    (tmp_path / config_file_name(case_of(), "NVIDIA H200")).write_text(json.dumps({"1": entry_of(16)}))
    assert read_config(tmp_path, case_of(), "NVIDIA H200 NVL") == read_config(tmp_path, case_of(), H200.name)
    assert read_config(tmp_path, case_of(), H100.name) is None
