"""What the store reads as columns is what was measured, night by night."""

from dataclasses import replace
from pathlib import Path

from records import make_ceiling, make_host, make_measurement, make_run, make_unit

from tasks.storage.store import Store


def fill(store: Store) -> None:
    """Three nights of two providers, the last with another configuration."""
    for number, config in enumerate(({"num_warps": 4}, {"num_warps": 4}, {"num_warps": 8})):
        run = store.begin_run(make_run(f"run-{number}", number))
        store.commit_ceilings([make_ceiling("copy", 4000.0 + number, run.run_id)])
        made = [make_measurement(run.run_id, provider=name, config=config) for name in ("torch", "triton")]
        store.commit_unit(run.run_id, make_unit([replace(made[0], samples_us=(1.0 + number,)), made[1]]))


def test_a_setting_is_one_for_all_nights_that_share_it_and_rates_are_of_their_night(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        fill(store)
        histories = store.night("run-2").trends
    assert len(histories) == 2
    for history in histories.columns.values():
        assert history.nights.tolist() == [0, 1, 2]
        first, second, third = history.settings.tolist()
        assert first == second != third
        assert histories.settings[third].config == '{"num_warps": 8}'
        assert histories.settings[third].host_id == make_host().host_id
    assert histories.rates["copy"][:, 0].tolist() == [4000.0, 4001.0, 4002.0]
    [torch] = [history for series, history in histories.columns.items() if series.provider == "torch"]
    assert torch.median_us.tolist() == [1.0, 2.0, 3.0]
