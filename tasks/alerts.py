"""What a night tells people without being asked: one line per series that needs a look. Only the console so far."""

from collections.abc import Iterable

from tasks.records import Verdict
from tasks.verdicts import ATTENTION


def list_alerts(verdicts: Iterable[Verdict]) -> list[str]:
    """One line per verdict that somebody should look at, gravest state first."""
    urgent = [verdict for verdict in verdicts if verdict.state in ATTENTION]
    urgent.sort(key=lambda verdict: (ATTENTION.index(verdict.state), verdict.series.case_key))
    return [f"{v.state} {v.series.case_key} {v.series.provider} ({v.series.timer}): {v.evidence}" for v in urgent]
