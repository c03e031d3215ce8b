"""Webhooks, to a receiver over real HTTP, verified by the public library of their specification."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.api.conftest import RunningService, running_service, wait_until
from ups_server.settings import Settings

ROLLOUT = {
    "model": "numerical",
    "family": "advection",
    "grid": {"n": [16]},
    "initial_condition": {"sample": {"seed": 1}},
    "n_steps": 2,
}


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses in `answers`, then with 204; keeps what it got. While `held` is not set it waits."""

    daemon_threads = True

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.held = threading.Event()
        self.held.set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_port}/jobs?from=ups"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.server.held.wait()
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have been killed meanwhile
            self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that may tell this machine, and soon tries again."""
    settings = Settings(
        default_model="persistence",
        data_dir=tmp_path_factory.mktemp("webhooks"),
        device="cpu",
        threads=1,
        worker=False,
        job_poll_s=0.05,
        webhooks_private=True,
        webhook_attempts=3,
        webhook_retry_s=0.01,
    )
    with running_service(settings) as running:
        yield running


@pytest.fixture
def webhook(telling: RunningService, receiver: Receiver) -> Iterator[dict[str, Any]]:
    made = telling.send("POST", "/v1/webhooks", {"url": receiver.url, "states": ["succeeded"]}).json()
    yield made
    telling.send("DELETE", f"/v1/webhooks/{made['id']}")


def order(service: RunningService) -> str:
    return str(service.post(ROLLOUT, prefer="respond-async").json()["id"])


def state(service: RunningService, webhook: dict[str, Any]) -> dict[str, Any]:
    return dict(service.get(f"/v1/webhooks/{webhook['id']}").json())


def test_a_job_that_has_ended_is_told_and_signed(
    telling: RunningService, receiver: Receiver, webhook: dict[str, Any]
) -> None:
    job_id = order(telling)
    wait_until(lambda: state(telling, webhook)["delivered"] == 1, "it is delivered")
    ((path, headers, body),) = receiver.got
    assert path == "/jobs?from=ups"
    assert headers["host"] == f"localhost:{receiver.server_port}"
    message = Webhook(webhook["secret"]).verify(body, headers)
    assert message["type"] == "job.succeeded"
    assert message["data"] == telling.get(f"/v1/rollouts/{job_id}").json()
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook["secret"]).verify(body.replace(b"succeeded", b"failed"), headers)


def test_it_is_sent_again_until_it_is_taken(
    telling: RunningService, receiver: Receiver, webhook: dict[str, Any]
) -> None:
    receiver.answers += [500, 302]
    order(telling)
    wait_until(lambda: state(telling, webhook)["delivered"] == 1, "it is delivered")
    assert [path for path, _, _ in receiver.got] == ["/jobs?from=ups"] * 3  # a redirect is not followed
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
    for _, headers, body in receiver.got:
        Webhook(webhook["secret"]).verify(body, headers)
    assert state(telling, webhook)["last_error"] == "the receiver answered 302"


def test_it_is_given_up_in_the_end(telling: RunningService, receiver: Receiver, webhook: dict[str, Any]) -> None:
    receiver.answers += [500] * 9
    order(telling)
    wait_until(lambda: state(telling, webhook)["given_up"] == 1, "it is given up")
    assert (len(receiver.got), state(telling, webhook)["waiting"]) == (3, 0)


def test_secrets_are_shown_once_and_nothing_follows_a_deletion(telling: RunningService, receiver: Receiver) -> None:
    made = telling.send("POST", "/v1/webhooks", {"url": receiver.url, "states": ["queued", "succeeded"]})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/webhooks/{made.json()['id']}"
    (shown,) = telling.get("/v1/webhooks").json()["webhooks"]
    assert "secret" not in shown
    assert made.json()["secret"].startswith("whsec_")
    assert telling.send("DELETE", f"/v1/webhooks/{shown['id']}").status_code == 204
    assert telling.get(f"/v1/webhooks/{shown['id']}").json()["code"] == "unknown_webhook"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"url": "http://localhost:9/jobs"}, "private_target"),
        ({"url": "http://user:word@example.org/"}, "invalid_target"),
        ({"url": "ftp://example.org/"}, "invalid_request"),
        ({"url": "http://93.184.216.34/", "states": ["gone"]}, "invalid_request"),
        ({"url": "http://93.184.216.34/", "states": []}, "invalid_request"),
    ],
)
def test_where_nothing_is_sent(service: RunningService, document: dict[str, Any], code: str) -> None:
    assert service.send("POST", "/v1/webhooks", document).json()["code"] == code
    assert service.get("/v1/webhooks").json()["webhooks"] == []
