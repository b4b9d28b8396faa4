"""Stream-K: how the tiles of a matrix product are divided among the SMs, each of which gets as many steps of the sum.

Whole tiles would leave SMs without work in the last round. A tile's steps may be of several programs, one of which adds
up what the others summed, or two, for half of its tokens each. Source: Osama et al., Stream-K (arXiv:2301.03598), with
its data-parallel rounds first.
"""

from dataclasses import dataclass

MOST_PROGRAMS_OF_A_TILE = 8
MOST_LONGER = 1.05
"""Than an even share, for one that ends where a tile does: fewer programs then write sums, and steps are in line."""


@dataclass(frozen=True, slots=True)
class Division:
    """Who computes what; steps in units of those that a program takes at a time."""

    num_programs: int
    num_whole: int
    """Tiles that one program each computes, as many for every program; the others are shared."""
    units_per_tile: int
    share: int
    """Units of a program of the shared tiles, counted through."""

    @property
    def programs_per_tile(self) -> int:
        """Of shared tiles whose programs have equal parts, else 1; the same parts of all tiles are neighbours then."""
        return self.units_per_tile // self.share if self.units_per_tile % self.share == 0 else 1

    @property
    def in_pairs(self) -> bool:
        """Whether every tile has two programs, each half of its steps."""
        return self.programs_per_tile == 2

    @property
    def in_parts(self) -> bool:
        """Whether some tile has several programs."""
        return self.share % self.units_per_tile != 0


def divide_tiles(num_tiles: int, units_per_tile: int, num_sms: int) -> Division:
    """Whole tiles as long as there are two for every SM, then an even share of the rest."""
    num_whole = max(num_tiles // num_sms - 1, 0) * num_sms
    rest = num_tiles - num_whole
    share = max(-(-rest * units_per_tile // num_sms), -(-units_per_tile // MOST_PROGRAMS_OF_A_TILE))
    if rest > num_sms:
        in_line = units_per_tile * -(-rest // num_sms)
    else:
        in_line = -(-units_per_tile // min(num_sms // rest, MOST_PROGRAMS_OF_A_TILE))
    if in_line <= MOST_LONGER * share and max(in_line, units_per_tile) % min(in_line, units_per_tile) == 0:
        share = in_line
    return Division(num_sms if num_whole else -(-rest * units_per_tile // share), num_whole, units_per_tile, share)
