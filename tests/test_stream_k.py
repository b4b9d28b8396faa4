"""How tiles are divided among programs: every step once, as many for each, in line with tiles if that costs little."""

import pytest

from kernels.gemm.stream_k import MOST_LONGER, MOST_PROGRAMS_OF_A_TILE, Division, divide_tiles

NUM_SMS = 132


def steps_of(division: Division, num_tiles: int) -> list[set[tuple[int, int]]]:
    """Of each program, (tile, unit)."""
    units = division.units_per_tile
    found: list[set[tuple[int, int]]] = []
    for program in range(division.num_programs):
        whole = range(program, division.num_whole, division.num_programs)
        own = {(tile, unit) for tile in whole for unit in range(units)}
        first, last = program * division.share, (num_tiles - division.num_whole) * units
        shared = range(first, min(first + division.share, last))
        found.append(own | {(division.num_whole + step // units, step % units) for step in shared})
    return found


@pytest.mark.parametrize("num_tiles", [1, 3, 16, 64, 80, 128, 132, 133, 160, 264, 320, 1792])
@pytest.mark.parametrize("units_per_tile", [1, 5, 16, 32, 112])
def test_every_step_is_computed_once_and_no_program_has_much_more_than_another(
    num_tiles: int, units_per_tile: int
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    steps = steps_of(division, num_tiles)
    assert sum(map(len, steps)) == num_tiles * units_per_tile == len(set().union(*steps))
    assert division.num_programs <= NUM_SMS
    assert all(steps), "a program without work"
    rounds = -(-num_tiles // NUM_SMS)
    even = num_tiles * units_per_tile / NUM_SMS
    longest = max(map(len, steps))
    assert longest <= rounds * units_per_tile
    assert longest <= max(MOST_LONGER * even + 2, -(-units_per_tile // MOST_PROGRAMS_OF_A_TILE))


@pytest.mark.parametrize(
    ("num_tiles", "units_per_tile", "expected"),
    [
        pytest.param(80, 32, Division(128, 0, 32, 20), id="evenly, where whole tiles leave 52 SMs without work"),
        pytest.param(64, 112, Division(128, 0, 112, 56), id="two programs a tile"),
        pytest.param(128, 16, Division(128, 0, 16, 16), id="a whole tile each"),
        pytest.param(256, 56, Division(128, 0, 56, 112), id="two whole tiles each"),
        pytest.param(320, 16, Division(132, 132, 16, 23), id="a round of whole tiles, then evenly"),
        pytest.param(2, 32, Division(16, 0, 32, 4), id="eight programs a tile at most"),
    ],
)
def test_shares_end_where_tiles_do_if_that_costs_little(
    num_tiles: int, units_per_tile: int, expected: Division
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    assert division == expected
    assert division.in_parts == (division.share % units_per_tile != 0)
