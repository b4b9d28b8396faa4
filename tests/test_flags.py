"""Which reservations a row has."""

from dataclasses import replace

import pytest
from nights import CPU, H200, make_measurement, moe_layer

from dashboards.arrangement import make_row
from dashboards.flags import list_flags
from dashboards.rows import Row, Speedup
from kernels.spec import Case
from tasks.judgement.references import ReferenceChange
from tasks.records import Status


def row_of(tokens: int = 16, status: Status = Status.OK) -> Row:
    measurement = make_measurement(Case(moe_layer(), tokens), "triton", status)
    return make_row(measurement.series, measurement, None)


def test_a_row_that_nothing_is_wrong_with_has_no_flag() -> None:
    fine = replace(row_of(), machine=ReferenceChange("copy", 0.0199, H200), speedup_over_vllm=Speedup(1.1))
    assert list_flags(fine) == ()
    assert list_flags(replace(fine, machine=ReferenceChange("copy", 0.199, CPU))) == ()
    assert list_flags(row_of(status=Status.CRASHED)) == ()


@pytest.mark.parametrize(
    ("row", "label", "sentence"),
    [
        (row_of(4096), "clock 3/8", "slow clock in 3 of 8 trials, 2 set aside; 1785-1980 MHz; sw_power_cap"),
        (
            replace(row_of(), machine=ReferenceChange("copy", 0.0312, H200)),
            "reference slow +3.1%",
            "copy, which no commit changes, took 3.1% longer beside this case than usual: the machine was slower",
        ),
        (
            replace(row_of(), reference="torch", speedup_over_baseline=Speedup(1.1, is_timed_alone=True)),
            "timed alone",
            "shares no round with torch: the speed-up is the ratio of the two medians",
        ),
    ],
)
def test_a_reservation_is_a_label_and_a_sentence(row: Row, label: str, sentence: str) -> None:
    (flag,) = list_flags(row)
    assert (flag.label, flag.sentence) == (label, sentence)
