"""Attempts that are several processes of this machine each, as `torchrun` starts them: they share a training's batches.

A process of an attempt that dies takes the others with it, and the job goes on from its last checkpoint.
"""

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import final

from ups_server.jobs.attempt import SETTINGS, AttemptId
from ups_server.jobs.executors.base import Executor

logger = logging.getLogger("ups_server.worker")


@final
class TorchrunExecutor(Executor):
    """The processes of an attempt are told to stop by their standard input, which closes when this process dies."""

    def open(self) -> None:
        self._running: dict[AttemptId, subprocess.Popen[bytes]] = {}

    def submit(self, attempt: AttemptId) -> None:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"),
            *("--nproc-per-node", str(self.settings.executor_processes)),
            *(sys.executable, "-m", "ups_server.jobs.attempt", attempt.job_id, attempt.owner),
        ]
        self._running[attempt] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            env={**os.environ, SETTINGS: self.settings.clear_json()},
            start_new_session=True,  # Ctrl-C is the API's
        )

    def follow(self, attempt: AttemptId) -> bool:
        process = self._running.get(attempt)
        if process is None:
            return False
        if process.poll() is None:
            return True
        self._forget(attempt)
        return False

    def cancel(self, attempt: AttemptId) -> None:
        if attempt in self._running:
            self._running[attempt].kill()
            self._running[attempt].wait()
            self._forget(attempt)

    def close(self) -> None:
        for process in self._running.values():
            _close_input(process)
        deadline = time.monotonic() + self.settings.worker_grace_s
        for attempt, process in list(self._running.items()):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("%s did not stop in time and is killed", attempt.job_id)
            self.cancel(attempt)

    def _forget(self, attempt: AttemptId) -> None:
        # Processes whose parent was killed end too: their input is closed.
        _close_input(self._running.pop(attempt))


def _close_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
