"""The sets that a run has listed are kept with it, and come back in order, also out of Parquet."""

from dataclasses import replace
from pathlib import Path

from records import make_run
from tuners import LAYER

from tasks.checkout import CHECKOUT
from tasks.storage.store import Store
from tasks.tuning.listed import ListedSet, tell_states
from tasks.tuning.sets import SetState
from tasks.tuning.staleness import OURS, SHIPPED, TUNED, key_of

KEY = key_of(LAYER, SHIPPED, "NVIDIA H200")
LISTED = (
    ListedSet(KEY, SetState.STALE, ("Triton was 3.6.0 and is 3.7.1", "the default beats it by 4.1% at M=16"), 1.5),
    ListedSet(replace(KEY, provider=TUNED, block_shape=(128, 64)), SetState.MISSING, ("the shape has none",), 0.0),
    ListedSet(replace(KEY, provider=OURS), SetState.FRESH, (), 0.0),
)


def test_the_sets_of_a_run_come_back_in_order_and_are_listed_anew_when_it_is_resumed(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for number in (1, 2, 3):
            store.begin_run(make_run(f"run-{number}", number))
        store.notebook.keep_sets("run-1", LISTED[1:])
        store.notebook.keep_sets("run-1", LISTED)
        store.notebook.keep_sets("run-2", ())
        assert store.night("run-1").tuned_sets == LISTED
        assert store.night("run-2").tuned_sets == store.night("run-3").tuned_sets == ()
        store.export_parquet(tmp_path / "tables")
    with Store.from_parquet(tmp_path / "tables") as loaded:
        assert loaded.night("run-1").tuned_sets == LISTED


def test_an_export_of_before_has_listed_none() -> None:
    assert not (CHECKOUT / "examples" / "h200" / "tuned_sets.parquet").exists()
    with Store.from_parquet(CHECKOUT / "examples" / "h200") as store:
        assert store.night().tuned_sets == ()


def test_states_are_counted_in_their_order() -> None:
    assert tell_states([listed.state for listed in LISTED]) == "1 fresh, 1 stale, 0 unknown, 1 missing"
    assert [listed.is_fresh for listed in LISTED] == [False, False, True]
