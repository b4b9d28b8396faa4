"""What would be told of a made-up year: how much of it is true, what is missed, how late, at what cost.

    python benchmarks/replay.py [--series 2000] [--nights 365] [--seed 0] [--step 0.05]

Judges every night of a made-up history (histories.py) as the nightly run does (replays.py). A person expects an
incident a week after it was opened. With --step all steps are of that size. The targets: at most one false group of
series a week, and a step of 5 % in one series confirmed within 3 nights in at least 90 % of cases.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from histories import NOISES, Event, Plan, make_history
from replays import Score, find_delays, name_series, replay, score_replay, share_within

from tasks.records import State

FALSE_A_WEEK_TARGET = 1.0
WEEK = 7
FULL = Plan()


def make_plan(num_series: int, num_nights: int, seed: int) -> Plan:
    """As much of everything as there are series and nights; hosts of 1 to 4 cards."""
    nights, both = num_nights / FULL.num_nights, num_nights * num_series / FULL.num_nights / FULL.num_series
    return Plan(
        num_series=num_series,
        num_nights=num_nights,
        num_cards=4 - seed % 4,
        num_steps=round(FULL.num_steps * both),
        num_group_steps=round(FULL.num_group_steps * nights),
        num_drifts=max(1, round(FULL.num_drifts * both)),
        num_outages=round(FULL.num_outages * nights),
        num_skipped=round(FULL.num_skipped * nights),
        num_library_changes=round(FULL.num_library_changes * nights),
        num_driver_changes=round(FULL.num_driver_changes * nights),
        num_swaps=round(FULL.num_swaps * nights),
    )


def print_told(score: Score, seconds: float) -> None:
    """How much of what was told is true."""
    opened, false = len(score.opened), len(score.false)
    is_met = score.false_a_week <= FALSE_A_WEEK_TARGET
    print(f"incidents of times {opened}, of which false {false}: precision {1 - false / max(1, opened):.1%}")
    target = f"target {FALSE_A_WEEK_TARGET:g} {'ok' if is_met else 'OVER'}"
    print(f"false groups a week, of 2,000 series: {score.false_a_week:.2f} ({target})")
    early = sum(number < WEEK * 4 for number, _ in score.false)
    slow = sum(incident.state is State.SLOW for _, incident in score.false)
    print(f"  of them in the first four weeks {early}; SLOW {slow}, FAST {false - slow}")
    near = {kind: count_near(score, kind) for kind in ("outage", "card swap", "driver")}
    print("  within three nights of an " + ", ".join(f"{kind}: {count}" for kind, count in near.items()))
    print(f"opened again within a week: {len(score.repeated)} series; blamed on the machine: {score.num_machine}")
    told = ", ".join(f"{kind} {count}" for kind, count in score.num_alerts.items())
    print(f"messages: {told}")
    both = score.confirmed + score.withdrawn
    share = score.withdrawn / max(1, both)
    print(f"steps measured again on their first three nights: {both}, falsely withdrawn {share:.1%}")
    print(f"seconds a night: {seconds / score.num_runs:.2f}")


def count_near(score: Score, kind: str) -> int:
    """False incidents within three nights of events of a kind."""
    firsts = [event.first for event in score.history.events if event.kind == kind]
    lasts = [event.last if kind == "outage" else event.first for event in score.history.events if event.kind == kind]
    spans = list(zip(firsts, lasts, strict=True))
    return sum(any(first <= number <= last + 3 for first, last in spans) for number, _ in score.false)


def print_delays(score: Score, name: str, events: Sequence[Event]) -> None:
    """One line of the table: how many of some events were told, and how late."""
    delays = find_delays(score, events)
    found = sorted(delay for delay in delays if delay is not None)
    late = f"{statistics.median(found):6.0f} {found[int(0.9 * (len(found) - 1))]:5d}" if found else "     -     -"
    share = len(found) / max(1, len(delays))
    print(f"  {name:34} {len(delays):5d} {share_within(delays, 3):10.1%} {share:7.1%} {late}")


def print_found(score: Score) -> None:
    """How much of what happened is told, by size and by noise."""
    steps = [event for event in score.history.events if event.kind == "step"]
    print(f"\n  {'':34} {'cases':>5} {'3 nights':>10} {'ever':>7} {'median':>6} {'p90':>5}  nights until told")
    for size in sorted({abs(event.size) for event in steps}):
        print_delays(score, f"steps of {size:.0%}", [event for event in steps if abs(event.size) == size])
    for noise in NOISES:
        large = [e for e in steps if abs(e.size) >= 0.0499 and score.history.noises[e.rows[0]] == noise]
        print_delays(score, f"steps of 5 % and more, {noise}", large)
    print_delays(score, "drifts", [event for event in score.history.events if event.kind == "drift"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=FULL.num_series)
    parser.add_argument("--nights", type=int, default=FULL.num_nights)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=float, action="append", help="relative size of the steps; repeatable")
    arguments = parser.parse_args()
    plan = make_plan(arguments.series, arguments.nights, arguments.seed)
    plan = replace(plan, step_sizes=arguments.step or plan.step_sizes)
    history = make_history(plan, arguments.seed)
    start = time.process_time()
    score = score_replay(history, replay(history))
    print(f"seed {arguments.seed}: {plan.num_series} series, {score.num_runs} nights, {plan.num_cards} cards")
    print_told(score, time.process_time() - start)
    print_found(score)
    names = name_series(history)
    for number, incident in score.false:
        noise = history.noises[names[incident.series[0]]]
        print(f"\nfalse, night {number}, {noise} noise: {incident.headline}\n  {incident.evidence}")


if __name__ == "__main__":
    main()
