"""What a client does when nobody answers, or when it is asked to come again."""

import asyncio
import socket
import time
from collections.abc import Callable
from email.utils import formatdate

import httpx
import pytest

from ups_server.client import AsyncClient, Client, exchange
from ups_server.client.exchange import RETRIES, retry_after_s
from ups_server.errors import UserError

Answer = tuple[int, dict[str, str]]
FINE: Answer = (200, {})


class Scripted:
    """A service that gives one answer after another, the last one for good."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        status, headers = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return httpx.Response(status, headers=headers, json={"families": [], "id": "ft-1", "state": "queued"})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "pause_s", lambda failures: 0.0)


def client_of(service: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://service.test", httpx.MockTransport(service))


@pytest.mark.parametrize(
    "refusal",
    [
        (502, {}),
        (502, {"Retry-After": "0"}),
        (503, {}),
        (503, {"Retry-After": "0"}),
        (429, {"Retry-After": "0"}),
        (429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
    ],
)
def test_what_can_be_repeated_is_asked_again(refusal: Answer) -> None:
    service = Scripted(refusal, refusal, FINE)
    with client_of(service) as client:
        assert client.families() == []
    assert service.asked == 3
    forever = Scripted(refusal)
    with client_of(forever) as client, pytest.raises(httpx.HTTPStatusError):
        client.families()
    assert forever.asked == RETRIES + 1


@pytest.mark.parametrize(
    "refusal", [(429, {}), (429, {"Retry-After": "3600"}), (503, {"Retry-After": "soon"}), (500, {}), (404, {})]
)
def test_what_does_not_pass_soon_is_said_at_once(refusal: Answer) -> None:
    service = Scripted(refusal, FINE)
    with client_of(service) as client, pytest.raises(httpx.HTTPStatusError):
        client.families()
    assert service.asked == 1


@pytest.mark.parametrize(("refusal", "asked"), [((502, {}), 1), ((503, {}), 1), ((503, {"Retry-After": "0"}), 2)])
def test_what_may_have_happened_is_not_asked_twice(refusal: Answer, asked: int) -> None:
    """A cancellation through a proxy; but the service that names a time has done nothing."""
    service = Scripted(refusal, FINE)
    with client_of(service) as client:
        if asked == 1:
            with pytest.raises(httpx.HTTPStatusError):
                client.cancel("ft-1")
        else:
            assert client.cancel("ft-1").state == "queued"
    assert service.asked == asked


def test_retry_after_is_a_number_or_a_date() -> None:
    now = time.time()
    assert retry_after_s(" 7 ", now) == 7
    assert retry_after_s(formatdate(now + 60, usegmt=True), now) == pytest.approx(60, abs=1)
    assert retry_after_s(formatdate(now - 60, usegmt=True), now) == 0
    for neither in ("", "-1", "1.5", "tomorrow"):
        assert retry_after_s(neither, now) is None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_where_nobody_answers_the_client_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    async def asynchronously() -> None:
        async with AsyncClient(url) as client:
            await client.families()

    def blocking() -> None:
        with Client(url) as client:
            client.families()

    for ask in (blocking, lambda: asyncio.run(asynchronously())):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.code == "unreachable"
        assert url in str(caught.value)
        assert "ups serve" in (caught.value.hint or "")
        assert isinstance(caught.value, httpx.TransportError), "as whoever handled it before expects"
