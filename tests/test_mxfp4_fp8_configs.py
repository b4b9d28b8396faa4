"""Launch configurations of MXFP4 as FP8: what is picked, and what is refused before it is launched."""

from dataclasses import asdict, replace

import pytest
import torch

from kernels.errors import ConfigError
from kernels.gemm.mxfp4_fp8_configs import (
    PRODUCTS,
    Mxfp4Fp8Config,
    check_fp8_config,
    default_fp8_config,
    specialized_config,
)
from kernels.mxfp4_gemm import KERNEL
from kernels.spec import Case, Layer

PIPELINED = Mxfp4Fp8Config(16, 64, 8, 1, PROMOTE=True, PRODUCT="pipelined", num_warps=4, num_stages=3)
ROWS = default_fp8_config(1, 8192, 8192)
UNPACKED = default_fp8_config(4096, 8192, 8192)


def case_of(num_tokens: int, n: int = 8192, k: int = 8192, dtype: str = "bfloat16") -> Case:
    return Case(Layer("mxfp4_gemm", "grid", 1, 1, "mxfp4_w4a4_hadamard32", dtype, {"n": n, "k": k}), num_tokens)


def test_many_tokens_unpack_first_and_few_split_the_sum() -> None:
    products = [default_fp8_config(m, 8192, 8192).PRODUCT for m in (2, 3071, 3072)]
    assert products == ["pipelined", "specialized", "unpacked"]
    assert default_fp8_config(64, 128, 8192).SPLIT_K == 8
    assert default_fp8_config(4096, 8200, 8192).PRODUCT == "specialized", "torch wants multiples of 16"


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [
        pytest.param(8192, 8192, 4, id="two programs an SM"),
        pytest.param(10240, 8192, 3, id="four would leave some SMs a third program"),
        pytest.param(8192, 28672, 4, id="long rows"),
        pytest.param(1024, 8192, 8, id="too few tiles for every SM"),
        pytest.param(1024, 1024, 2, id="short rows"),
        pytest.param(128, 96, 1, id="less than a step"),
    ],
)
def test_few_tokens_split_the_sum_so_that_no_sm_waits_for_another(n: int, k: int, expected: int) -> None:
    assert {default_fp8_config(m, n, k).SPLIT_K for m in (2, 16, 32)} == {expected}


def test_tiles_enough_are_split_in_two_only_where_four_programs_fit_an_sm() -> None:
    assert [default_fp8_config(m, 57344, 8192).SPLIT_K for m in (1, 16, 17, 32)] == [2, 2, 1, 1]


def test_one_token_goes_by_rows_where_that_was_measured_to_win() -> None:
    def product(m: int, n: int, k: int) -> str:
        return default_fp8_config(m, n, k).PRODUCT

    assert [product(1, n, 8192) for n in (8192, 10240, 57344)] == ["rows", "rows", "pipelined"]
    assert product(1, 8192, 28672) == product(2, 8192, 8192) == "pipelined"


@pytest.mark.parametrize("n", [24, 1024, 8192, 10240, 57344])
@pytest.mark.parametrize("k", [32, 96, 1024, 8192, 28672])
@pytest.mark.parametrize("m", [1, 2, 16, 33, 64, 65, 128, 200, 256, 1000, 4096])
def test_what_is_picked_is_never_refused(m: int, n: int, k: int) -> None:
    check_fp8_config(default_fp8_config(m, n, k), case_of(m, n, k))
    check_fp8_config(specialized_config(m), case_of(m, n, k, "float16"))


