"""What killed workers in this run and is not tried again; stored as it happens, so that a resumed run knows."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from kernels.spec import Case
from tasks.records import Crash, Host, Status

MOST_CRASHES = 2
"""Workers that one provider may kill on one case; a hang, which costs its whole limit, counts as two crashes."""


class Quarantine:
    """Counts what each provider did to its workers on each case. Every method may be called from any thread."""

    def __init__(self, run_id: str, earlier: Iterable[Crash], commit: Callable[[Crash], None]) -> None:
        """
        Args:
            earlier: crashes that the run has stored, if it is resumed.
            commit: stores a crash at once.
        """
        self._run_id = run_id
        self._commit = commit
        self._lock = threading.Lock()
        self._strikes: Counter[tuple[str, str, str]] = Counter()
        self._last: dict[tuple[str, str, str], Crash] = {}
        for crash in earlier:
            self._count(crash)

    def _count(self, crash: Crash) -> None:
        key = (crash.case_key, crash.provider, crash.device_name)
        self._strikes[key] += MOST_CRASHES if crash.status is Status.HUNG else 1
        self._last[key] = crash

    def note(self, case: Case, provider: str, host: Host, status: Status, reason: str) -> None:
        """Store that a provider killed its worker on a case, or hung in it."""
        crash = Crash(self._run_id, case.key, provider, host.device.name, status, reason, datetime.now(UTC))
        with self._lock:
            self._count(crash)
        self._commit(crash)

    def find(self, case: Case, provider: str, host: Host) -> tuple[Status, str] | None:
        """The status and reason of a provider that is not tried again on the case; None if it may run."""
        key = (case.key, provider, host.device.name)
        with self._lock:
            if self._strikes[key] < MOST_CRASHES:
                return None
            last = self._last[key]
        how = "hung once" if last.status is Status.HUNG else f"crashed {MOST_CRASHES} times"
        return last.status, f"{last.reason} ({how} in this run: not tried again)"
