"""What webhooks are told is written down with the change of the job; where it may go to."""

import pytest

from ups_server.errors import UserError
from ups_server.jobs.database import Database
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import EvaluationSpec, JobState
from ups_server.jobs.store import JobStore
from ups_server.jobs.webhooks import WebhookRequest, WebhookStore, resolved

EVERY = WebhookRequest(url="https://example.org/jobs", states=tuple(JobState))


def test_every_change_of_state_is_told_in_order(
    database: Database, store: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    webhooks = WebhookStore(database)
    made = webhooks.create(EVERY)
    job, _ = store.create(spec)
    lease = leases.claim("worker")
    assert lease is not None
    leases.running(lease)
    leases.event(lease, "progress", {"done": 1})
    leases.succeed(lease, {"score": 1.0})
    store.delete(job.id)
    told = []
    while (delivery := webhooks.claim()) is not None:
        told.append(delivery.body.partition('"type":"job.')[2].partition('"')[0])
        webhooks.delivered(delivery)
    assert told == ["queued", "validating", "running", "succeeded"]
    assert (webhooks.get(made.id).delivered, webhooks.get(made.id).waiting) == (4, 0)


def test_a_change_that_is_undone_is_not_told(database: Database, store: JobStore, spec: EvaluationSpec) -> None:
    webhooks = WebhookStore(database)
    webhooks.create(EVERY)
    store.create(spec, "key")
    store.create(spec, "key")
    first = webhooks.claim()
    assert first is not None
    assert webhooks.claim() is None


def test_who_is_killed_while_sending_sends_again(database: Database, store: JobStore, spec: EvaluationSpec) -> None:
    webhooks = WebhookStore(database)
    webhooks.create(EVERY)
    store.create(spec)
    first = webhooks.claim(seconds=0)
    again = webhooks.claim()
    assert first is not None
    assert again is not None
    assert (again.id, again.body, again.attempt) == (first.id, first.body, 2)
    webhooks.failed(again, "500", pause_s=0)
    third = webhooks.claim()
    assert third is not None
    assert third.attempt == 3
    webhooks.failed(third, "500", pause_s=None)
    assert webhooks.claim() is None
    webhooks.sweep(age_s=-1)
    assert webhooks.all()[0].given_up == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
def test_targets_inside_are_refused(host: str) -> None:
    with pytest.raises(UserError) as caught:
        resolved(f"http://{host}/jobs", private=False)
    assert caught.value.code == "private_target"


@pytest.mark.parametrize(("host", "address"), [("93.184.216.34", "93.184.216.34"), ("[2606:4700::1]", "2606:4700::1")])
def test_public_targets_are_taken(host: str, address: str) -> None:
    assert resolved(f"https://{host}:8443/jobs", private=False) == address


def test_a_setting_allows_private_ones() -> None:
    assert resolved("http://127.0.0.1/", private=True) == "127.0.0.1"


@pytest.mark.parametrize("url", ["https://", "https://a:b@93.184.216.34/", "https://93.184.216.34/#a", "gopher://a/"])
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(UserError) as caught:
        resolved(url, private=True)
    assert caught.value.code == "invalid_target"
