"""Attempts as tasks of a Ray cluster, which starts each on a node that has the cores and GPUs it asks for.

Ray does not retry: whoever loses its node leaves a lease that runs out, and the job is submitted again. A process of
Ray's stays after an attempt and takes the next, so that PyTorch is imported once in it. With token authentication
(`RAY_AUTH_MODE=token`, and `RAY_AUTH_TOKEN` or `RAY_AUTH_TOKEN_PATH`) in the environment, only who has the token
submits. The package has to be installed on the nodes.
"""

import logging
from typing import Any, final

from ups_server.errors import UserError
from ups_server.jobs.attempt import AttemptId, run_elsewhere
from ups_server.jobs.executors.base import Executor

logger = logging.getLogger("ups_server.worker")


@final
class RayExecutor(Executor):
    """Tasks belong to this process: Ray ends them when it ends."""

    def open(self) -> None:
        import ray

        try:
            ray.init(self.settings.ray_address, namespace="ups", log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                "executor_unavailable",
                "the Ray cluster does not answer",
                got=f"{self.settings.ray_address}: {error}"[:400],
                hint="start one with `ray start --head`, or set UPS_RAY_ADDRESS",
            ) from error
        self._tasks: dict[AttemptId, Any] = {}
        self._run = ray.remote(
            num_cpus=self.settings.worker_threads,
            num_gpus=self.settings.executor_gpus,
            max_retries=0,
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}},
        )(run_elsewhere)

    def submit(self, attempt: AttemptId) -> None:
        self._tasks[attempt] = self._run.options(name=attempt.job_id).remote(self.settings, attempt)

    def follow(self, attempt: AttemptId) -> bool:
        import ray

        task = self._tasks.get(attempt)
        if task is None:
            return False
        done, _ = ray.wait([task], timeout=0)
        if not done:
            return True
        try:
            ray.get(self._tasks.pop(attempt))
        except ray.exceptions.RayError as error:
            logger.warning("%s: the attempt was lost: %s", attempt.job_id, str(error).splitlines()[0])
        return False

    def cancel(self, attempt: AttemptId) -> None:
        import ray

        if attempt in self._tasks:
            ray.cancel(self._tasks.pop(attempt), force=True)

    def close(self) -> None:
        import ray

        for task in self._tasks.values():
            ray.cancel(task)  # an interrupt, after which the attempt saves and ends by itself
        if self._tasks:
            ray.wait(list(self._tasks.values()), num_returns=len(self._tasks), timeout=self.settings.worker_grace_s)
        ray.shutdown()
