"""How reference kernels moved over nights, against plain loops, and read back from a real store."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import GPU, STARTED, make_case, make_host, make_measurement, make_run, make_series

from tasks.judgement.reference_histories import Compared, ReferenceHistories, ReferenceKey, arrange_references
from tasks.records import Host, ReferenceTime, Series, UnitResult
from tasks.statistics.spreads import COMMON_NIGHTS, Flags, Floats
from tasks.storage.store import Store

NUM_NIGHTS = 40
SERIES = [make_series(case=make_case(tokens)) for tokens in (1, 2, 4)]
KEYS = [ReferenceKey(GPU.name, one.case_key, "graph", name) for one in SERIES for name in ("copy", "gemm")]


def make_histories(values: Floats, runs: Sequence[int] = range(NUM_NIGHTS)) -> ReferenceHistories:
    """Of one card, as they are, without a lasting move."""
    return ReferenceHistories({key: row for row, key in enumerate(KEYS)}, np.array(runs), values)


def draw(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.002, (len(KEYS), NUM_NIGHTS))


def compare(before: range, since: range, is_again: bool = False) -> Compared:
    nights = np.tile(np.arange(NUM_NIGHTS), (len(SERIES), 1))
    flags: list[Flags] = [np.isin(nights, list(of)) for of in (before, since)]
    return Compared(nights, *flags, np.full(len(SERIES), is_again))


def compare_one(before: range, since: range) -> Compared:
    found = compare(before, since)
    return Compared(found.runs[:1], found.before[:1], found.since[:1], found.is_again[:1])


@pytest.mark.parametrize(
    ("before", "since"), [(range(9, 39), range(39, 40)), (range(30), range(35, 40)), (range(0, 7, 2), range(20, 40))]
)
def test_a_move_is_from_the_median_of_some_nights_to_that_of_others(before: range, since: range) -> None:
    values = draw()
    for row, found in enumerate(make_histories(values).find_moves(SERIES, compare(before, since))):
        assert sorted(found) == ["copy", "gemm"]
        for which, name in enumerate(("copy", "gemm")):
            of_case = values[2 * row + which]
            expected = np.median(of_case[list(since)]) - np.median(of_case[list(before)])
            assert found[name][0].change == pytest.approx(np.expm1(expected))


def test_tonight_counts_twice_where_a_series_was_measured_again() -> None:
    values = np.zeros((len(KEYS), NUM_NIGHTS))
    values[:, -1] = 0.03
    assert make_histories(values).find_moves(SERIES, compare(range(30), range(38, 40)))[0]["copy"][0].change < 0.02
    moved = make_histories(values).find_moves(SERIES, compare(range(30), range(38, 40), is_again=True))
    assert moved[0]["copy"][0].change == pytest.approx(np.expm1(0.03))


def test_nights_that_nothing_is_known_of_and_unknown_cases_say_nothing() -> None:
    runs = np.arange(0, 2 * NUM_NIGHTS, 2)  # every other run timed a reference kernel
    histories, compared = make_histories(draw(), runs.tolist()), compare(range(30), range(39, 40))
    assert histories.find_moves(SERIES, replace(compared, runs=compared.runs * 2 + 1)) == [{}, {}, {}]
    assert ReferenceHistories().find_moves(SERIES, compared) == [{}, {}, {}]
    others = [replace(SERIES[0], timer="cold"), replace(SERIES[0], device_name="NVIDIA B200"), SERIES[0]]
    assert [bool(found) for found in histories.find_moves(others, replace(compared, runs=compared.runs * 2))] == [
        False,
        False,
        True,
    ]


def test_a_move_is_since_the_first_of_the_nights_in_a_row_that_are_nearer_to_it() -> None:
    values = draw()
    values[:, 20] += 0.05  # a night that was slow and over
    values[:, 36:] += 0.05
    values[1, 37] -= 0.05
    moved = make_histories(values).find_moves(SERIES, compare(range(30), range(35, 40)))
    assert {ways[0].since for found in moved[1:] for ways in found.values()} == {36}
    assert (moved[0]["copy"][0].since, moved[0]["gemm"][0].since) == (36, 38)


def test_a_way_there_and_a_way_on_are_told_apart() -> None:
    values = draw()
    values[:, 34:] -= 0.04
    values[:, 39:] += 0.06
    [(straight, _, lately, until_then)] = {
        found["copy"]
        for found in make_histories(values).find_moves(SERIES[:1], compare_one(range(9, 33), range(39, 40)))
    }
    assert straight.change == pytest.approx(np.expm1(0.02), abs=0.006)
    assert lately.change == pytest.approx(np.expm1(0.06), abs=0.006)
    assert until_then.change == pytest.approx(np.expm1(-0.04), abs=0.006)


def test_a_machine_that_is_back_where_it_was_has_gone_no_way() -> None:
    values = draw()
    values[:, 34:] -= 0.04
    values[:, 36:39] += 0.06  # an outage, over tonight
    [found] = make_histories(values).find_moves(SERIES[:1], compare_one(range(9, 33), range(39, 40)))
    assert [move.change for move in found["copy"]] == pytest.approx([np.expm1(-0.04)] * 2, abs=0.006)


def test_a_machine_that_moved_in_the_last_of_the_nights_is_seen_by_tonight_alone() -> None:
    values = draw()
    values[:, 36:] += 0.05
    straight, tonight, *_ = make_histories(values).find_moves(SERIES, compare(range(26), range(28, 40)))[0]["copy"]
    assert (straight.change, tonight.change) == pytest.approx((0.0, np.expm1(0.05)), abs=0.006)
    assert tonight.since == 36


def test_what_cards_add_is_no_move_and_is_another_for_each_reference_kernel() -> None:
    rng = np.random.default_rng(1)
    keys = [ReferenceKey(GPU.name, str(number), "graph", name) for number in range(30) for name in ("copy", "gemm")]
    cards = rng.integers(3, size=(len(keys), NUM_NIGHTS))
    share = np.array([0.3 if key.name == "copy" else 1.0 for key in keys])
    offsets = np.array([0.03, -0.02, 0.0])[cards] * share[:, None]
    noise = rng.normal(0, 0.001, cards.shape)
    steady = arrange_references(keys, np.arange(NUM_NIGHTS), noise + offsets, cards).values
    assert steady - np.median(steady, axis=1, keepdims=True) == pytest.approx(
        noise - np.median(noise, axis=1, keepdims=True), abs=0.0015
    )


def test_a_case_that_never_was_on_a_card_is_known_by_the_others() -> None:
    keys = [ReferenceKey(GPU.name, str(number), "graph", "copy") for number in range(10)]
    cards = np.random.default_rng(2).integers(2, size=(10, NUM_NIGHTS))
    cards[0, :-1], cards[0, -1] = 0, 1
    found = arrange_references(keys, np.arange(NUM_NIGHTS), 0.05 * cards, cards)
    assert found.values[0, -1] - np.median(found.values[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("num_runs", "moved"), [(2, 0.06), (COMMON_NIGHTS - 1, 0.06), (COMMON_NIGHTS, 0.0)])
def test_a_card_that_came_alone_is_no_excuse_for_a_slow_machine_and_after_a_week_is_the_machine(
    num_runs: int, moved: float
) -> None:
    keys = [ReferenceKey(GPU.name, str(number), "graph", "copy") for number in range(10)]
    is_new = np.tile(np.arange(NUM_NIGHTS) >= NUM_NIGHTS - num_runs, (10, 1))
    values = np.where(is_new, 0.06, draw()[0])
    found = arrange_references(keys, np.arange(NUM_NIGHTS), values, is_new.astype(np.int64)).values
    assert found[:, -1] - np.median(found[:, :20], axis=1) == pytest.approx(np.full(10, moved), abs=0.003)


def test_a_card_that_came_beside_others_is_known_at_once() -> None:
    keys = [ReferenceKey(GPU.name, str(number), "graph", "copy") for number in range(20)]
    cards = np.zeros((20, NUM_NIGHTS), dtype=np.int64)
    cards[:10, -1] = 1
    found = arrange_references(keys, np.arange(NUM_NIGHTS), 0.05 * cards, cards)
    assert found.values[:, -1] == pytest.approx(np.zeros(20), abs=1e-6)


def test_cards_that_take_turns_are_known() -> None:
    keys = [ReferenceKey(GPU.name, str(number), "graph", "copy") for number in range(3)]
    cards = np.tile(np.arange(NUM_NIGHTS) // 3 % 2, (3, 1))
    found = arrange_references(keys, np.arange(NUM_NIGHTS), 0.05 * cards, cards).values
    assert found - found[:, :1] == pytest.approx(np.zeros(found.shape), abs=1e-6)


def test_what_came_to_stay_is_no_move_of_later_nights() -> None:
    values = draw(3)
    values[:, 25:] -= 0.04
    found = arrange_references(KEYS, np.arange(NUM_NIGHTS), values, np.zeros(values.shape, dtype=np.int64))
    [move] = found.moves[GPU.name]
    assert move.run == 25
    moved = found.find_moves(SERIES, compare(range(20), range(39, 40)))
    assert max(abs(one.change) for of_case in moved for ways in of_case.values() for one in ways) < 0.01


def test_histories_are_medians_of_the_runs_of_a_seed_beside_each_case_on_each_card(tmp_path: Path) -> None:
    first, second = make_host(), replace(make_host(host_id="f" * 16), device_uuid="GPU-other")

    def commit(store: Store, run_id: str, host: Host, *samples_us: float, seed: int = 7) -> None:
        store.begin_run(make_run(run_id, seed=seed))
        series = make_measurement(run_id).series
        reference = ReferenceTime(run_id, series.case_key, "graph", host.host_id, "copy", STARTED, samples_us)
        of_host = replace(make_measurement(run_id), check=replace(make_measurement().check, host_id=host.host_id))
        store.commit_unit(run_id, UnitResult(host, None, (of_host,), (reference,)))

    with Store.open(tmp_path) as store:
        for number, us in enumerate((10.0, 11.0, 10.4)):
            commit(store, f"run-{number}", first, us - 1, us, us + 5)
        commit(store, "other-seed", first, 99.0, seed=8)
        commit(store, "run-4", first)  # nothing was timed
        commit(store, "run-5", second, 12.6)
        commit(store, "later", first, 99.0)
        found = store.reference_histories(store.find_run("run-5"))
        order = {run.run_id: number for number, run in enumerate(store.runs())}
    [key] = found.rows
    assert key == ReferenceKey(GPU.name, make_case().key, "graph", "copy")
    assert found.runs.tolist() == [order[run_id] for run_id in ("run-0", "run-1", "run-2", "run-5")]
    usual = statistics.median((10.0, 11.0, 10.4))
    on_first = found.values[0, :3] - found.values[0, 2]
    assert on_first == pytest.approx(np.log(np.array((10.0, 11.0, 10.4)) / usual))
    series: list[Series] = [make_series()]
    nights = np.array([[0, 1, 2, 5]])
    compared = Compared(nights, nights < 5, nights == 5, np.array([False]))
    move = found.find_moves(series, compared)[0]["copy"][0]
    assert move.change == pytest.approx(12.6 / 10.4 - 1)  # nobody knows the other card yet
