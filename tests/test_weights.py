"""Weights come from a seed, and the receipt proves which."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.errors import OutOfMemoryError
from kernels.footprint import weights_footprint
from kernels.registry import kernels
from kernels.spec import Layer
from tasks.bench import Bench
from tasks.weights import free_memory, generate_weights, hash_tensors, require_memory

CPU = torch.device("cpu")
SIZES = {"num_experts": 4, "top_k": 2, "hidden_size": 256, "intermediate_size": 256, "n": 128, "k": 256}
NAMES = sorted(kernels())


def make_layer(kernel: str, scheme: str = "") -> Layer:
    declared = kernels()[kernel]
    sizes = {name: SIZES[name] for name in declared.size_names}
    return Layer(kernel, "grid", 1, 1, scheme or declared.schemes[0], "bfloat16", sizes)


@pytest.mark.parametrize("scheme", kernels()["fused_moe"].schemes)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(scheme: str) -> None:
    layer = make_layer("fused_moe", scheme)
    (_, first), (_, again), (_, other) = (generate_weights(layer, seed, CPU, "host") for seed in (7, 7, 8))
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256
    assert (first.seed, other.seed) == (7, 8)


def test_another_shape_gives_other_bytes() -> None:
    layer = make_layer("fused_moe")
    wide = Layer("fused_moe", "grid", 1, 1, layer.scheme, "bfloat16", {**layer.sizes, "intermediate_size": 512})
    assert generate_weights(layer, 7, CPU, "h")[1].sha256 != generate_weights(wide, 7, CPU, "h")[1].sha256


def test_the_receipt_says_what_was_generated() -> None:
    layer = make_layer("fused_moe")
    weights, receipt = generate_weights(layer, 7, CPU, "host")
    assert receipt.layer_key == layer.key
    assert receipt.host_id == "host"
    assert receipt.size_bytes == sum(tensor.nbytes for tensor in weights.values()) > 0
    assert receipt.seconds > 0
    assert receipt.sha256 == hash_tensors(weights)
    assert len(receipt.sha256) == 64


def test_a_layer_without_weights_has_an_empty_receipt() -> None:
    weights, receipt = generate_weights(make_layer("silu_mul_fp8"), 7, CPU, "host")
    assert (weights, receipt.sha256, receipt.size_bytes) == ({}, "", 0)


@pytest.mark.parametrize("kernel", NAMES)
def test_generating_weights_leaves_torchs_own_random_numbers_alone(kernel: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    generate_weights(make_layer(kernel), 7, CPU, "host")
    assert torch.equal(torch.rand(4), expected)


def test_the_hash_covers_names_dtypes_shapes_and_values() -> None:
    zeros = torch.zeros(4, dtype=torch.int32)
    hashes = [
        hash_tensors({"w": zeros}),
        hash_tensors({"v": zeros}),
        hash_tensors({"w": zeros.view(torch.float32)}),
        hash_tensors({"w": zeros.view(2, 2)}),
        hash_tensors({"w": torch.tensor([0, 0, 0, 1], dtype=torch.int32)}),
        hash_tensors({"w": zeros, "v": zeros}),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_covers_every_piece_and_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.weights.PIECE_BYTES", 16)
    numbers = torch.arange(50, dtype=torch.int16)
    assert hash_tensors({"w": numbers}) == hash_tensors({"w": numbers.clone()})
    hashes = [hash_tensors({"w": numbers.roll(by)}) for by in (0, 8, 16)]
    hashes += [hash_tensors({"w": numbers.clone().index_fill_(0, torch.tensor(place), 99)}) for place in range(50)]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_ignores_the_order_of_names_and_the_layout_in_memory() -> None:
    one, two = torch.arange(6).view(2, 3), torch.ones(2)
    assert hash_tensors({"a": one, "b": two}) == hash_tensors({"b": two, "a": one})
    assert hash_tensors({"a": one}) == hash_tensors({"a": one.t().contiguous().t()})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.uint8, torch.float32])
def test_every_dtype_of_weights_can_be_hashed(dtype: torch.dtype) -> None:
    assert len(hash_tensors({"w": torch.ones(3, 5).to(dtype)})) == 64
    assert len(hash_tensors({"scalar": torch.tensor(1.0).to(dtype)})) == 64


def huge_layer() -> Layer:
    """12 PiB in FP8."""
    sizes = {"num_experts": 256, "top_k": 8, "hidden_size": 2**22, "intermediate_size": 2**22}
    return replace(make_layer("fused_moe"), sizes=sizes)


def test_weights_that_do_not_fit_are_refused_before_they_are_made() -> None:
    with pytest.raises(OutOfMemoryError) as refused:
        generate_weights(huge_layer(), 7, CPU, "host")
    layer, numbers = re.escape(huge_layer().key), re.findall(r"([\d.]+) GiB", str(refused.value))
    assert re.fullmatch(
        rf"the weights of {layer} are .* are made, .* are free on cpu: use a larger .*", str(refused.value)
    )
    size, peak, free = map(float, numbers)
    assert free < 2**20 < 12 * 2**20 <= size < peak < 1.05 * size


def test_workers_know_the_refusal_as_out_of_memory() -> None:
    with pytest.raises(OutOfMemoryError) as refused:
        Bench("cpu").load_layer(huge_layer(), 7)
    assert type(refused.value).__name__ == torch.OutOfMemoryError.__name__


def test_what_is_free_on_a_cpu_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24677352 kB\nMemAvailable:   12000000 kB\nHugePages_Total:       0\n")
    assert free_memory(CPU, meminfo) == 12_000_000 * 1024
    assert 0 < free_memory(CPU) < 2**50


@pytest.mark.gpu
def test_what_is_free_on_a_gpu_shrinks_by_what_is_taken() -> None:
    device = torch.device("cuda", 0)
    before = free_memory(device)
    taken = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert before - free_memory(device) == pytest.approx(taken.nbytes, rel=0.1)
    with pytest.raises(OutOfMemoryError, match="free on cuda:0"):
        require_memory(huge_layer(), device)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", ["fp8_w8a8", "unquantized", "int8_w8a8"])
def test_making_weights_takes_at_least_what_was_foreseen_and_little_more(scheme: str) -> None:
    device, layer = torch.device("cuda", 0), replace(make_layer("fused_moe", scheme))
    layer = replace(layer, sizes={**layer.sizes, "hidden_size": 4096, "intermediate_size": 2048})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    generate_weights(layer, 7, device, "host")
    taken, foreseen = torch.cuda.max_memory_allocated(device) - before, weights_footprint(layer).peak_bytes
    assert foreseen <= taken * 1.001
    assert taken <= 1.2 * foreseen + 2**24
