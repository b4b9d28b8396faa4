"""The rotation of long rows in Gluon: compiled for Hopper anywhere, and on a GPU against the rotation in Triton."""

import pytest
import torch
from compilations import assert_fits, compile_for

from kernels.gemm.mxfp4_fp8_activations import LEAST_LONG_ROWS, LONGEST_SHARED_ROW, rotate_long_rows, rotate_to_fp8
from kernels.gemm.mxfp4_inputs import HADAMARD_SIZES

SIZES = tuple(HADAMARD_SIZES.values())
SCRIPT = f"""
import json, sys
from dataclasses import asdict
import torch
from kernels.compile import compile_launches
from kernels.gemm.mxfp4_fp8_activations import rotate_to_fp8

compiled = []
for size, columns in [(size, columns) for size in {SIZES} for columns in (28672, {LONGEST_SHARED_ROW})]:
    x = torch.empty({LEAST_LONG_ROWS}, columns, dtype=torch.bfloat16, device="meta")
    compiled += [asdict(record) for record in compile_launches(sys.argv[1], lambda: rotate_to_fp8(x, size))]
print(json.dumps(compiled))
"""


def test_it_fits_a_hopper_and_never_spills():
    compiled = compile_for("sm_90", SCRIPT)
    assert [record["name"] for record in compiled] == ["rotate_to_fp8_hopper_kernel"] * 2 * len(SIZES)
    for record in compiled:
        assert_fits(record, max_spill_bytes=0)


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [128, 1152, 8192])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_it_gives_the_rows_that_triton_gives(size: int, columns: int, dtype: torch.dtype):
    generator = torch.Generator("cuda").manual_seed(columns)
    x = torch.randn(300, columns, generator=generator, device="cuda").to(dtype)
    x[1, :32] *= 2.0**-14
    x[2] *= 2.0**-8
    x[3, 70], x[4, 71] = torch.nan, torch.inf
    x[5] = 0
    x[6, :32] *= 2.0**9
    x[6, 64:] *= 2.0**-9
    expected, rows = rotate_to_fp8(x, size), rotate_long_rows(x, size)
    assert torch.equal(rows.is_wide, expected.is_wide)
    assert torch.equal(rows.scale.nan_to_num(-1.0), expected.scale.nan_to_num(-1.0))
    assert rows.scale[0].isnan().nonzero().flatten().tolist() == [3, 4]
    is_wide = rows.is_wide[0] != 0
    assert is_wide[6] == (columns > size)
    narrow = ~is_wide & ~rows.scale[0].isnan()
    different = rows.codes[narrow].float() != expected.codes[narrow].float()
    assert different.sum() <= 3, "the order of the rotation's sum may put a value on the other side of a tie"
    assert (rows.values[is_wide] != expected.values[is_wide]).sum() <= 3
    assert rows.arrived.count_nonzero() == 0
