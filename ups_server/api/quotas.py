"""What a key may use: how often it asks, how many bytes it stores, how long is computed for it."""

import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

from fastapi import Request

from ups_server.access.keys import DAY_S, ApiKey, KeyLimits
from ups_server.access.usage import Usage
from ups_server.api.service import Service
from ups_server.errors import UserError

COMPUTING = frozenset({"rollouts", "super-resolution", "evaluations", "fine-tuning"})
"""Tags of routes whose creations make the engine or the worker compute."""


class LimitReached(UserError):
    """429: asking again after `retry_after` seconds helps."""

    def __init__(self, code: str, message: str, retry_after: float, expected: str) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(code, message, expected=expected, hint=f"ask again in {self.retry_after} s")


def limits_of(key: ApiKey, service: Service) -> KeyLimits:
    """A key's own limits, and the settings' where it has none."""
    settings = service.settings
    return KeyLimits(
        requests_per_minute=key.requests_per_minute or settings.key_requests_per_minute,
        stored_bytes=settings.key_stored_bytes if key.stored_bytes is None else key.stored_bytes,
        compute_seconds=settings.key_compute_seconds if key.compute_seconds is None else key.compute_seconds,
    )


def check_rate(key: ApiKey, service: Service) -> None:
    """Raises LimitReached ``rate_limited``."""
    allowed = limits_of(key, service).requests_per_minute
    if allowed is None:
        return
    wait = service.rates.take(key.id, allowed)
    if wait > 0:
        raise LimitReached(
            "rate_limited", "too many requests with this key", wait, f"at most {allowed} requests a minute"
        )


def check_compute(request: Request, tags: Collection[str], key: ApiKey, service: Service) -> None:
    """Raises LimitReached ``compute_quota_exceeded`` where something would begin that the key has no time left for."""
    begins = request.method == "POST" and COMPUTING.intersection(tags) and not request.url.path.endswith("/cancel")
    allowed = limits_of(key, service).compute_seconds
    if begins and allowed is not None and computed_today(key, service) >= allowed:
        tomorrow = DAY_S - time.time() % DAY_S
        raise LimitReached(
            "compute_quota_exceeded", "this key has used its time", tomorrow, f"at most {allowed:g} s a day (UTC)"
        )


def computed_today(key: ApiKey, service: Service) -> float:
    """Seconds that engine and worker computed for a key since midnight, UTC."""
    return Usage(service.jobs.database).compute_today(key.id) + service.meter.gathered(key.id)


@contextmanager
def reserved(resource: str, size: int, key: ApiKey | None, service: Service) -> Iterator[None]:
    """While a block makes a file or a job of `size` bytes, they count for its key.

    Raises:
        UserError: ``quota_exceeded`` where they are more than the key may store.
    """
    allowed = None if key is None else limits_of(key, service).stored_bytes
    if key is None or allowed is None:
        yield
        return
    usage = Usage(service.jobs.database)
    left = usage.reserve(key.id, resource, size, allowed, partial(sizes_of, service))
    if size > left:
        raise UserError(
            "quota_exceeded",
            "files and results of this key would exceed its quota",
            got=size,
            expected=f"at most {max(left, 0)} bytes, of {allowed} in all",
            hint="delete files and queued rollouts that are not needed any more",
        )
    try:
        yield
    finally:
        usage.settle(resource)


def stored_bytes(key: ApiKey, service: Service) -> int:
    """Bytes of all files that a key uploaded and of the results of its asynchronous rollouts, planned ones included."""
    return Usage(service.jobs.database).taken(key.id, partial(sizes_of, service))


def sizes_of(service: Service, resources: Collection[str]) -> dict[str, int]:
    """Bytes of those files and results that are there, by id; frames that are still to come included."""
    files = {record.id: record.size for record in service.files.records() if record.id in resources}
    return {**files, **service.results.sizes(set(resources) - files.keys())}
