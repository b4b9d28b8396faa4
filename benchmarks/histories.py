"""A made-up year of nights whose truth is known: what each series took, and what happened to it and to the machines.

Nothing here knows how a night is judged. The noise is as measured on one H200: medians of five processes differ by 0.02
to 0.4 %, those of kernels at the power limit by 0.6 to 1.6 %; from night to night a median moves by 0.2 %, 95 of 100
below 1.8 %, a few 5 to 15 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.spec import Case, Layer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

KERNELS = ("fused_moe", "nvfp4_moe", "mxfp4_gemm", "mxfp4_moe", "silu_mul_fp8", "w4a8_moe", "fp8_gemm", "topk", "rope")
PROVIDERS = ("torch", "triton", "vllm-cutlass", "vllm-triton")
TIMERS = ("graph", "cold")
TOKENS = (1, 16, 64, 256, 1024)
REFERENCES = ("copy", "bfloat16 gemm")
CARD_SHARE = (0.3, 1.0)
"""How much of what a card adds to the kernels each reference kernel shows."""
NOISES = {"normal": 0.45, "student": 0.20, "bimodal": 0.05, "autocorrelated": 0.20, "wandering": 0.10}
"""Share of the series by kind of noise."""
STEP_SIZES = (0.01, 0.02, 0.03, 0.05, 0.10, 0.20, 0.30)
FIRST_EVENT = 20
"""Nights before which nothing happens to a series."""
OF_COMMITS = ("step", "group step")
"""Events that come with a commit of ours, rather than with a library, a driver or a card."""
CALM_NIGHTS = 30
"""Nights between two steps of one series."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what happens."""

    num_series: int = 2000
    num_nights: int = 365
    num_cards: int = 4
    """Of the host; a unit is measured on any of them."""
    num_steps: int = 240
    """Steps of single series."""
    step_sizes: Sequence[float] = STEP_SIZES
    num_group_steps: int = 12
    """Steps of most of the cases of a kernel and provider."""
    num_drifts: int = 12
    num_outages: int = 8
    num_skipped: int = 6
    """Nights that are not run."""
    share_missing: float = 0.002
    """Of the units of a night, how many are not measured."""
    num_library_changes: int = 4
    num_driver_changes: int = 2
    num_swaps: int = 4
    """Cards that are replaced."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    kind: str
    first: int
    """The first night of it."""
    last: int
    """The night when it is over; the number of nights if it never is."""
    rows: Integers
    """Of the series that it befell."""
    size: float
    """Relative; of a drift, all in all."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The nights as measured, and the truth behind them."""

    cases: tuple[Case, ...]
    """[num_series]"""
    providers: tuple[str, ...]
    timers: tuple[str, ...]
    units: Integers
    """[num_series] number of the unit, whose series are measured on one card."""
    noises: tuple[str, ...]
    """[num_series] the kind of noise."""
    sigma: Floats
    """[num_series] relative night-to-night standard deviation."""
    level: Floats
    """[num_series] logarithm of microseconds at first."""
    state: Floats
    """[num_nights, num_series] logarithm of what the kernel itself takes over that level: the truth."""
    drivers: Floats
    """The same of what new drivers add to it; reference kernels show as much, more or less: it is the machine."""
    code: Floats
    """The part of it that came with commits: steps of one series, and of the cases of a kernel and provider."""
    values: Floats
    """[num_nights, num_series] logarithm of the median that was measured; NaN where none was."""
    again: Floats
    """The same in another process, later in the same night."""
    beside: Floats
    """The same in a third one, beside which the code of before takes turns."""
    cards: Integers
    """[num_nights, num_series] number of the card."""
    references: Floats
    """[num_nights, num_units, 2] logarithm of the reference kernels beside each unit over what they take at first."""
    is_run: NDArray[np.bool_]
    """[num_nights] whether the night was run at all."""
    events: tuple[Event, ...]


def make_history(plan: Plan, seed: int) -> History:
    """Every array of a history, from nothing but the plan and the seed."""
    rng = np.random.default_rng(seed)
    cases, providers, timers, units = make_names(plan.num_series)
    events: list[Event] = []
    state, code = np.zeros((2, plan.num_nights, plan.num_series))
    add_changes(plan, rng, cases, providers, state, code, events)
    cards, card_offsets, offsets = make_cards(plan, rng, units, events)
    machine, drivers, on_references = make_machine(plan, rng, cards, card_offsets, events)
    noises, sigma = make_kinds(plan, rng)
    night, draw_process = make_noise(plan, rng, noises, sigma)
    first, second = draw_process(), draw_process()
    level = rng.uniform(np.log(5), np.log(5000), plan.num_series)
    base = level + state + drivers + machine + offsets + night
    is_run = np.ones(plan.num_nights, dtype=bool)
    is_run[rng.choice(np.arange(2, plan.num_nights), plan.num_skipped, replace=False)] = False
    num_units = units.max() + 1
    is_missing = (rng.random((plan.num_nights, num_units)) < plan.share_missing)[:, units] | ~is_run[:, None]
    first_of_unit = np.unique(units, return_index=True)[1]
    references = on_references[:, first_of_unit] + rng.normal(0, 0.003, (plan.num_nights, num_units, 2))
    return History(
        cases=cases,
        providers=providers,
        timers=timers,
        units=units,
        noises=noises,
        sigma=sigma,
        level=level,
        state=state,
        drivers=drivers,
        code=code,
        values=np.where(is_missing, np.nan, base + first),
        again=np.where(is_missing, np.nan, base + second),
        beside=np.where(is_missing, np.nan, base + draw_process()),
        cards=cards,
        references=references,
        is_run=is_run,
        events=tuple(events),
    )


