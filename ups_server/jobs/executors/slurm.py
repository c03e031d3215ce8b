"""Attempts as jobs of Slurm, by submitit, which sees the data folder on the nodes.

They go on when the service stops, and the next one finds them: what has been submitted is in `slurm/` of the data
folder, closed to other users, because a submission holds the settings.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, final

from ups_server.data.atomic import replace_bytes
from ups_server.errors import UserError
from ups_server.jobs.attempt import AttemptId, run_elsewhere
from ups_server.jobs.executors.base import Executor

NOTE = ".attempt.json"
"""Ends the name of a file that says what was submitted."""
ASK_S = 30.0


@final
class SlurmExecutor(Executor):
    """Slurm's own signals before the end of a job's time have its attempt save and give the job back."""

    lasting: ClassVar[bool] = True

    def open(self) -> None:
        import submitit

        self._folder = self.settings.data_dir / "slurm"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._jobs: dict[AttemptId, Any] = {}
        self._ask_at = 0.0
        gpus = math.ceil(self.settings.executor_gpus)
        given = {"timeout_min": 24 * 60, "cpus_per_task": self.settings.worker_threads, "gpus_per_node": gpus}
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=self.settings.slurm_cluster)
            self._executor.update_parameters(**{**given, **self.settings.slurm_options})
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise UserError(
                "executor_unavailable",
                "submitit cannot submit to Slurm",
                got=str(error)[:400],
                hint="look at UPS_SLURM_OPTIONS; `sbatch` and `srun` have to be installed here",
            ) from error

    def submit(self, attempt: AttemptId) -> None:
        self._executor.update_parameters(name=attempt.job_id)
        job: Any = self._executor.submit(run_elsewhere, self.settings, attempt)
        self._jobs[attempt] = job
        replace_bytes(self._note(attempt), json.dumps({"slurm": job.job_id, **asdict(attempt)}).encode())

    def follow(self, attempt: AttemptId) -> bool:
        if attempt not in self._jobs:
            return False
        # Slurm itself is asked now and then: a node that was lost leaves no result.
        asks = time.monotonic() >= self._ask_at
        self._ask_at = time.monotonic() + ASK_S if asks else self._ask_at
        if not self._jobs[attempt].done(force_check=asks):
            return True
        self._forget(attempt)
        return False

    def cancel(self, attempt: AttemptId) -> None:
        if attempt in self._jobs:
            self._jobs[attempt].cancel()
            self._forget(attempt)

    def reclaim(self) -> Sequence[AttemptId]:
        import submitit

        for file in self._folder.glob(f"*{NOTE}"):
            known = json.loads(file.read_bytes())
            job: Any = submitit.SlurmJob(self._folder, known.pop("slurm"))
            if self.settings.slurm_cluster == "slurm":
                self._jobs[AttemptId(**known)] = job
            else:
                file.unlink()  # a process of this machine, which nobody can be asked about: it has its lease
        return list(self._jobs)

    def close(self) -> None:
        pass

    def _forget(self, attempt: AttemptId) -> None:
        """What was submitted goes: it holds secrets. The log of what Slurm ran stays."""
        job: Any = self._jobs.pop(attempt)
        self._note(attempt).unlink(missing_ok=True)
        for file in self._folder.glob(f"{job.job_id}_*.pkl"):
            file.unlink(missing_ok=True)

    def _note(self, attempt: AttemptId) -> Path:
        return self._folder / f"{attempt.owner}{NOTE}"
