"""What every route works with."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from ups_server.access.usage import Meter, RateLimiter
from ups_server.api.memory import Memory
from ups_server.catalog import Catalog
from ups_server.engine.engine import Engine
from ups_server.files.examination import Examiner
from ups_server.files.storage import FileStorage
from ups_server.jobs.local import LocalJobs
from ups_server.jobs.results import Results
from ups_server.jobs.rollouts import RolloutRunner
from ups_server.settings import Settings

FETCHES = 2


@dataclass(frozen=True)
class Service:
    """The parts of a running service.

    Attributes:
        memory: for requests that are read and planned.
        answers: memory for answers that are computed and written.
        fetches: how many copies are made of what lies elsewhere at the same time.
        draining: the service is about to end; set by whoever runs it.
    """

    settings: Settings
    catalog: Catalog
    engine: Engine
    examiner: Examiner
    jobs: LocalJobs
    rollouts: RolloutRunner
    results: Results
    memory: Memory
    answers: Memory
    rates: RateLimiter = field(default_factory=RateLimiter)
    meter: Meter = field(default_factory=Meter)
    fetches: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FETCHES))
    draining: threading.Event = field(default_factory=threading.Event)

    @property
    def files(self) -> FileStorage:
        """The users' files."""
        return self.examiner.storage


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def place_of(request: Request, resource: str) -> str:
    """The address of something that a request to its collection has made, as the client has to ask for it."""
    return f"{request.url.path}/{resource}"


CurrentService = Annotated[Service, Depends(_service)]
"""The service, as a parameter of a route."""
