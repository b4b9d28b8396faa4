"""The FP4 quantizers bit for bit against ml_dtypes and compressed-tensors, which know nothing of ours."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.errors import ShapeError
from kernels.quantize.fp4 import (
    E8M0_NAN,
    dequantize_mxfp4,
    e2m1_values,
    e8m0_values,
    nvfp4_global_scale,
    nvfp4_values,
    pack_nibbles,
    quantize_mxfp4,
    quantize_nvfp4,
    round_to_e2m1,
    unpack_nibbles,
)

ALL_BYTES = torch.arange(256, dtype=torch.uint8)
TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
EXTREMES = (0.0, 6.0, 7.0, 8.0, 100.0, math.inf, 2.0**-149, 2.0**-126, 0.2499999, 3.4e38)

ignore_compressed_tensors = pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # of its imports


def e2m1_codes_of_ml_dtypes(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_all_codes_have_the_values_of_ml_dtypes():
    codes = torch.arange(16, dtype=torch.uint8)
    expected = codes.numpy().view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert e2m1_values(codes).numpy().tobytes() == expected.tobytes()  # -0.0 too


def test_ties_their_neighbours_and_extremes_round_as_in_ml_dtypes():
    ties = np.array(TIES, np.float32)
    magnitudes = np.concatenate(
        [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(9)), np.array(EXTREMES, np.float32)]
    )
    x = np.concatenate([magnitudes, -magnitudes])
    assert (round_to_e2m1(torch.from_numpy(x)).numpy() == e2m1_codes_of_ml_dtypes(x)).all()


def test_every_bfloat16_rounds_as_in_ml_dtypes():
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    x = x[~x.isnan()]
    assert (round_to_e2m1(x).numpy() == e2m1_codes_of_ml_dtypes(x.numpy())).all()


def test_nan_has_no_code_of_its_own_and_becomes_zero():
    assert round_to_e2m1(torch.tensor([math.nan, -math.nan])).tolist() == [0, 0]


def test_every_byte_unpacks_low_nibble_first_and_packs_again():
    codes = unpack_nibbles(ALL_BYTES[:, None])
    assert codes.tolist() == [[byte & 15, byte >> 4] for byte in range(256)]
    assert torch.equal(pack_nibbles(codes)[:, 0], ALL_BYTES)


def test_every_e8m0_byte_has_the_value_of_ml_dtypes():
    expected = ALL_BYTES.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(e8m0_values(ALL_BYTES).numpy(), expected, equal_nan=True)


def test_every_e4m3_byte_is_a_scale_as_in_ml_dtypes():
    scales = ALL_BYTES.view(torch.float8_e4m3fn)[:, None]
    ones = torch.full((256, 8), 0x22, dtype=torch.uint8)
    expected = ALL_BYTES.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = nvfp4_values(ones, scales).numpy()
    assert np.array_equal(values, np.repeat(expected[:, None], 16, axis=1), equal_nan=True)


def mxfp4_of_ml_dtypes(group: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes and scale of a group by the definition: the exponent by way of math.frexp, in double precision."""
    amax = float(np.abs(group).max())
    scale = 0 if amax == 0 else min(max(math.frexp(amax)[1] - 1 - 2 + 127, 0), 254)
    return e2m1_codes_of_ml_dtypes((group.astype(np.float64) / 2.0 ** (scale - 127)).astype(np.float32)), scale


@settings(max_examples=60, deadline=None)
@given(exponent=st.integers(-149, 126), spread=st.integers(0, 12), seed=st.integers(0, 9999))
def test_mxfp4_groups_are_quantized_as_by_the_definition(exponent: int, spread: int, seed: int):
    rng = np.random.default_rng(seed)
    group = np.ldexp(rng.uniform(-2, 2, 32), exponent - rng.integers(0, spread + 1, 32)).astype(np.float32)
    codes, scales = quantize_mxfp4(torch.from_numpy(group)[None])
    expected, scale = mxfp4_of_ml_dtypes(group)
    assert scales.item() == scale
    assert (unpack_nibbles(codes)[0].numpy() == expected).all()


def test_the_largest_of_a_group_decides_its_scale():
    x = torch.zeros(7, 32)
    x[:, 3] = torch.tensor([1.0, 1.9, 4.0, 6.0, 7.9, 8.0, 2.0**-130])
    scales = quantize_mxfp4(x)[1][:, 0].int() - 127
    assert scales.tolist() == [-2, -2, 0, 0, 0, 1, -127]
    avoided = quantize_mxfp4(x, avoid_saturation=True)[1][:, 0].int() - 127
    assert avoided.tolist() == [-2, -1, 0, 0, 1, 1, -127]


@ignore_compressed_tensors
def test_avoiding_saturation_gives_the_scales_of_compressed_tensors():
    from compressed_tensors.quantization.utils.mxfp_utils import generate_mx_scales

    x = random_matrix(64, 256).to(torch.bfloat16) * torch.logspace(-8, 8, 64)[:, None]
    codes, scales = quantize_mxfp4(x, avoid_saturation=True)
    amax = x.float().unflatten(-1, (-1, 32)).abs().amax(dim=-1)
    assert torch.equal(scales.float(), generate_mx_scales(amax))
    scaled = x.float().unflatten(-1, (-1, 32)) / e8m0_values(scales)[..., None]
    assert (unpack_nibbles(codes).numpy() == e2m1_codes_of_ml_dtypes(scaled.flatten(-2).numpy())).all()
    assert scaled.abs().max() <= 7


