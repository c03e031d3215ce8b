"""What keys have used is counted once, and kept; a bucket of requests fills evenly."""

import pytest

from tests.jobs.conftest import database, database_url, postgresql  # noqa: F401 (fixtures)
from ups_server.access.usage import KeyUsage, Meter, RateLimiter
from ups_server.jobs.database import Database
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import EvaluationSpec
from ups_server.jobs.store import JobStore


def test_the_meter_is_drained_once() -> None:
    meter = Meter()
    meter.computed("a", 1.0)
    meter.computed("a", 0.5)
    meter.computed("b", 2.0)
    assert meter.gathered("a") == 1.5
    assert meter.drain() == {"a": 1.5, "b": 2.0}
    assert meter.drain() == {}
    assert meter.gathered("a") == 0.0


def test_seconds_add_up_by_key(database: Database) -> None:  # noqa: F811
    account = KeyUsage(database)
    assert account.compute_today("a") == 0.0
    account.add({"a": 1.0, "b": 5.0})
    account.add({"a": 0.25})
    assert account.compute_today("a") == pytest.approx(1.25)
    assert account.compute_today("b") == pytest.approx(5.0)


def test_the_first_owner_keeps_it(database: Database) -> None:  # noqa: F811
    account = KeyUsage(database)
    account.record_owner("a", "file-1")
    account.record_owner("b", "file-1")
    account.record_owner("b", "file-2")
    assert (account.owned("a"), account.owned("b")) == ({"file-1"}, {"file-2"})


def test_jobs_tell_their_own_time(database: Database) -> None:  # noqa: F811
    account, store, leases = KeyUsage(database), JobStore(database), Leases(database)
    job, _ = store.create(EvaluationSpec(model="persistence", file="burgers"))
    account.record_owner("a", job.id)
    assert account.compute_today("a") == 0.0, "it has not begun"
    lease = leases.claim("worker")
    assert lease is not None
    leases.succeed(lease, {})
    ended = store.get(job.id)
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert account.compute_today("a") == pytest.approx(ended.finished_at - ended.started_at)
    assert account.compute_today("b") == 0.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_at_once_then_an_even_pace() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    assert [limiter.take("a", 4) for _ in range(4)] == [0.0] * 4
    assert limiter.take("a", 4) == pytest.approx(15.0)
    clock.now += 5.0
    assert limiter.take("a", 4) == pytest.approx(10.0), "a refusal costs nothing"
    clock.now += 10.0
    assert limiter.take("a", 4) == 0.0
    assert limiter.take("a", 4) == pytest.approx(15.0)


def test_keys_do_not_share() -> None:
    limiter = RateLimiter(Clock())
    assert [limiter.take(who, 1) for who in "ab"] == [0.0, 0.0]


def test_never_more_than_a_minutes_worth() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    limiter.take("a", 2)
    clock.now += 3600.0
    assert [limiter.take("a", 2) > 0 for _ in range(3)] == [False, False, True]
