"""One series with a history clear enough to know what tonight is."""

from collections.abc import Sequence

from records import make_measurement, make_points, make_retrial, make_run, make_series

from tasks.findings import Past
from tasks.history import Standing
from tasks.machines import MachineChange
from tasks.records import Measurement, Run, Suspect
from tasks.suspects import find_suspects

QUIET = (100.0, 100.4, 99.6, 100.2, 99.8, 100.1, 99.7, 100.3, 99.9, 100.0, 100.2, 99.8)
"""Twelve nights of a steady kernel."""
NOISY = (100.0, 103.1, 97.2, 101.8, 98.9, 96.6, 102.5, 99.4, 103.3, 97.9, 100.7, 98.3, 102.1, 99.0, 101.2)
SERIES = make_series()


def number_nights(count: int) -> dict[str, Run]:
    return {
        f"night-{n}": make_run(f"night-{n}", n, git_commit=f"commit-{n}", git_dirty=n % 2 == 0) for n in range(count)
    }


def make_past(
    medians_us: Sequence[float],
    again_us: float | None = None,
    standing: Standing | None = None,
    machine: MachineChange | None = None,
) -> tuple[Measurement, Past]:
    """One series whose last night is tonight."""
    points = make_points(medians_us)
    tonight = make_measurement(points[-1].run_id, samples_us=(medians_us[-1],))
    past = Past(
        run_id=tonight.run_id,
        runs=number_nights(len(points)),
        trends={SERIES: points},
        standings={SERIES: standing} if standing else {},
        expected=(SERIES,),
        machines={SERIES: machine} if machine else {},
        retrials=[make_retrial(tonight, again_us)] if again_us else [],
    )
    return tonight, past


def find_one(medians_us: Sequence[float], standing: Standing | None = None) -> list[Suspect]:
    """Whether it is measured again tonight."""
    tonight, past = make_past(medians_us, standing=standing)
    return find_suspects([tonight], past)
