"""Where fine-tuning jobs have saved their state, as their histories tell. Imports no torch."""

from pydantic import BaseModel

from ups_server.jobs.store import JobStore


class Checkpoint(BaseModel):
    """A step from which the job can go on; with its errors on validation trajectories where it was scored."""

    step: int
    at: float
    one_step: float | None = None
    rollout: float | None = None
    best: bool = False


def checkpoints(store: JobStore, job_id: str) -> list[Checkpoint]:
    """In order. The last one is on disk, and the best one by validation becomes the model.

    Raises:
        UserError: ``unknown_job``, also where the job is of another kind.
    """
    store.get(job_id, "fine_tuning")
    scored = {event.data["step"]: event.data for event in store.all_events(job_id, "validation")}
    saved = store.all_events(job_id, "checkpoint")
    return [Checkpoint(at=event.at, **{**scored.get(event.data["step"], {}), **event.data}) for event in saved]
