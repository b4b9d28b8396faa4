"""How tiles are divided among programs: every step once, as many for each, in line with tiles if that costs little."""

from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from kernels.gemm import mxfp4_hopper
from kernels.gemm.mxfp4_fp8 import find_pairs
from kernels.gemm.stream_k import MOST_LONGER, MOST_PROGRAMS_OF_A_TILE, Division, divide_tiles

NUM_SMS = 132


def call(name: str, *arguments: int, program: int = 0, num_programs: int = 1) -> Any:
    """What a function of the kernel's own returns to a program, in Python."""
    language = SimpleNamespace(
        program_id=lambda _: program,
        num_programs=lambda _: num_programs,
        minimum=min,
        maximum=max,
        cdiv=lambda a, b: -(-a // b),
        where=lambda condition, a, b: a if condition else b,
    )
    return FunctionType(getattr(mxfp4_hopper, name).fn.__code__, {"gl": language})(*arguments)


def place_of(division: Division, program: int) -> int:
    """Which share is a program's."""
    if division.in_pairs:
        return program
    place: int = call(
        "place_of_program", division.programs_per_tile, program=program, num_programs=division.num_programs
    )
    return place


def jobs_of(division: Division, num_tiles: int) -> list[list[tuple[int, int, int]]]:
    """Of each program, tiles with the first unit and the end of its units."""
    found: list[list[tuple[int, int, int]]] = []
    for program in range(division.num_programs):
        ids = {"program": program, "num_programs": division.num_programs}
        work = (place_of(division, program), num_tiles, division.num_whole, division.units_per_tile, division.share)
        found.append([call("find_job", job, *work, **ids) for job in range(call("count_jobs", *work, **ids))])
    return found


@pytest.mark.parametrize("num_tiles", [1, 3, 16, 64, 80, 128, 132, 133, 160, 320, 1792])
@pytest.mark.parametrize("units_per_tile", [1, 5, 16, 32])
def test_every_step_is_computed_once_and_no_program_has_much_more_than_another(
    num_tiles: int, units_per_tile: int
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    jobs = jobs_of(division, num_tiles)
    steps = [(tile, unit) for own in jobs for tile, first, end in own for unit in range(first, end)]
    assert len(steps) == num_tiles * units_per_tile == len(set(steps))
    assert division.num_programs <= NUM_SMS
    assert all(jobs), "a program without work"
    longest = max(sum(end - first for _, first, end in own) for own in jobs)
    assert longest <= -(-num_tiles // NUM_SMS) * units_per_tile
    even = num_tiles * units_per_tile / NUM_SMS
    assert longest <= max(MOST_LONGER * even + 2, -(-units_per_tile // MOST_PROGRAMS_OF_A_TILE))


@pytest.mark.parametrize(("num_tiles", "units_per_tile"), [(3, 32), (32, 112), (80, 16), (160, 32), (320, 16)])
def test_who_adds_up_waits_for_lower_numbers_and_all_write_one_part_before_their_other_shared_tiles(
    num_tiles: int, units_per_tile: int
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    assert division.in_parts
    assert not division.in_pairs
    jobs = jobs_of(division, num_tiles)
    adds_up = {tile: program for program, own in enumerate(jobs) for tile, _, end in own if end == units_per_tile}
    for program, own in enumerate(jobs):
        shared = [(tile, end) for tile, _, end in own if tile >= division.num_whole]
        assert all(end == units_per_tile for _, end in shared[1:])
        assert all(program < adds_up[tile] for tile, end in shared if end < units_per_tile)


@pytest.mark.parametrize(("num_tiles", "units_per_tile"), [(64, 112), (64, 16), (66, 2), (65, 32)])
def test_two_programs_that_wait_for_each_other_are_neighbours_and_have_nothing_else_to_do(
    num_tiles: int, units_per_tile: int
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    assert division.in_pairs
    half = units_per_tile // 2
    pairs = [[[(tile, 0, half)], [(tile, half, units_per_tile)]] for tile in range(num_tiles)]
    assert jobs_of(division, num_tiles) == [own for pair in pairs for own in pair]


@pytest.mark.parametrize(("num_tiles", "units_per_tile"), [(80, 16), (80, 4), (80, 8), (100, 32)])
def test_who_trades_halves_is_there_when_the_other_is_and_nobody_waits_in_a_circle(
    num_tiles: int, units_per_tile: int
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    assert find_pairs(division, turns=1, is_early=True) == "some"
    jobs = {place_of(division, program): own for program, own in enumerate(jobs_of(division, num_tiles))}
    work = (division.num_whole, division.units_per_tile, division.share)
    parts_of: dict[int, list[tuple[int, int]]] = {}
    for place, own in jobs.items():
        for tile, _, end in own:
            parts_of.setdefault(tile, []).append((place, end))
    num_trades, num_before = 0, 0
    for tile, parts in parts_of.items():
        traders = [place for place, _ in parts if call("find_traders", tile, place, *work)[2]]
        num_trades += bool(traders)
        if len(parts) == 1:
            assert not traders
            continue
        places = sorted(place for place, _ in parts)
        assert {call("find_traders", tile, place, *work)[:2] for place in places} == {(places[0], places[-1])}
        if not traders:
            continue
        num_before += len(places) > 2
        assert sorted(traders) == places[-2:]
        last_but_one, last = places[-2:]
        assert len(jobs[last_but_one]) == 1
        assert jobs[last][-1][0] == tile, "what comes first is of another tile"
        assert all(not call("find_traders", job[0], last, *work)[2] for job in jobs[last][:-1])
    assert num_trades > 0
    assert num_before > 0 or units_per_tile < 16, "tiles of three programs, the first of which has another tile"


@pytest.mark.parametrize(
    ("num_tiles", "units_per_tile", "expected"),
    [
        pytest.param(80, 32, Division(128, 0, 32, 20), id="evenly, where whole tiles leave 52 SMs without work"),
        pytest.param(64, 112, Division(128, 0, 112, 56), id="two programs a tile"),
        pytest.param(128, 16, Division(128, 0, 16, 16), id="a whole tile each"),
        pytest.param(256, 56, Division(128, 0, 56, 112), id="two whole tiles each"),
        pytest.param(320, 16, Division(132, 132, 16, 23), id="a round of whole tiles, then evenly"),
        pytest.param(2, 32, Division(16, 0, 32, 4), id="eight programs a tile at most"),
        pytest.param(64, 15, Division(120, 0, 15, 8), id="evenly, where a tile has no halves"),
    ],
)
def test_shares_end_where_tiles_do_if_that_costs_little(
    num_tiles: int, units_per_tile: int, expected: Division
) -> None:
    division = divide_tiles(num_tiles, units_per_tile, NUM_SMS)
    assert division == expected
    assert division.in_parts == (division.share % units_per_tile != 0)
