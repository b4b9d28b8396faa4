"""Paths of matplotlib as an SVG spells them, as shortly as it goes: a site has a hundred million bytes of them."""

from functools import cache

import numpy as np
from matplotlib.path import Path
from matplotlib.transforms import Transform

_COMMANDS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


def tell_outline(path: Path, transform: Transform) -> str:
    """A small shape with curves, point by point, to a hundredth."""
    steps = []
    for points, code in path.transformed(transform).iter_segments(curves=True, simplify=False):
        command = _COMMANDS[code]
        steps.append(
            command if command == "Z" else command + " ".join(f"{round(value, 2) + 0.0:g}" for value in points)
        )
    return "".join(steps).replace(" -", "-")


def tell_path(path: Path, transform: Transform) -> str:
    """Straight lines in steps of tenths of a pixel, level ones in one; what is not a number is a gap.

    "" for a single point, which has no line.
    """
    points = transform.transform(path.vertices)
    if len(points) < 2:
        return ""
    is_known = np.isfinite(points).all(axis=1)
    tenths = np.rint(10 * np.where(is_known[:, None], points, 0)).astype(int).tolist()
    if path.codes is None:
        starts = ~np.concatenate([[False], is_known[:-1]])
        codes = np.where(starts, Path.MOVETO, Path.LINETO).tolist()
    else:
        codes = np.asarray(path.codes).tolist()
    told, at_x, at_y, level = list[str](), 0, 0, 0
    for (x, y), code, known in zip(tenths, codes, is_known.tolist(), strict=True):
        if code == Path.LINETO and known and y == at_y:
            level += x - at_x
            at_x = x
            continue
        if level:
            told.append(f"h{tell_tenths(level)}")
            level = 0
        if code == Path.CLOSEPOLY:
            told.append("z")
        elif known:
            if code == Path.MOVETO:
                told.append(f"M{tell_tenths(x)} {tell_tenths(y)}")
            elif x == at_x:
                told.append(f"v{tell_tenths(y - at_y)}")
            else:
                told.append(f"l{tell_tenths(x - at_x)} {tell_tenths(y - at_y)}")
            at_x, at_y = x, y
    if level:
        told.append(f"h{tell_tenths(level)}")
    return "".join(told).replace(" -", "-")


@cache
def tell_tenths(tenths: int) -> str:
    """A number of tenths as short as it goes: 2.5, .5, -.5."""
    return f"{tenths / 10:g}".replace("0.", ".") if abs(tenths) < 10 else f"{tenths / 10:g}"
