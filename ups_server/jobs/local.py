"""The jobs of a running service: the database, and the worker of this machine: started, watched, restarted, stopped."""

import asyncio
import contextlib
import logging
import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from ups_server.jobs.database import PROMPT_S, Database, open_database
from ups_server.jobs.executors import check_executor
from ups_server.jobs.leases import Leases
from ups_server.jobs.store import JobStore
from ups_server.processes import keep_alive
from ups_server.settings import Settings

logger = logging.getLogger(__name__)

PACKAGE_PARENT = Path(__file__).resolve().parent.parent.parent


class WorkerSupervisor:
    """Keeps the process alive that runs jobs, or has an executor run them (`jobs.dispatch`).

    Its death costs a job in hand what came after the last checkpoint, no more.
    """

    def __init__(self, settings: Settings, leases: Leases) -> None:
        self._settings = settings
        self._leases = leases
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def process_id(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        self._supervision = asyncio.create_task(keep_alive(self._live, self._restarted, self._settings, "worker"))

    async def close(self) -> None:
        """Lets the worker finish the step in hand and save; its job waits for the next start."""
        if self._supervision is not None:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision

    def _restarted(self) -> None:
        self.restarts += 1

    async def _live(self) -> None:
        """One process from start to end, and the jobs it leaves behind."""
        owner = f"worker-{uuid.uuid4().hex[:12]}"
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ups_server.jobs.dispatch",
            owner,
            stdin=asyncio.subprocess.PIPE,
            env=self._environment(),
        )
        assert process.stdin is not None
        try:
            process.stdin.write(self._settings.clear_json().encode() + b"\n")
            await process.wait()
        finally:
            process.stdin.close()
            await self._end(process)
            await asyncio.shield(asyncio.to_thread(self._leases.abandon, owner))

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self._settings.worker_grace_s):
                await process.wait()
        except TimeoutError:
            logger.warning("the worker did not stop in time and is killed")
            process.kill()
            await process.wait()

    def _environment(self) -> dict[str, str]:
        """Explicit threads that do not spin, no network for the model hub, our own package."""
        return {
            **os.environ,
            "OMP_NUM_THREADS": str(self._settings.worker_threads),
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")])),
        }


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
        """Raises UserError as `check_executor` and `open_database`."""
        settings = self._settings
        if settings.worker:
            check_executor(settings.executor)
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
