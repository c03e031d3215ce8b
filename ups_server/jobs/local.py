"""The jobs of a running service: the database, and the worker of this machine."""

import asyncio
from dataclasses import dataclass

from ups_server.jobs.database import PROMPT_S, Database, open_database
from ups_server.jobs.leases import Leases
from ups_server.jobs.store import JobStore
from ups_server.jobs.supervisor import WorkerSupervisor
from ups_server.settings import Settings


@dataclass(frozen=True)
class Opened:
    """What there is between start and close: `database` for requests, `patient` for what nobody waits for."""

    database: Database
    patient: Database
    store: JobStore
    leases: Leases


class LocalJobs:
    """Opened and closed with the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Opened | None = None
        self.worker: WorkerSupervisor | None = None

    @property
    def running(self) -> bool:
        return self._opened is not None

    @property
    def opened(self) -> Opened:
        if self._opened is None:
            raise RuntimeError("start() comes first")
        return self._opened

    @property
    def store(self) -> JobStore:
        return self.opened.store

    @property
    def database(self) -> Database:
        return self.opened.database

    @property
    def leases(self) -> Leases:
        return self.opened.leases

    async def start(self) -> None:
        """Raises UserError as `open_database`."""
        settings = self._settings
        patient = await asyncio.to_thread(open_database, settings.data_dir, settings.database)
        database = await asyncio.to_thread(open_database, settings.data_dir, settings.database, PROMPT_S)
        leases = Leases(patient, settings.job_lease_s, settings.job_max_crashes)
        self._opened = Opened(database, patient, JobStore(database), leases)
        if settings.worker:
            self.worker = WorkerSupervisor(settings, leases)
            self.worker.start()

    async def close(self) -> None:
        if self.worker is not None:
            await self.worker.close()
        if self._opened is not None:
            self._opened.database.close()
            self._opened.patient.close()
            self._opened = None
