"""What the device of this machine does at best, measured, and which rates other devices would get."""

import time

import pytest
import torch

from kernels.ceilings import (
    CPU_GEMM_SIZE,
    GPU_REFERENCE_COPY_BYTES,
    GPU_REFERENCE_GEMM_SIZE,
    fill_matrices,
    measure_ceilings,
    prepare_copy,
    prepare_float8,
    prepare_gemms,
    prepare_int8,
    prepare_references,
)
from kernels.rates import COPY, gemm_name
from kernels.spec import Device

CPU = torch.device("cpu")


def test_a_cpu_has_a_copy_rate_and_two_gemm_rates_in_little_time() -> None:
    start = time.process_time()
    rates = measure_ceilings(CPU)
    assert time.process_time() - start < 5
    assert [(rate.name, rate.unit) for rate in rates] == [
        (COPY, "GB/s"),
        ("bfloat16 gemm", "TFLOP/s"),
        ("float32 gemm", "TFLOP/s"),
    ]
    assert 0.1 < rates[0].value < 10_000
    assert all(1e-4 < rate.value < 100 for rate in rates[1:])


def test_the_rate_is_what_one_multiplication_by_hand_takes() -> None:
    """Within the factor ten that a busy machine may cost."""
    a, b = fill_matrices(CPU_GEMM_SIZE, CPU)
    torch.mm(a, b)
    start = time.perf_counter()
    torch.mm(a, b)
    by_hand = 2 * CPU_GEMM_SIZE**3 / (time.perf_counter() - start) / 1e12
    rates = {rate.name: rate.value for rate in measure_ceilings(CPU)}
    assert by_hand / 10 < rates[gemm_name("float32")] < by_hand * 10


@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [
        ((7, 5), []),
        ((8, 0), ["bfloat16", "int8"]),
        ((8, 9), ["bfloat16", "float8_e4m3fn", "int8"]),
        ((9, 0), ["bfloat16", "float8_e4m3fn", "int8"]),
        ((10, 0), ["bfloat16", "float8_e4m3fn", "int8"]),
    ],
)
def test_a_gpu_has_a_rate_only_for_dtypes_that_it_multiplies(capability: tuple[int, int], dtypes: list[str]) -> None:
    assert list(prepare_gemms(Device("cuda", "a GPU", capability))) == dtypes


def test_the_copy_reads_every_byte_of_one_buffer_and_writes_as_many_of_another() -> None:
    copy = prepare_copy(1 << 12, CPU)
    target = copy()
    assert isinstance(target, torch.Tensor)
    assert target.nbytes == 1 << 12
    assert (target == -1).all()  # zeros inverted; they were ones
    again = copy()
    assert isinstance(again, torch.Tensor)
    assert again.data_ptr() == target.data_ptr()


def test_the_float8_gemm_multiplies_its_matrices() -> None:
    a, b = (matrix.to(torch.float8_e4m3fn).float() for matrix in fill_matrices(64, CPU))
    product = prepare_float8(64, CPU)()
    assert isinstance(product, torch.Tensor)
    torch.testing.assert_close(product.float(), a @ b.t(), rtol=0.02, atol=0.1)


def test_the_int8_gemm_multiplies_its_matrices() -> None:
    a, b = (matrix.to(torch.int8).int() for matrix in fill_matrices(64, CPU))
    product = prepare_int8(64, CPU)()
    assert isinstance(product, torch.Tensor)
    assert torch.equal(product, a @ b.t())


def test_the_references_are_one_copy_and_one_gemm_named_as_their_rates() -> None:
    rates = {rate.name for rate in measure_ceilings(CPU)}
    references = prepare_references(CPU)
    assert list(references) == [COPY, gemm_name("float32")]
    assert set(references) <= rates
    for stopwatch in references.values():
        samples_us = stopwatch.take(3, lambda: None)
        assert len(samples_us) == 3
        assert 1 < min(samples_us) < 100_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_references_of_a_gpu_run_near_its_rates() -> None:
    device = torch.device("cuda", 0)
    rates = {rate.name: rate.value for rate in measure_ceilings(device)}
    references = prepare_references(device)
    best_us = {name: min(stopwatch.take(10, lambda: None)) for name, stopwatch in references.items()}
    assert 2 * GPU_REFERENCE_COPY_BYTES / best_us[COPY] / 1e3 > 0.7 * rates[COPY]
    gemm = gemm_name("bfloat16")
    assert 2 * GPU_REFERENCE_GEMM_SIZE**3 / best_us[gemm] / 1e6 > 0.7 * rates[gemm]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_is_measured_in_under_three_seconds() -> None:
    device = torch.device("cuda", 0)
    start = time.perf_counter()
    rates = {rate.name: rate.value for rate in measure_ceilings(device)}
    assert time.perf_counter() - start < 3
    assert rates[COPY] > 100
    assert rates["bfloat16 gemm"] > 10