@pytest.mark.parametrize(
    ("case", "config", "said"),
    [
        (
            case_of(5),
            replace(PIPELINED, PRODUCT="imagined"),
            f"mxfp4_gemm has no PRODUCT='imagined': use one of {', '.join(PRODUCTS)}",
        ),
        (
            case_of(2),
            ROWS,
            "PRODUCT='rows' keeps one token of 8192 columns at most in registers (this is 2 of 8192): use 'pipelined'",
        ),
        (
            case_of(1, k=8224),
            ROWS,
            "PRODUCT='rows' keeps one token of 8192 columns at most in registers (this is 1 of 8224): use 'pipelined'",
        ),
        (
            case_of(1),
            replace(ROWS, num_warps=12),
            "PRODUCT='rows' takes num_warps 1 or 2 or 4 or 8 or 16 or 32 (this is 12): set it to 8",
        ),
        (
            case_of(5),
            replace(PIPELINED, BLOCK_SIZE_M=8),
            "PRODUCT='pipelined' takes BLOCK_SIZE_M 16 or 32 or 64 or 128 or 256 (this is 8): set it to 16",
        ),
        (
            case_of(5),
            replace(PIPELINED, BLOCK_SIZE_N=32),
            "PRODUCT='pipelined' takes BLOCK_SIZE_N 64 or 128 or 256 (this is 32): set it to 64",
        ),
        (
            case_of(5),
            replace(PIPELINED, num_warps=2),
            "PRODUCT='pipelined' takes num_warps 4 or 8 (this is 2): set it to 4",
        ),
        (
            case_of(5),
            replace(PIPELINED, GROUP_SIZE_M=0),
            "PRODUCT='pipelined' takes GROUP_SIZE_M from 1 on (this is 0): set it to 1",
        ),
        (
            case_of(5),
            replace(PIPELINED, SPLIT_K=65),
            "PRODUCT='pipelined' takes SPLIT_K from 1 to 64 (this is 65): set it to 64",
        ),
        (
            case_of(5),
            replace(PIPELINED, num_stages=0),
            "PRODUCT='pipelined' takes num_stages from 1 on (this is 0): set it to 1",
        ),
        (
            case_of(64),
            replace(specialized_config(64), BLOCK_SIZE_M=96),
            "PRODUCT='specialized' takes BLOCK_SIZE_M 64 or 128 or 256 (this is 96): set it to 64",
        ),
        (
            case_of(64),
            replace(specialized_config(64), BLOCK_SIZE_N=64),
            "PRODUCT='specialized' takes BLOCK_SIZE_N 128 (this is 64): set it to 128",
        ),
        (
            case_of(64),
            replace(specialized_config(64), num_warps=4),
            "PRODUCT='specialized' takes num_warps 8 or 16 (this is 4): set it to 8",
        ),
        (
            case_of(300),
            replace(specialized_config(300), num_warps=16),
            "PRODUCT='specialized' takes num_warps 8 (this is 16): set it to 8",
        ),
        (
            case_of(64),
            replace(specialized_config(64), GROUP_SIZE_M=-8),
            "PRODUCT='specialized' takes GROUP_SIZE_M from 1 on (this is -8): set it to 1",
        ),
        (
            case_of(300),
            replace(specialized_config(300), num_stages=6),
            "PRODUCT='specialized' takes num_stages from 2 to 5 (this is 6): set it to 5",
        ),
        (
            case_of(100),
            replace(specialized_config(100), num_stages=5),
            "PRODUCT='specialized' takes num_stages 2 or 4 or 6 (this is 5): set it to 4",
        ),
        (
            case_of(4096, n=8200),
            UNPACKED,
            "PRODUCT='unpacked': torch's row-wise product takes 16 features or a multiple (this is 8200): "
            "use 'specialized'",
        ),
        (
            case_of(4096, dtype="float16"),
            UNPACKED,
            "PRODUCT='unpacked': torch's row-wise product gives bfloat16 (this is float16): use 'specialized'",
        ),
    ],
)
def test_what_a_product_cannot_compute_is_refused_in_one_line(case: Case, config: Mxfp4Fp8Config, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_fp8_config(config, case)
    assert str(error.value) == said


def test_what_a_product_does_not_read_may_be_anything() -> None:
    unread = {"BLOCK_SIZE_M": 0, "BLOCK_SIZE_N": 0, "GROUP_SIZE_M": 0, "SPLIT_K": 0, "num_stages": 0}
    check_fp8_config(replace(ROWS, **unread), case_of(1))
    check_fp8_config(replace(UNPACKED, **unread, num_warps=0), case_of(4096))
    check_fp8_config(replace(specialized_config(64), SPLIT_K=0), case_of(64))


def test_float16_never_unpacks_first_since_torch_gives_bfloat16() -> None:
    case = case_of(4096, n=48, k=384, dtype="float16")
    weights = KERNEL.make_weights(case.layer, 0, torch.device("cpu"))
    inputs, provider = {"x": torch.zeros(4096, 384, dtype=torch.float16)}, KERNEL.providers["triton-exact-fp8"]
    assert provider.prepare(case, weights, inputs).config["PRODUCT"] == "specialized"


def test_a_given_configuration_is_checked_before_it_is_launched() -> None:
    case = case_of(5, n=48, k=384)
    weights = KERNEL.make_weights(case.layer, 0, torch.device("cpu"))
    config = asdict(replace(PIPELINED, SPLIT_K=4))
    with pytest.raises(ConfigError, match=r"SPLIT_K from 1 to 3 \(this is 4\): set it to 3$"):
        KERNEL.providers["triton-exact-fp8"].prepare_with(case, weights, {"x": torch.zeros(5, 384)}, config)
