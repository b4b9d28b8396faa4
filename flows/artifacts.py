"""What Prefect's page of a run shows besides its tasks: how far it is, its verdicts, and where its site is.

It is there for whoever looks on. What the server does not take is left out, and one line says so: nothing here fails a
run, or keeps it waiting for longer than the server's few answers may take.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from rich.console import Console

from tasks.channels.markdown import make_markdown
from tasks.lines import print_line
from tasks.nights import Night
from tasks.progress import RunProgress
from tasks.records import State
from tasks.session import Session

TIMEOUT_SECONDS = 4.0
"""Longest wait for each part of the server's answer."""
INTERVAL_SECONDS = 5.0
"""Between two looks at how far a run is."""

Answer = TypeVar("Answer")


class RunPage:
    """The page of the flow run in hand; without PREFECT_API_URL there is no server that lasts, and nothing is sent."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """
        Args:
            tell: called with one line when the server does not take something, once.
        """
        self._run_id = UUID(flow_run.id) if flow_run.id and "PREFECT_API_URL" in os.environ else None
        self._flow_name = flow_run.flow_name
        self._tell: Callable[[str], None] | None = tell

    @property
    def is_shown(self) -> bool:
        """Whether there is a page to put anything on."""
        return self._run_id is not None

    def put(self, kind: str, name: str, data: str | float, description: str) -> UUID | None:
        """Add something of one of Prefect's kinds, "markdown" or "progress"; its id, or None if that failed."""
        if not self.is_shown:
            return None
        key = f"{self._flow_name}-{name}"
        made = ArtifactCreate(key=key, type=kind, data=data, description=description, flow_run_id=self._run_id)
        answer = self._try(lambda client: client.create_artifact(made))
        return answer.id if answer else None

    def change(self, artifact_id: UUID, data: float, description: str) -> None:
        """Replace what was added before."""
        changed = ArtifactUpdate(data=data, description=description)
        self._try(lambda client: client.update_artifact(artifact_id, changed))

    def _try(self, send: Callable[[SyncPrefectClient], Answer]) -> Answer | None:
        try:
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_SECONDS}) as client,
            ):
                return send(client)
        except (httpx.HTTPError, PrefectException, RuntimeError, ValueError, OSError) as error:
            if self._tell:
                self._tell(f"the Prefect server of PREFECT_API_URL takes no artifact: {type(error).__name__}")
            self._tell = None
            return None


@contextmanager
def show_progress(session: Session) -> Iterator[None]:
    """Show how many units are measured while the block lasts, from a thread of its own: no unit waits."""
    page = RunPage(session.tell)
    if not page.is_shown:
        yield
        return
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(page, session.progress, ended), name="progress", daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _follow(page: RunPage, progress: RunProgress, ended: threading.Event) -> None:
    """Put the progress on the page, and change it there whenever it has changed, until the run has ended."""
    artifact_id: UUID | None = None
    shown = (-1, -1)
    while True:
        is_last = ended.is_set()
        if progress.counted != shown:
            done, total = shown = progress.counted
            percent, description = (100.0 * done / total if total else 100.0), f"{done} of {total} units are measured"
            if artifact_id:
                page.change(artifact_id, percent, description)
            else:
                artifact_id = page.put("progress", "progress", percent, description)
        if is_last:
            return
        ended.wait(INTERVAL_SECONDS)


def show_night(night: Night, site: Path, site_url: str) -> None:
    """Show the verdicts, and where the site is.

    Args:
        site: its front page.
        site_url: where its folder is served; "" links the file, which a browser opens on this machine only.
    """
    page = RunPage(lambda line: print_line(Console(), line))
    page.put("markdown", "verdicts", tell_verdicts(night), f"Verdicts and incidents of run {night.run.run_id}")
    link = site_url + site.name if site_url else site.resolve().as_uri()
    page.put("markdown", "site", f"[{link}]({link})", f"Site of run {night.run.run_id}")


def show_text(text: str, description: str) -> None:
    """Show a Markdown text as what the run has found."""
    page = RunPage(lambda line: print_line(Console(), line))
    page.put("markdown", "verdicts", text, description)


def tell_verdicts(night: Night) -> str:
    """Markdown: the incidents, and how many series of each kernel are in which state."""
    counts = Counter((v.series.case_key.partition("/")[0], v.state) for v in night.verdicts)
    states = [state for state in State if any(found is state for _, found in counts)]
    lines = ["### Verdicts", "", f"| kernel | {' | '.join(states)} |", "|---|" + "--:|" * len(states)]
    for kernel in sorted({kernel for kernel, _ in counts}):
        cells = [f"`{kernel}`", *(str(counts[kernel, state] or "") for state in states)]
        lines += [f"| {' | '.join(cells)} |"]
    return make_markdown(night.run, night.verdicts, night.incidents) + "\n".join(lines if counts else []) + "\n"
