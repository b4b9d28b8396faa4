"""Whether Ray listens at an address, asked before Ray itself is: that would try for minutes, and then exit."""

import os
import socket
from contextlib import suppress

ADDRESS_SECONDS = 10.0
"""Longest that a Ray cluster's port may take to answer."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a gRPC client says first (RFC 9113, 3.4): the preface and an empty SETTINGS frame."""


def knock(address: str) -> None:
    """Raise OSError if nobody at "host:port" speaks gRPC; "auto" is left to Ray, which looks at this machine only."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    with socket.create_connection((host, int(port)), timeout=ADDRESS_SECONDS) as line:
        if os.environ.get("RAY_USE_TLS") == "1":
            return
        line.sendall(GREETING)
        answer = b""
        with suppress(TimeoutError, ConnectionResetError):
            while len(answer) < 4 and (more := line.recv(64)):
                answer += more
        if answer[3:4] != b"\4":  # the type of a SETTINGS frame
            raise ConnectionError("something else than Ray listens there")
