"""What tests ask of a server, answered by a real one over HTTP."""

from urllib.error import HTTPError

import pytest
import servers
from servers import ask
from sinks import http_sink


def test_a_server_whose_database_is_locked_is_asked_again() -> None:
    with http_sink(503, 503, 200, body=b'{"id": 1}') as server:
        assert ask(server.url, {"name": "nightly"}) == {"id": 1}
    assert server.bodies == ['{"name": "nightly"}'] * 3


@pytest.mark.parametrize(("status", "seconds"), [(500, 30.0), (503, 0.0)], ids=["a fault", "locked for too long"])
def test_what_asking_again_does_not_help_is_raised(
    status: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "LOCKED_SECONDS", seconds)
    with http_sink(status, 200) as server, pytest.raises(HTTPError, match=str(status)):
        ask(server.url, {})
    assert len(server.bodies) == 1
