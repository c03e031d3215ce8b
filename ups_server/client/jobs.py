"""Durable jobs: evaluations, adaptations, rollouts that nobody waits for."""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx

from ups_server.client.listening import Listening
from ups_server.client.messages import Event
from ups_server.client.operation import Ask, Operation, Pause, asked, got, pause_s, sent
from ups_server.client.problems import segment
from ups_server.errors import UserError

EVALUATIONS = "/v1/evaluations"
FINE_TUNINGS = "/v1/fine-tuning/jobs"
ROLLOUTS = "/v1/rollouts"
PATHS = {"evaluation": EVALUATIONS, "fine_tuning": FINE_TUNINGS, "rollout": ROLLOUTS}
"""Where jobs are, by their kind."""
KINDS = {"eval": "evaluation", "ft": "fine_tuning", "ro": "rollout"}
"""The first part of a job's id."""

MAX_FAILURES = 8
"""Breaks one after another, without anything arriving in between, before a stream or an upload is given up."""


def new_key() -> str:
    """An Idempotency-Key for a caller who has none: what is sent again makes one job."""
    return uuid.uuid4().hex


def job_path(job_id: str) -> str:
    """Raises UserError ``unknown_job``."""
    kind = KINDS.get(job_id.partition("-")[0])
    if kind is None:
        raise UserError("unknown_job", f"{job_id!r} is no job id", got=job_id, expected="eval-..., ft-... or ro-...")
    return f"{PATHS[kind]}/{segment(job_id)}"


def evaluate(file: str, idempotency_key: str | None = None, **options: Any) -> Operation[dict[str, Any]]:
    """Queues an evaluation of a stored file; options are the other fields of `EvaluationSpec`. The job."""
    return (yield from sent("POST", EVALUATIONS, {"file": file, **options}, idempotency_key or new_key()))


def fine_tune(
    training_file: str, n_trajectories: int, idempotency_key: str | None = None, **options: Any
) -> Operation[dict[str, Any]]:
    """Queues a fine-tuning on a stored file. The job.

    Args:
        options: the other fields of `FineTuningSpec`: model, validation_file, alignment, tuning, max_steps,
            max_seconds, learning_rate, seed, suffix, priority.
    """
    document = {"training_file": training_file, "n_trajectories": n_trajectories, **options}
    return (yield from sent("POST", FINE_TUNINGS, document, idempotency_key or new_key()))


def jobs(kind: str, limit: int = 20, before: str | None = None) -> Operation[list[dict[str, Any]]]:
    """The latest jobs of a kind: "evaluation", "fine_tuning" or "rollout".

    Args:
        before: a job's id: only those made before it.

    Raises:
        UserError: ``invalid_value``.
    """
    if kind not in PATHS:
        raise UserError("invalid_value", f"{kind!r} is no kind of job", got=kind, expected=[*PATHS])
    page: dict[str, str | int] = {"limit": limit} if before is None else {"limit": limit, "before": before}
    return list((yield from got(PATHS[kind], **page))["jobs"])


def job(job_id: str) -> Operation[dict[str, Any]]:
    """One job: its state, and its result or error once it has ended. Raises UserError ``unknown_job``."""
    return (yield from got(job_path(job_id)))


def checkpoints(job_id: str) -> Operation[list[dict[str, Any]]]:
    """Where a fine-tuning job has saved its state so far, with its scores. Raises UserError ``unknown_job``."""
    return list((yield from got(f"{FINE_TUNINGS}/{segment(job_id)}/checkpoints"))["checkpoints"])


def cancel(job_id: str) -> Operation[dict[str, Any]]:
    """Asks for the end of a job. Raises UserError ``job_finished``."""
    return (yield from sent("POST", f"{job_path(job_id)}/cancel"))


def resume(job_id: str) -> Operation[dict[str, Any]]:
    """Queues a cancelled or failed job again. Raises UserError ``job_not_resumable``."""
    return (yield from sent("POST", f"{job_path(job_id)}/resume"))


class Following(Listening[Event]):
    """A job's events above a number, until the job has ended; every connection goes on where the last one was."""

    def __init__(self, job_id: str, after: int) -> None:
        super().__init__()
        self._job_id, self._after, self._failures = job_id, after, 0

    def _connect(self) -> Operation[httpx.Response]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._after)}
        ask = Ask("GET", f"{job_path(self._job_id)}/events", headers=headers, repeatable=True, streamed=True)
        while True:
            try:
                return (yield from asked(ask))
            except httpx.TransportError as error:
                yield from self._failed(error)

    def _take(self, name: str, data: dict[str, Any]) -> Iterator[Event]:
        self._after, self._failures = data["seq"], 0
        yield name, data

    def left(self, error: httpx.TransportError | None) -> Operation[None]:
        try:
            if error is None:
                self.ended = (yield from job(self._job_id))["finished_at"] is not None
                return
        except httpx.TransportError as broken:
            error = broken
        yield from self._failed(error)

    def _failed(self, error: httpx.TransportError) -> Operation[None]:
        """Waits a little longer each time. Raises the error in the end."""
        self._failures += 1
        if self._failures > MAX_FAILURES:
            raise error
        yield Pause(pause_s(self._failures))


def follow(job_id: str, after: int = 0) -> Listening[Event]:
    """(type, data) of a job's events above number `after` as they come, until it ends.

    A stream that breaks off is taken up again where it was.
    """
    return Following(job_id, after)
