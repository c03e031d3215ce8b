"""A bucket fills evenly."""

import pytest

from ups_server.access.usage import RateLimiter


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