def test_a_group_with_nan_or_infinity_is_nan_and_others_are_not():
    x = random_matrix(3, 96)
    x[0, 5], x[1, 40], x[2, 95] = math.nan, math.inf, -math.inf
    for avoid_saturation in (False, True):
        codes, scales = quantize_mxfp4(x, avoid_saturation=avoid_saturation)
        assert (scales == E8M0_NAN).tolist() == [[True, False, False], [False, True, False], [False, False, True]]
        values = dequantize_mxfp4(codes, scales).unflatten(-1, (3, 32))
        assert torch.equal(values.isnan().all(dim=-1), scales == E8M0_NAN)
        assert torch.equal(values.isnan().any(dim=-1), scales == E8M0_NAN)


def test_mxfp4_zeros_stay_zeros():
    codes, scales = quantize_mxfp4(torch.zeros(2, 64))
    assert not codes.any()
    assert not scales.any()
    assert not dequantize_mxfp4(codes, scales).any()


def test_mxfp4_values_come_back_as_they_were():
    finite = ALL_BYTES[:253, None]  # 6 times a larger scale is no float32
    values = dequantize_mxfp4(torch.full((253, 16), 0x7F, dtype=torch.uint8), finite)
    codes, scales = quantize_mxfp4(values)
    assert torch.equal(scales, finite)
    assert torch.equal(dequantize_mxfp4(codes, scales), values)


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(-12, 12), amax=st.sampled_from([None, 1.0, 8.0, 32.0]), seed=st.integers(0, 9999))
def test_nvfp4_scales_and_codes_are_those_of_ml_dtypes(exponent: int, amax: float | None, seed: int):
    x = (random_matrix(4, 64, seed) * 2.0**exponent).to(torch.bfloat16)
    given_scale = None if amax is None else nvfp4_global_scale(torch.tensor([amax]))
    codes, scales, global_scale = quantize_nvfp4(x, given_scale)
    largest = x.float().abs().max().reshape(1) if amax is None else torch.tensor([amax])
    assert torch.equal(global_scale, 2688 / largest)

    groups, g = x.float().numpy().reshape(4, 4, 16), global_scale.numpy()
    expected = np.minimum(np.abs(groups).max(axis=-1) * g / np.float32(6), 448).astype(ml_dtypes.float8_e4m3fn)
    assert scales.view(torch.uint8).numpy().tobytes() == expected.tobytes()
    divisor = expected.astype(np.float32)[..., None]
    scaled = np.divide(groups * g, divisor, out=np.zeros_like(groups), where=divisor != 0)
    assert (unpack_nibbles(codes).numpy() == e2m1_codes_of_ml_dtypes(scaled).reshape(4, 64)).all()


@ignore_compressed_tensors
def test_nvfp4_codes_are_packed_as_in_compressed_tensors():
    from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8, unpack_fp4_from_uint8

    values = e2m1_values(torch.arange(256).view(16, 16) % 16)
    packed = pack_fp4_to_uint8(values)
    assert torch.equal(pack_nibbles(round_to_e2m1(values)), packed)
    assert torch.equal(e2m1_values(unpack_nibbles(packed)), unpack_fp4_from_uint8(packed, 16, 16, torch.float32))


def test_nvfp4_groups_of_zeros_and_of_tiny_values_are_zeros_and_nan_stays_visible():
    x = random_matrix(1, 64)
    x[0, :16], x[0, 16:32], x[0, 40] = 0, 1e-9, math.nan
    codes, scales, global_scale = quantize_nvfp4(x, torch.tensor([336.0]))
    values = (nvfp4_values(codes, scales) / global_scale).unflatten(-1, (4, 16))[0]
    assert not values[:2].any()
    assert values[2].isnan().all()
    assert values[3].isfinite().all()
    assert values[3].any()


def test_nvfp4_subnormal_scales_are_scales():
    x = torch.full((1, 16), 6 * 2.0**-9)  # the least e4m3 scale
    codes, scales, one = quantize_nvfp4(x, torch.ones(1))
    assert scales.float().item() == 2.0**-9
    assert torch.equal(nvfp4_values(codes, scales) / one, x)


def test_a_static_global_scale_saturates_what_is_larger():
    codes, scales, given = quantize_nvfp4(torch.full((1, 16), 100.0), nvfp4_global_scale(torch.tensor([8.0])))
    assert torch.equal(nvfp4_values(codes, scales) / given, torch.full((1, 16), 8.0))


@pytest.mark.parametrize(("quantize", "group_size"), [(quantize_mxfp4, 32), (quantize_nvfp4, 16)])
def test_a_row_that_does_not_divide_into_groups_is_refused(quantize, group_size: int):
    with pytest.raises(ShapeError, match=f"72 does not divide into groups of {group_size}"):
        quantize(torch.zeros(2, 72))


def test_scales_of_another_dtype_are_refused():
    with pytest.raises(ShapeError, match=r"NVFP4 scales are torch.uint8: give torch.float8_e4m3fn"):
        nvfp4_values(torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8))


def test_leading_dimensions_are_kept():
    codes, scales = quantize_mxfp4(torch.ones(3, 2, 64))
    assert (codes.shape, scales.shape) == ((3, 2, 32), (3, 2, 2))
    codes, scales, _ = quantize_nvfp4(torch.ones(3, 2, 64))
    assert (codes.shape, scales.shape) == ((3, 2, 32), (3, 2, 4))
