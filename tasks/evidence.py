"""What the store holds for the verdicts of a night: its past, the machine beside it, and why a group moved."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tasks.judgement.causes import find_causes, tell_retrials
from tasks.judgement.findings import Past
from tasks.judgement.groups import Group
from tasks.judgement.history import find_standings
from tasks.judgement.incidents import FollowUp, follow_up
from tasks.judgement.machines import find_clocks
from tasks.judgement.suspects import find_suspects, spare_earlier_code
from tasks.records import Measurement, Run, Series, Suspect, Verdict
from tasks.storage.store import Store


def gather_past(
    store: Store,
    run: Run,
    measurements: Sequence[Measurement],
    left: Collection[tuple[str, str]] = (),
    known: Past | None = None,
) -> Past:
    """Everything that the measurements of a run are judged by.

    Args:
        left: layer keys and device names of units that are still to be measured: nobody misses their series yet.
        known: what was gathered since all units were measured: the histories, which take longest to read, still hold.
    """
    runs = {earlier.run_id: earlier for earlier in store.runs()}
    order = {run_id: number for number, run_id in enumerate(runs)}
    return Past(
        run_id=run.run_id,
        runs=runs,
        trends=known.trends if known else store.trends(run),
        standings=find_standings(store.journal.latest_verdicts(run), store.journal.marks(), order),
        expected=[s for s in store.previous_series(run) if (layer_of(s), s.device_name) not in left],
        references=known.references if known else store.reference_histories(run),
        clocks=known.clocks if known else find_clocks(measurements, store.usual_clocks(run)),
        retrials=store.journal.retrials(run.run_id),
    )


def layer_of(series: Series) -> str:
    """The key of the layer, with which that of a case begins."""
    return series.case_key.partition("/num_tokens=")[0]


def gather_suspects(store: Store, past: Past, measurements: Sequence[Measurement]) -> list[Suspect]:
    """The series of a run that are to be measured again, without those that were, each with its last good config."""
    done = {retrial.measurement.series for retrial in past.retrials}
    suspects = [suspect for suspect in find_suspects(measurements, past) if suspect.series not in done]
    suspects = spare_earlier_code(suspects)
    configs = {
        (good_run, m.series): m.check.config
        for good_run in {suspect.good_run for suspect in suspects if suspect.good_run}
        for m in store.measurements(good_run)
    }
    return [replace(s, good_config=configs.get((s.good_run, s.series), {})) for s in suspects]


def follow_incidents(store: Store, past: Past, verdicts: Sequence[Verdict]) -> FollowUp:
    """What the verdicts of a run make of the incidents in the store."""
    run = past.runs[past.run_id]

    def find(group: Group) -> list[str]:
        return gather_causes(store, past, group)

    return follow_up(store.journal.standing_incidents(), verdicts, run, past.order, datetime.now(UTC), find)


def gather_causes(store: Store, past: Past, group: Group) -> list[str]:
    """Why a group moved: what was measured beside it, and what differs between the runs around its beginning."""
    told = tell_retrials(past.retrials, group.verdicts)
    order = past.order
    first = order.get(group.since_run, len(order))
    before = Counter(
        max(earlier, key=order.__getitem__)
        for series in group.series
        if (earlier := [p.run_id for p in past.trends.get(series, ()) if order[p.run_id] < first])
    )
    if not before or group.since_run not in past.runs:
        return told
    [(older, _)] = before.most_common(1)
    return told + find_causes(store.bare_night(older), store.bare_night(group.since_run), group.series)
