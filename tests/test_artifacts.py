"""What Prefect's page of a run shows: made-up nights and servers that fail; test_deployments.py has the real ones."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from nights import HOSTILE, make_incidents, make_night

from flows import artifacts
from flows.artifacts import RunPage, show_night, show_progress, tell_verdicts

RUN = "0b6e1d4c-2f50-4a8e-9a0e-1f3d5c7b9a11"
HANG = 0


class Server:
    """Answers every request with one status, or not at all; keeps what was asked for."""

    def __init__(self, status: int) -> None:
        self.asked: list[str] = []
        self.closed = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                server.asked.append(self.path)
                if status == HANG:
                    server.closed.wait(30)
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PATCH = answer  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/api"

    @contextmanager
    def open(self) -> Iterator["Server"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.closed.set()
            self._http.shutdown()
            thread.join()
            self._http.server_close()


@pytest.fixture
def in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process of a flow run, of which Prefect tells by these variables."""
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "nightly")
    monkeypatch.setattr(artifacts, "TIMEOUT_SECONDS", 0.3)


@contextmanager
def served_by(status: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with Server(status).open() as server, temporary_settings({PREFECT_API_URL: server.url}):
        monkeypatch.setenv("PREFECT_API_URL", server.url)
        yield server


@pytest.mark.usefixtures("in_a_run")
@pytest.mark.parametrize("status", [500, 404, HANG])
def test_a_server_that_takes_nothing_costs_one_line_and_little_time(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with served_by(status, monkeypatch) as server:
        page, started = RunPage(told.append), time.monotonic()
        assert page.is_shown
        assert page.put("markdown", "verdicts", "text", "what it is") is None
        page.change(UUID(RUN), 50.0, "half")
        assert time.monotonic() - started < 10
        assert server.asked
    [line] = told
    assert line.startswith("the Prefect server of PREFECT_API_URL takes no artifact: ")


@pytest.mark.usefixtures("in_a_run")
def test_the_progress_of_a_run_ends_with_the_run_though_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    session = SimpleNamespace(tell=told.append, progress=SimpleNamespace(counted=(0, 2)))
    with served_by(HANG, monkeypatch):
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="of the run"), show_progress(session):
            session.progress.counted = (1, 2)
            raise RuntimeError("of the run")
        assert time.monotonic() - started < 10
    assert len(told) == 1


@pytest.mark.usefixtures("in_a_run")
def test_without_a_server_that_lasts_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served_by(500, monkeypatch) as server:
        monkeypatch.delenv("PREFECT_API_URL")
        show_night(make_night(), tmp_path / "index.html", "")
        with show_progress(SimpleNamespace(tell=print, progress=None)):
            assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
        assert server.asked == []
    assert capsys.readouterr().out == ""


def test_the_verdicts_of_each_kernel_are_counted_by_state() -> None:
    night = make_night()
    night = replace(night, incidents=make_incidents(night))
    text = tell_verdicts(night)
    head, rule, *rows = text.partition("### Verdicts\n\n")[2].splitlines()
    states = [cell.strip() for cell in head.strip("|").split("|")][1:]
    assert rule.count("--:") == len(states)
    counted = {}
    for row in rows:
        kernel, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        counted |= {(kernel.strip("`"), state): int(cell) for state, cell in zip(states, cells, strict=True) if cell}
    for (kernel, state), number in counted.items():
        found = [v for v in night.verdicts if v.series.case_key.startswith(f"{kernel}/") and v.state == state]
        assert len(found) == number
    assert sum(counted.values()) == len(night.verdicts)
    assert "### Open" in text
    assert f"\n{HOSTILE}" not in text
