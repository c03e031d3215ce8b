"""`kill -9` of the whole service between the end of a job and the delivery of its webhook: told once it is back."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from standardwebhooks import Webhook

from tests.api.conftest import DEADLINE_S, wait_until
from tests.api.test_webhooks import ROLLOUT, Receiver, receiver
from tests.serving import Serving, serving

__all__ = ["receiver"]

SETTINGS = {
    "DEFAULT_MODEL": "persistence",
    "WORKER": "false",
    "THREADS": "1",
    "WEBHOOKS_PRIVATE": "true",
    "WEBHOOK_RETRY_S": "2",
}


def state(service: Serving, webhook: dict[str, Any]) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/v1/webhooks/{webhook['id']}", timeout=DEADLINE_S).json())


def ended_and_killed(folder: Path, receiver: Receiver) -> tuple[dict[str, Any], dict[str, Any]]:
    """(webhook, job) of a service that was killed once the job had ended and a first attempt had been made."""
    with serving(folder, **SETTINGS) as service, httpx.Client(base_url=service.url, timeout=DEADLINE_S) as http:
        webhook = http.post("/v1/webhooks", json={"url": receiver.url, "states": ["succeeded"]}).json()
        job_id = http.post("/v1/rollouts", json=ROLLOUT, headers={"Prefer": "respond-async"}).json()["id"]
        wait_until(lambda: len(receiver.got) == 1, "the receiver is told")
        job = http.get(f"/v1/rollouts/{job_id}").json()
        family = psutil.Process(service.process.pid).children(recursive=True)
        os.kill(service.process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=60)
    assert job["state"] == "succeeded"
    return webhook, job


def check_told(receiver: Receiver, webhook: dict[str, Any], job: dict[str, Any]) -> None:
    """What came is signed, and by its id the second message is known to be the first."""
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
    for _, headers, body in receiver.got:
        message = Webhook(webhook["secret"]).verify(body, headers)
        assert (message["type"], message["data"]) == ("job.succeeded", job)


@pytest.mark.slow
def test_what_was_to_be_sent_again_is_sent_by_the_next_service(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers.append(500)
    webhook, job = ended_and_killed(tmp_path, receiver)
    with serving(tmp_path, **SETTINGS) as service:
        wait_until(lambda: state(service, webhook)["delivered"] == 1, "it is delivered")
        assert state(service, webhook)["waiting"] == 0
    assert len(receiver.got) == 2
    check_told(receiver, webhook, job)


@pytest.mark.slow
def test_what_nobody_knows_to_have_come_is_sent_again(tmp_path: Path, receiver: Receiver) -> None:
    """The receiver has the message, and the service dies before the answer; a claim runs out after half a minute."""
    receiver.held.clear()
    try:
        webhook, job = ended_and_killed(tmp_path, receiver)
    finally:
        receiver.held.set()
    with serving(tmp_path, **SETTINGS) as service:
        assert state(service, webhook)["waiting"] == 1
        wait_until(lambda: state(service, webhook)["delivered"] == 1, "it is delivered")
    assert len(receiver.got) == 2
    check_told(receiver, webhook, job)
