"""More connections than descriptors: the service says so to those that come too late, and its log stays short."""

import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.api.conftest import wait_until
from tests.serving import ready
from ups_server.api.server import OWN_DESCRIPTORS, shares


@pytest.mark.parametrize("descriptors", [256, 1024, 65536])
def test_connections_leave_room_for_what_the_service_opens(descriptors: int) -> None:
    connections, backlog = shares(descriptors)
    assert connections + backlog + OWN_DESCRIPTORS <= descriptors
    assert connections >= descriptors // 4


def asked(connection: socket.socket, request: bytes) -> bytes:
    """The beginning of the answer."""
    connection.settimeout(60)
    if request:
        connection.sendall(request)
    return connection.recv(1000)


@pytest.mark.slow
def test_five_hundred_connections_at_256_descriptors(tmp_path: Path) -> None:
    serve = f"ulimit -n 256; exec {sys.executable} -m ups_server.cli serve --port 0 --data-dir {tmp_path / 'data'}"
    log = tmp_path / "log"
    environment = {"UPS_DEFAULT_MODEL": "persistence", "UPS_WORKER": "false"}
    with log.open("w") as written, ExitStack() as stack:
        process = subprocess.Popen(
            ["bash", "-c", serve], stdout=subprocess.PIPE, stderr=written, text=True, env={**os.environ, **environment}
        )
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        url = re.findall(r"http://[\d.]+:\d+", process.stdout.readline())[0]
        wait_until(lambda: ready(url), "the service is ready")
        host, port = url.removeprefix("http://").split(":")
        with ExitStack() as crowd:
            sockets = [crowd.enter_context(closing(socket.create_connection((host, int(port))))) for _ in range(500)]
            assert asked(sockets[-1], b"").startswith(b"HTTP/1.1 503")
            look = b"GET /v1/families HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert asked(sockets[0], look).startswith(b"HTTP/1.1 200"), "who was there before is answered"
            body = b'{"family": "advection", "initial_condition": {"sample": {}}, "n_steps": 1}'
            head = b"POST /v1/rollouts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            assert asked(sockets[1], head % len(body) + body).startswith(b"HTTP/1.1 200"), "and computed for"
        wait_until(lambda: ready(url), "there is room again")
    text = log.read_text()
    assert "Traceback" not in text
    assert len(text) < 20_000
