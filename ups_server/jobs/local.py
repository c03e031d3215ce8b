"""The jobs of a running service: the database, and the worker of this machine."""

import asyncio

from ups_server.jobs.database import Database, open_database
from ups_server.jobs.leases import Leases
from ups_server.jobs.store import JobStore
from ups_server.jobs.supervisor import WorkerSupervisor
from ups_server.settings import Settings


class LocalJobs:
    """Opened and closed with the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._store: JobStore | None = None
        self._leases: Leases | None = None
        self.worker: WorkerSupervisor | None = None

    @property
    def store(self) -> JobStore:
        if self._store is None:
            raise RuntimeError("start() comes first")
        return self._store

    @property
    def running(self) -> bool:
        return self._database is not None

    @property
    def database(self) -> Database:
        if self._database is None:
            raise RuntimeError("start() comes first")
        return self._database

    @property
    def leases(self) -> Leases:
        if self._leases is None:
            raise RuntimeError("start() comes first")
        return self._leases

    async def start(self) -> None:
        """Raises UserError as `open_database`."""
        settings = self._settings
        self._database = await asyncio.to_thread(open_database, settings.data_dir, settings.database)
        self._store = JobStore(self._database)
        self._leases = Leases(self._database, settings.job_lease_s, settings.job_max_crashes)
        if settings.worker:
            self.worker = WorkerSupervisor(settings, self._leases)
            self.worker.start()

    async def close(self) -> None:
        if self.worker is not None:
            await self.worker.close()
        if self._database is not None:
            self._database.close()
            self._database = None
