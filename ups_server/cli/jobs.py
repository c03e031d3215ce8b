"""`ups jobs`: the jobs of a service, by the data folder or database on this machine, or by its address."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups_server.cli.options import AsJson, DataDir, Key, ServiceUrl, check_suffix, service_client, settings_of
from ups_server.cli.output import Advance, print_facts, print_json, print_line, print_note, print_table, progress
from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.client import Client
    from ups_server.jobs.spec import Checkpoint, Job, JobEvent
    from ups_server.jobs.store import JobStore

app = typer.Typer(
    help="List, show, cancel, resume, follow, run and delete jobs; write results of rollouts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job id; `ups jobs list` lists them.")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    data_dir: DataDir = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """The latest jobs first."""
    with jobs_of(data_dir, url, key) as store:
        jobs = store.page(limit=limit)
    if as_json:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    rows = [
        (job.id, job.kind, job.state.value, job.model or "-", str(job.attempt), when(job.created_at)) for job in jobs
    ]
    print_table(("job", "kind", "state", "model", "attempt", "created"), rows)


@app.command()
def show(
    job: JobId, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None, as_json: AsJson = False
) -> None:
    """One job: its spec, its state, its result or error."""
    with jobs_of(data_dir, url, key) as store:
        found = store.get(job)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_facts(facts(found))


@app.command("checkpoints")
def list_checkpoints(
    job: JobId, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Where a fine-tuning job has saved its state; the best (*) by validation becomes the model."""
    with jobs_of(data_dir, url, key) as store:
        found = store.checkpoints(job)
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in found])
        return
    best = max((entry.step for entry in found if entry.best), default=None)
    rows = [
        (
            f"{entry.step}{' *' if entry.step == best else ''}",
            when(entry.at),
            *("-" if value is None else figure(value) for value in (entry.one_step, entry.rollout)),
        )
        for entry in found
    ]
    print_table(("step", "saved", "validation one-step", "rollout"), rows)


@app.command()
def cancel(job: JobId, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None) -> None:
    """Cancel a job: at once where it waits, after the step in hand where it runs; what it reached is kept."""
    with jobs_of(data_dir, url, key) as store:
        found = store.cancel(job)
    print_note(f"{job} is {'being cancelled' if not found.final else found.state.value}")


@app.command()
def resume(job: JobId, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None) -> None:
    """Queue a cancelled or failed job again; it goes on from its last checkpoint."""
    with jobs_of(data_dir, url, key) as store:
        found = store.resume(job)
    print_note(f"{job} is {found.state.value}")


