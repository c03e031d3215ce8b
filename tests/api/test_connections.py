"""More connections than descriptors: the service says so to those that come too late, and its log stays short."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from tests.api.conftest import wait_until
from tests.serving import ready
from ups_server.api import server
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


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_connection_whose_request_does_not_come_is_closed(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.2)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.4)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> None:
        config = uvicorn.Config(app, log_config=None, timeout_keep_alive=60)
        config.load()
        protocol, state = server.protocol_of(8), ServerState()
        listening = await asyncio.get_running_loop().create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
        async with listening:
            address = listening.sockets[0].getsockname()[:2]
            reader, writer = await asyncio.open_connection(*address)
            async with asyncio.timeout(30):
                writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204"), "an answer takes its time"
                writer.write(beginning or b"G")
                assert (await reader.read()).startswith(b"HTTP/1.1 408"), "another head does not come"
            writer.close()
            await writer.wait_closed()
            reader, writer = await asyncio.open_connection(*address)
            async with asyncio.timeout(30):
                writer.write(beginning)
                assert (await reader.read()).startswith(b"HTTP/1.1 408"), "no head comes"
            writer.close()
            await writer.wait_closed()
        assert not state.connections

    asyncio.run(scenario())


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