def make_names(num_series: int) -> tuple[tuple[Case, ...], tuple[str, ...], tuple[str, ...], Integers]:
    """Kernels x layers x tokens x providers x timers, as many as asked for."""
    of_layer = len(PROVIDERS) * len(TIMERS) * len(TOKENS)
    num_layers = -(-num_series // of_layer)
    num_kernels = min(len(KERNELS), max(1, num_layers // 2))
    named = []
    for number in range(num_layers):
        kernel = KERNELS[number * num_kernels // num_layers]
        layer = Layer(kernel, f"model-{number}", 1, 1, "fp8", "bfloat16", {"n": 4096})
        named += [(Case(layer, tokens), p, t, number) for tokens in TOKENS for p in PROVIDERS for t in TIMERS]
    cases, providers, timers, units = zip(*named[:num_series], strict=True)
    return cases, providers, timers, np.array(units, dtype=np.int64)


def add_changes(
    plan: Plan,
    rng: np.random.Generator,
    cases: Sequence[Case],
    providers: Sequence[str],
    state: Floats,
    code: Floats,
    events: list[Event],
) -> None:
    """What befalls the kernels themselves: steps of one series and of many, drifts, new versions of a library."""
    kernel = np.array([case.layer.kernel for case in cases])
    provider = np.array(providers)
    library = np.array([name.partition("-")[0] for name in providers])
    busy = np.zeros(state.shape, dtype=bool)

    def add(kind: str, rows: Integers, first: int, last: int, size: float, spread: float) -> None:
        steps = np.log1p(size) * np.exp(rng.normal(0, spread, len(rows)))
        state[first:last, rows] += steps
        if kind in OF_COMMITS:
            code[first:last, rows] += steps
        busy[max(0, first - CALM_NIGHTS) : last + CALM_NIGHTS, rows] = True
        events.append(Event(kind, first, last, rows, size))

    def draw_end(first: int) -> int:
        return plan.num_nights if rng.random() < 0.6 else min(plan.num_nights, first + int(rng.integers(3, 21)))

    for _ in range(plan.num_library_changes):
        rows = np.flatnonzero((library == rng.choice(library)) & (rng.random(plan.num_series) < 0.85))
        size = rng.choice((-1, 1)) * rng.uniform(0.02, 0.06)
        add("library", rows, draw_night(plan, rng), plan.num_nights, size, 0.3)
    for _ in range(plan.num_group_steps):
        chosen = rng.integers(plan.num_series)
        rows = np.flatnonzero((kernel == kernel[chosen]) & (provider == provider[chosen]))
        rows = rows[rng.random(len(rows)) < 0.9]
        first = draw_night(plan, rng)
        add("group step", rows, first, draw_end(first), rng.choice((-1, 1)) * rng.choice(plan.step_sizes), 0.2)
    for _ in range(plan.num_drifts):
        rows, length, first = np.array([rng.integers(plan.num_series)]), rng.integers(25, 46), draw_night(plan, rng)
        size = rng.choice((-1, 1)) * rng.uniform(0.001, 0.003) * length
        slope = np.clip((np.arange(plan.num_nights) - first + 1) / length, 0, 1)
        state[:, rows] += np.log1p(size) * slope[:, None]
        busy[max(0, first - CALM_NIGHTS) :, rows] = True
        events.append(Event("drift", first, plan.num_nights, rows, size))
    for _ in range(plan.num_steps):
        first, row = draw_night(plan, rng), int(rng.integers(plan.num_series))
        while busy[first, row]:
            first, row = draw_night(plan, rng), int(rng.integers(plan.num_series))
        size = rng.choice((-1, 1)) * rng.choice(plan.step_sizes)
        add("step", np.array([row]), first, draw_end(first), size, 0.0)


def draw_night(plan: Plan, rng: np.random.Generator) -> int:
    """A night on which something may begin: not too early, and with some nights left to see it."""
    return int(rng.integers(FIRST_EVENT, plan.num_nights - 5))


def make_cards(
    plan: Plan, rng: np.random.Generator, units: Integers, events: list[Event]
) -> tuple[Integers, Floats, Floats]:
    """Which card measured what, and what the cards add: [num_nights, num_series] each; cards are swapped now and then.

    Each card is up to 3 % from the others, and 0.3 % around that for each series.
    """
    slots = np.tile(np.arange(plan.num_cards), (plan.num_nights, 1))
    for number in range(plan.num_swaps):
        first, slot = draw_night(plan, rng), rng.integers(plan.num_cards)
        slots[first:, slot] = plan.num_cards + number
        events.append(Event("card swap", first, plan.num_nights, np.arange(0), 0.0))
    num_cards, num_units = plan.num_cards + plan.num_swaps, units.max() + 1
    of_units = rng.integers(plan.num_cards, size=(plan.num_nights, num_units))
    cards = np.take_along_axis(slots, of_units, axis=1)[:, units]
    together = rng.uniform(-0.03, 0.03, num_cards)
    apart = together[:, None] + rng.normal(0, 0.003, (num_cards, plan.num_series))
    return cards, together[cards], apart[cards, np.arange(plan.num_series)]


def make_machine(
    plan: Plan, rng: np.random.Generator, cards: Integers, card_offsets: Floats, events: list[Event]
) -> tuple[Floats, Floats, Floats]:
    """What outages and a warm night of one card add to each series, what drivers do, and what the reference kernels
    beside it show of both."""
    num_cards = cards.max() + 1
    nightly = rng.normal(0, 0.0005, (plan.num_nights, num_cards))
    machine = np.take_along_axis(nightly, cards, axis=1)
    shown, drivers = machine.copy(), np.zeros(machine.shape)
    for _ in range(plan.num_outages):
        first = draw_night(plan, rng)
        last, size = first + int(rng.integers(1, 4)), rng.uniform(0.03, 0.15)
        machine[first:last] += np.log1p(size) * rng.uniform(0.7, 1.3, plan.num_series)
        shown[first:last] += np.log1p(size)
        events.append(Event("outage", first, last, np.arange(plan.num_series), size))
    for _ in range(plan.num_driver_changes):
        first, size = draw_night(plan, rng), rng.choice((-1, 1)) * rng.uniform(0.02, 0.05)
        drivers[first:] += np.log1p(size) * np.exp(rng.normal(0, 0.25, plan.num_series))
        shown[first:] += np.log1p(size)
        events.append(Event("driver", first, plan.num_nights, np.arange(plan.num_series), size))
    return machine, drivers, np.stack([shown + share * card_offsets for share in CARD_SHARE], axis=2)


def make_kinds(plan: Plan, rng: np.random.Generator) -> tuple[tuple[str, ...], Floats]:
    """The kind and the size of each series' noise."""
    noises = tuple(map(str, rng.choice(list(NOISES), plan.num_series, p=list(NOISES.values()))))
    sigma = np.exp(rng.normal(np.log(0.003), 1.089, plan.num_series)).clip(2e-4, 0.04)  # 5 to 95 %: 0.05 to 1.8 %
    kinds = np.array(noises)
    sigma = np.where(kinds == "bimodal", np.minimum(sigma, 0.005), sigma)
    return noises, np.where(kinds == "wandering", np.minimum(sigma, 0.01), sigma)


def make_noise(
    plan: Plan, rng: np.random.Generator, noises: Sequence[str], sigma: Floats
) -> tuple[Floats, Callable[[], Floats]]:
    """[num_nights, num_series] of each night, and what draws those of a process in it."""
    shape, kinds = (plan.num_nights, plan.num_series), np.array(noises)
    share = rng.uniform(0, 0.5, plan.num_series)  # of the variance, what all processes of a night have in common
    share = np.where(kinds == "autocorrelated", 0.8, share)
    memory = np.select(
        [kinds == "autocorrelated", kinds == "wandering"], [rng.uniform(0.3, 0.8, plan.num_series), 0.98], 0.0
    )
    night = np.zeros(shape)
    night[0] = rng.normal(size=plan.num_series)
    for number in range(1, plan.num_nights):
        night[number] = memory * night[number - 1] + np.sqrt(1 - memory**2) * rng.normal(size=plan.num_series)
    night *= sigma * np.where(kinds == "wandering", 1.5, np.sqrt(share))
    gap, rarity = rng.uniform(0.03, 0.10, plan.num_series), rng.uniform(0.05, 0.5, plan.num_series)
    sampling = rng.uniform(3e-4, 1.5e-3, plan.num_series)

    def draw_process() -> Floats:
        normal, student = rng.normal(size=shape), rng.standard_t(4, size=shape) / np.sqrt(2)
        drawn = np.where(kinds == "student", student, normal) * sigma * np.sqrt(1 - share)
        drawn += np.where(kinds == "bimodal", gap * (rng.random(shape) < rarity), 0.0)
        return drawn + sampling * rng.normal(size=shape)

    return night, draw_process
