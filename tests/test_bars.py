"""Shares of the bandwidth, configurations against the default one, and points under their roof."""

from dataclasses import replace

import pytest
from nights import H200, find_made_up_kernel, make_measurement, make_night, moe_layer

from dashboards.arrangement import arrange_night
from dashboards.bars import draw_configs, draw_utilisation
from dashboards.charts import assign_marks
from dashboards.rooflines import draw_rooflines
from kernels.spec import Case


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.comparisons.find_kernel", find_made_up_kernel)


def test_every_provider_of_every_strategy_has_its_share_of_the_copy_rate() -> None:
    silu = arrange_night(make_night(1))[1]
    marks = assign_marks([[row.provider for row in silu.rows]])
    drawing = draw_utilisation(silu.layers[0].panels, marks, "u0")
    assert drawing
    assert drawing.svg.count("% of the copy rate</title>") == len(silu.rows)
    for strategy in ("uniform", "max_t", "first_t"):
        assert f">{strategy}<" in drawing.svg
    bare = [
        replace(panel, rows=tuple(replace(row, floor_us=None) for row in panel.rows)) for panel in silu.layers[0].panels
    ]
    assert draw_utilisation(bare, marks, "u0") is None


def test_configs_are_told_against_the_default_one() -> None:
    times = {"vllm-triton-default": 100.0, "vllm-triton-shipped": 50.0, "triton": 10.0}
    measured = [make_measurement(Case(moe_layer(), 16), name, usual_us=us) for name, us in times.items()]
    panel = arrange_night(make_night(1, measurements=measured))[0].layers[0].panels[0]
    drawing = draw_configs(panel, assign_marks([times]), "t0")
    assert drawing
    assert "vllm-triton-shipped 2.0" in drawing.label or "vllm-triton-shipped 1.9" in drawing.label
    assert ", M=16" in drawing.svg
    assert "triton, M=16: 10" not in drawing.svg
    assert draw_configs(replace(panel, rows=panel.rows[:1]), assign_marks([times]), "t0") is None


def test_the_fastest_provider_of_each_case_is_under_the_roofs_of_its_device() -> None:
    night = make_night(1)
    kernels = arrange_night(night)
    [roofline] = draw_rooflines(night, kernels)
    assert roofline.device_name == H200.name
    timed = {row.series.case_key for kernel in kernels for row in kernel.rows if row.median_us}
    assert roofline.num_cases == len(timed) == roofline.drawing.svg.count("<title>")
    assert "copy 4,000 GB/s" in roofline.drawing.svg
    assert draw_rooflines(replace(night, ceilings=()), kernels) == []
