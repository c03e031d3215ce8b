"""What every route works with."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from ups_server.catalog import Catalog
from ups_server.files.examiner import Examiner
from ups_server.files.storage import FileStorage
from ups_server.jobs.local import LocalJobs
from ups_server.jobs.retention import Results
from ups_server.jobs.rollouts import RolloutRunner
from ups_server.settings import Settings
from ups_server.solve.engine import Engine


@dataclass(frozen=True)
class Service:
    """The parts of a running service."""

    settings: Settings
    catalog: Catalog
    engine: Engine
    examiner: Examiner
    jobs: LocalJobs
    rollouts: RolloutRunner
    results: Results

    @property
    def files(self) -> FileStorage:
        """The users' files."""
        return self.examiner.storage


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


CurrentService = Annotated[Service, Depends(_service)]
"""The service, as a parameter of a route."""
