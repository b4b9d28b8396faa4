"""One series with a history clear enough to know what tonight is."""

from collections.abc import Mapping, Sequence

import numpy as np
from records import make_measurement, make_points, make_retrial, make_run, make_series

from tasks.judgement.findings import Past
from tasks.judgement.history import Standing
from tasks.judgement.machines import Clock
from tasks.judgement.reference_histories import ReferenceHistories, ReferenceKey, arrange_references
from tasks.judgement.suspects import find_suspects
from tasks.records import Measurement, Run, Series, Suspect

QUIET = (100.0, 100.4, 99.6, 100.2, 99.8, 100.1, 99.7, 100.3, 99.9, 100.0, 100.2, 99.8)
"""Twelve nights of a steady kernel."""
NOISY = (100.0, 103.1, 97.2, 101.8, 98.9, 96.6, 102.5, 99.4, 103.3, 97.9, 100.7, 98.3, 102.1, 99.0, 101.2)
SERIES = make_series()


def number_nights(count: int) -> dict[str, Run]:
    return {
        f"night-{n}": make_run(f"night-{n}", n, git_commit=f"commit-{n}", git_dirty=n % 2 == 0) for n in range(count)
    }


def make_references(
    series: Sequence[Series], num_nights: int, moved: Mapping[str, float], since: int | None = None
) -> ReferenceHistories:
    """Reference kernels that took so much longer from a night on, by default tonight, beside some series."""
    keys = [ReferenceKey(one.device_name, one.case_key, one.timer, name) for one in series for name in moved]
    values = np.zeros((len(keys), num_nights))
    values[:, num_nights - 1 if since is None else since :] = np.log1p(list(moved.values()) * len(series))[:, None]
    return arrange_references(keys, np.arange(num_nights), values, np.zeros(values.shape, dtype=np.int64))


def make_past(
    medians_us: Sequence[float],
    again_us: float | None = None,
    standing: Standing | None = None,
    moved: Mapping[str, float] | None = None,
    clock: Clock | None = None,
) -> tuple[Measurement, Past]:
    """One series whose last night is tonight.

    Args:
        moved: by how much longer each reference kernel took tonight, relative.
    """
    points = make_points(medians_us)
    tonight = make_measurement(points[-1].run_id, samples_us=(medians_us[-1],))
    past = Past(
        run_id=tonight.run_id,
        runs=number_nights(len(points)),
        trends={SERIES: points},
        standings={SERIES: standing} if standing else {},
        expected=(SERIES,),
        references=make_references([SERIES], len(points), moved or {}),
        clocks={SERIES: clock} if clock else {},
        retrials=[make_retrial(tonight, again_us)] if again_us else [],
    )
    return tonight, past


def find_one(medians_us: Sequence[float], standing: Standing | None = None) -> list[Suspect]:
    """Whether it is measured again tonight."""
    tonight, past = make_past(medians_us, standing=standing)
    return find_suspects([tonight], past)