@app.command()
def result(
    job: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Written by suffix: .nc .h5 .npz …")],
    data_dir: DataDir = None,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Write the result of a rollout that has ended to a file."""
    import shutil

    from ups_server.data.export import exporter_of
    from ups_server.jobs.results import SUFFIXES, Results
    from ups_server.jobs.spec import ROLLOUT

    check_suffix(output, tuple(SUFFIXES.values()))
    if url is not None:
        with service_client(url, key) as client:
            client.download(job, output)
        print_note(f"the result of {job} written to {output}")
        return
    with open_store(data_dir) as store:
        found = store.get(job, ROLLOUT)
    if not found.final:
        raise UserError(
            "result_not_ready", f"{job} has not ended", got=found.state.value, hint=f"ups jobs follow {job}"
        )
    with Results(settings_of(data_dir)).reading(job) as folder:
        folder.settle()
        shutil.copyfile(folder.file(exporter_of(output).format), output)
    print_note(f"the result of {job} written to {output}")


@app.command()
def work(data_dir: DataDir = None) -> None:
    """Run jobs until interrupted: a worker on a machine without a service, by the same settings and database."""
    import signal
    import uuid

    from ups_server.jobs.attempt import stopped_by_signals
    from ups_server.jobs.dispatch import dispatch
    from ups_server.tracing import configure_traces

    configure_traces("worker")
    with stopped_by_signals(signal.SIGINT, signal.SIGTERM) as stopping:
        dispatch(settings_of(data_dir), f"worker-{uuid.uuid4().hex[:12]}", stopping)


@app.command()
def delete(job: JobId, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None) -> None:
    """Remove a job that has ended, and the result of a rollout."""
    import shutil

    from ups_server.jobs.results import RolloutFolder
    from ups_server.jobs.worker import job_folder

    if url is not None:
        with service_client(url, key) as client:
            client.delete_rollout(job)
        print_note(f"{job} is deleted")
        return
    with open_store(data_dir) as store:
        store.delete(job)
    folder = settings_of(data_dir).data_dir
    RolloutFolder(folder, job).remove()
    shutil.rmtree(job_folder(folder, job), ignore_errors=True)
    print_note(f"{job} is deleted")


@app.command()
def follow(
    job: JobId,
    data_dir: DataDir = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every event as a line of JSON.")] = False,
) -> None:
    """Show a job's events as they come, until it ends; exit code 2 where it fails."""
    with jobs_of(data_dir, url, key) as store, progress(job) as advance:
        for event in store.following(job) if isinstance(store, RemoteJobs) else following(store, job):
            if as_json:
                print(event.model_dump_json(), flush=True)
            else:
                show_event(event, advance)
        ended = store.get(job)
    if ended.error is not None:
        raise UserError(
            ended.error["code"],
            ended.error["detail"],
            **{key: ended.error.get(key) for key in ("got", "expected", "hint")},
        )
    if not as_json and ended.result is not None and "verdict" in ended.result:
        print_line(f"{ended.result['model']}: {ended.result['verdict']}")


def following(store: "JobStore", job: str) -> "Iterator[JobEvent]":
    """Every event from the first on, until the job has ended."""
    from ups_server.settings import Settings

    poll, after, complete = Settings.given().job_poll_s, 0, False
    while not complete:
        found, complete = store.events(job, after)
        yield from found
        after = found[-1].seq if found else after
        if not found and not complete:
            time.sleep(poll)


def show_event(event: "JobEvent", advance: Advance) -> None:
    """Progress moves the bar; what changes the course of a job gets a line."""
    data = event.data
    match event.type:
        case "step":
            advance(data["step"], data["steps"], "tuning")
        case "progress":
            advance(data["done"], data["total"], data.get("what", "scores"))
        case "state":
            print_note(f"{when(event.at)} {data['state']}")
        case "validation":
            errors = (f"{name.replace('_', '-')} {figure(data[name])}" for name in ("one_step", "rollout"))
            print_note(f"step {data['step']}: validation {', '.join(errors)}{' *' if data['best'] else ''}")


def figure(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4g}"


def when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def facts(job: "Job") -> dict[str, str]:
    shown: dict[str, Any] = {
        "job": job.id,
        "kind": job.kind,
        "state": job.state.value + (" (to be cancelled)" if job.cancel_requested and not job.final else ""),
        "attempt": job.attempt,
        "created": when(job.created_at),
        "finished": "-" if job.finished_at is None else when(job.finished_at),
        **{name: value for name, value in job.spec.items() if value is not None and name != "kind"},
    }
    if job.error is not None:
        shown["error"] = job.error["detail"]
    if job.result is not None and "verdict" in job.result:
        shown |= {"result": job.result["model"], "verdict": job.result["verdict"]}
    return {name: str(value) for name, value in shown.items()}


class RemoteJobs:
    """The jobs of a service elsewhere, with the methods of `JobStore` that commands use."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def page(self, limit: int) -> "list[Job]":
        return [_job(entry) for entry in self._client.jobs(limit=limit)]

    def get(self, job_id: str) -> "Job":
        return _job(self._client.job(job_id))

    def checkpoints(self, job_id: str) -> "list[Checkpoint]":
        from ups_server.jobs.spec import Checkpoint

        return [Checkpoint.model_validate(entry) for entry in self._client.checkpoints(job_id)]

    def cancel(self, job_id: str) -> "Job":
        return _job(self._client.cancel(job_id))

    def resume(self, job_id: str) -> "Job":
        return _job(self._client.resume(job_id))

    def following(self, job_id: str) -> "Iterator[JobEvent]":
        """Every event from the first on, until the job has ended."""
        from ups_server.jobs.spec import JobEvent

        for type, data in self._client.follow(job_id):
            rest = {name: value for name, value in data.items() if name not in ("seq", "at")}
            yield JobEvent(seq=data["seq"], at=data["at"], type=type, data=rest)


def _job(document: Mapping[str, Any]) -> "Job":
    from ups_server.jobs.spec import Job

    return Job.model_validate(document)


@contextmanager
def jobs_of(data_dir: Path | None, url: str | None, key: str | None) -> "Iterator[JobStore | RemoteJobs]":
    """The jobs of the service at an address, or else those in the data folder.

    Raises:
        UserError: ``unreachable``, ``no_jobs``.
    """
    if url is None:
        with open_store(data_dir) as store:
            yield store
        return
    with service_client(url, key) as client:
        yield RemoteJobs(client)


@contextmanager
def open_store(data_dir: Path | None) -> "Iterator[JobStore]":
    """The table of jobs in the data folder, or in the database of the settings.

    Raises:
        UserError: ``no_jobs`` where no service has stored anything yet.
    """
    from ups_server.jobs.database import FILE, open_database
    from ups_server.jobs.store import JobStore

    settings = settings_of(data_dir)
    folder = settings.data_dir
    if settings.database is None and not (folder / FILE).is_file():
        raise UserError("no_jobs", f"no service has stored jobs in {folder}", hint="give its --data-dir")
    database = open_database(folder, settings.database)
    try:
        yield JobStore(database)
    finally:
        database.close()
