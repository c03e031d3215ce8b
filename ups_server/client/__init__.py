"""A Python client: rollouts as `xarray.Dataset`, problem documents as `UserError`. Imports no torch."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from ups_server.client.messages import InitialCondition, attributes, declared_family, events, request
from ups_server.client.problems import check, segment, user_error
from ups_server.client.transfer import Progress, transfer
from ups_server.errors import UserError
from ups_server.pde import Grid, families
from ups_server.tensors import SAFETENSORS, from_safetensors

if TYPE_CHECKING:
    import xarray as xr

JOB_PATHS = {"eval": "/v1/evaluations", "ft": "/v1/fine-tuning/jobs", "ro": "/v1/rollouts"}
"""Where jobs are, by the first part of their ids."""


class Step(NamedTuple):
    """One state of a stream: (X..., C), or (B, X..., C) where the request had a batch axis."""

    step: int
    time: float
    values: NDArray[np.float32]


class Client:
    """Talks to a running service.

    Args:
        transport: replaces the network, as httpx understands it.
        timeout: seconds without an answer.
        key: API key; by default that of the environment variable UPS_KEY.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        transport: httpx.BaseTransport | None = None,
        timeout: float = 600.0,
        key: str | None = None,
    ) -> None:
        key = key or os.environ.get("UPS_KEY")
        headers = {} if not key else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=base_url, transport=transport, timeout=timeout, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def families(self) -> list[dict[str, Any]]:
        """Every family of the service."""
        return list(self._get("/v1/families")["families"])

    def family(self, family_id: str) -> dict[str, Any]:
        """One family. Raises UserError ``unknown_family``."""
        return self._get(f"/v1/families/{segment(family_id)}")

    def models(self) -> list[dict[str, Any]]:
        """Every model of the service, without scores and cards."""
        return list(self._get("/v1/models")["models"])

    def model(self, model_id: str) -> dict[str, Any]:
        """One model with its scores and card. Raises UserError ``unknown_model``."""
        return self._get(f"/v1/models/{segment(model_id)}")

    def rollout(self, family: str, n_steps: int, initial_condition: InitialCondition, **options: Any) -> "xr.Dataset":
        """A rollout with coordinates, units and attributes.

        Args:
            initial_condition: an array (X..., C) in physical units, (X...) for a single field, a leading axis for a
                batch; or ``{"sample": {"seed": 7}}``.
            options: the other fields of `RolloutRequest`: model, coefficients, grid, boundary, dt, save_every,
                output_resolution, method, diagnostics, reference, ensemble (whose statistics are the dimension
                `statistic`).

        Raises:
            UserError: what the service objects to.
        """
        document = {"family": family, "n_steps": n_steps, **options}
        solved = self._solved("/v1/rollouts", initial_condition, document)
        if "ensemble" not in solved.attrs:
            return solved
        names = json.loads(solved.attrs["ensemble"])["statistics"]
        return solved.rename(trajectory="statistic").assign_coords(statistic=names)

    def super_resolution(
        self,
        family: str,
        n_steps: int,
        initial_condition: InitialCondition,
        output_resolution: Sequence[int],
        **options: Any,
    ) -> "xr.Dataset":
        """A rollout on a finer grid than its state, by both methods, along the dimension `method`; see `rollout`."""
        document = {"family": family, "n_steps": n_steps, "output_resolution": list(output_resolution), **options}
        solved = self._solved("/v1/super-resolution", initial_condition, document)
        return solved.rename(trajectory="method").assign_coords(method=json.loads(solved.attrs["methods"]))

    def _solved(self, path: str, initial: InitialCondition, document: dict[str, Any]) -> "xr.Dataset":
        from ups_server.data.exporters.dataset import to_dataset

        content, headers = request(initial, document)
        response = self._http.post(path, content=content, headers={**headers, "Accept": SAFETENSORS})
        check(response)
        arrays, texts = from_safetensors(response.content)
        header = json.loads(texts["header"])
        return to_dataset(arrays["data"], arrays["times"], *self._problem_of(header), attributes(header))

    def stream(self, family: str, n_steps: int, initial_condition: InitialCondition, **options: Any) -> Iterator[Step]:
        """The states of a rollout as they are computed, the initial condition first; arguments as of `rollout`.

        Closing the iterator cancels the rollout. A blow-up ends it early.

        Raises:
            UserError: what the service objects to; ``engine_unavailable`` where it fails in the middle.
        """
        for name, data in self.stream_events(family, n_steps, initial_condition, **options):
            if name == "step":
                yield Step(data["index"], data["time"], data["data"])

    def stream_events(
        self, family: str, n_steps: int, initial_condition: InitialCondition, **options: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, data) of all events of a rollout, diagnostics and reference included, `data["data"]` being arrays.

        Raises:
            UserError: as `stream`.
        """
        content, headers = request(initial_condition, {"family": family, "n_steps": n_steps, **options})
        with self._http.stream(
            "POST",
            "/v1/rollouts",
            params={"encoding": "base64"},
            content=content,
            headers={**headers, "Accept": "text/event-stream"},
        ) as response:
            if response.is_error:
                response.read()
            check(response)
            for name, data in events(response.iter_lines()):
                if name == "problem":
                    raise user_error(data)
                if "shape" in data:
                    data["data"] = np.frombuffer(base64.b64decode(data["data"]), "<f4").reshape(data["shape"])
                yield name, data
                if name == "end":
                    return
        raise UserError("engine_unavailable", "the stream broke off")

    def upload(
        self,
        path: str | os.PathLike[str],
        declaration: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        wait: bool = True,
    ) -> dict[str, Any]:
        """Uploads a file and waits until it is examined.

        An upload that breaks off goes on from where it stopped, also when the call is repeated: the same file with the
        same name and declaration is the same upload.

        Args:
            declaration: family or equation, coefficients, boundary, axes: see `Declaration` in the OpenAPI document.
            progress: called with (bytes done, bytes in all).
            wait: False returns as soon as all bytes have arrived.

        Returns:
            The file's record, with its report.

        Raises:
            UserError: why the service takes no such file, or why it refused this one.
        """
        file = Path(path)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        wanted = {"name": file.name, "size": file.stat().st_size, "sha256": sha256, "declaration": declaration or {}}
        key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        record = self._json("POST", "/v1/files", json=wanted, headers={"Idempotency-Key": key})
        if record["state"] == "uploading":
            transfer(self._http, record, file, progress)
        return self.examined_file(record["id"]) if wait else self.file(record["id"])

    def examined_file(self, file_id: str, interval_s: float = 0.2) -> dict[str, Any]:
        """The record of an uploaded file once it is examined.

        Raises:
            UserError: ``unknown_file``, or why the file was refused.
        """
        while (record := self.file(file_id))["state"] == "validating":
            time.sleep(interval_s)
        if record["state"] == "refused":
            raise user_error(record["problem"])
        return record

    def files(self) -> list[dict[str, Any]]:
        """Every uploaded file, the newest first, without reports."""
        return list(self._get("/v1/files")["files"])

    def file(self, file_id: str) -> dict[str, Any]:
        """One uploaded file with its report. Raises UserError ``unknown_file``."""
        return self._get(f"/v1/files/{segment(file_id)}")

    def preview(self, file_id: str) -> bytes:
        """A picture of an accepted file, PNG. Raises UserError ``unknown_file`` or ``wrong_state``."""
        response = self._http.get(f"/v1/files/{segment(file_id)}/preview")
        check(response)
        return response.content

    def declare(self, file_id: str, declaration: Mapping[str, Any]) -> dict[str, Any]:
        """Says something else about a refused file and waits until it is examined again.

        Raises:
            UserError: ``unknown_file``, ``wrong_state``, what is wrong with the declaration, or why it is refused.
        """
        self._json("PUT", f"/v1/files/{segment(file_id)}/declaration", json=dict(declaration))
        return self.examined_file(file_id)

    def delete_file(self, file_id: str) -> None:
        """Removes an uploaded file. Raises UserError ``unknown_file``."""
        check(self._http.delete(f"/v1/files/{segment(file_id)}"))

    def _json(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        response = self._http.request(method, path, **content)
        check(response)
        return dict(response.json())

    def evaluate(self, file: str, idempotency_key: str | None = None, **options: Any) -> dict[str, Any]:
        """Queues an evaluation of a stored file; options are the other fields of `EvaluationSpec`. The job."""
        return self._create_job("eval", {"file": file, **options}, idempotency_key)

    def fine_tune(
        self, training_file: str, n_trajectories: int, idempotency_key: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Queues a fine-tuning on a stored file. The job.

        Args:
            options: the other fields of `FineTuningSpec`: model, validation_file, alignment, tuning, max_steps,
                max_seconds, learning_rate, seed, suffix, priority.
        """
        document = {"training_file": training_file, "n_trajectories": n_trajectories, **options}
        return self._create_job("ft", document, idempotency_key)

    def job(self, job_id: str) -> dict[str, Any]:
        """One job: its state, and its result or error once it has ended. Raises UserError ``unknown_job``."""
        return self._get(_job_path(job_id))

    def follow(self, job_id: str, after: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        """(type, data) of a job's events above number `after` as they come, until it ends.

        A stream that breaks off is taken up again where it was.
        """
        ended = False
        while not ended:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            with self._http.stream("GET", f"{_job_path(job_id)}/events", headers=headers) as response:
                if response.is_error:
                    response.read()
                check(response)
                try:
                    for name, data in events(response.iter_lines()):
                        after = data["seq"]
                        yield name, data
                except httpx.RemoteProtocolError:
                    continue
            ended = self.job(job_id)["finished_at"] is not None

    def checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        """Where a fine-tuning job has saved its state so far, with its scores. Raises UserError ``unknown_job``."""
        return list(self._get(f"{JOB_PATHS['ft']}/{segment(job_id)}/checkpoints")["checkpoints"])

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Asks for the end of a job. Raises UserError ``job_finished``."""
        return self._json("POST", f"{_job_path(job_id)}/cancel")

    def resume(self, job_id: str) -> dict[str, Any]:
        """Queues a cancelled or failed job again. Raises UserError ``job_not_resumable``."""
        return self._json("POST", f"{_job_path(job_id)}/resume")

    def submit(
        self,
        family: str,
        n_steps: int,
        initial_condition: InitialCondition,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Queues a rollout without waiting for it; arguments as of `rollout`. The job, to come back to by its id."""
        content, headers = request(initial_condition, {"family": family, "n_steps": n_steps, **options})
        keyed = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._json(
            "POST", "/v1/rollouts", content=content, headers={**headers, **keyed, "Prefer": "respond-async"}
        )

    def result(self, job_id: str) -> "xr.Dataset":
        """The result of a queued rollout, loaded as it is used; frames that are not there yet are NaN.

        Raises:
            UserError: ``unknown_job``, ``result_not_ready``, ``result_expired``.
        """
        import xarray as xr

        from ups_server.client.zarr_store import HttpStore

        address = f"{_job_path(job_id)}/result"
        check(self._http.get(f"{address}/zarr.json"))
        lazy: xr.Dataset = xr.open_zarr(HttpStore(self._http, address), consolidated=True, decode_times=False)
        return lazy

    def download(self, job_id: str, path: str | os.PathLike[str]) -> None:
        """The result of a queued rollout that has ended as a file: .nc, .h5, .npz or .safetensors.

        Raises:
            UserError: ``unknown_format``, ``unknown_job``, ``result_not_ready``, ``result_expired``.
        """
        from ups_server.data.exporters import FORMATS, format_of

        headers = {"Accept": FORMATS[format_of(Path(path))].media_type}
        with self._http.stream("GET", f"{_job_path(job_id)}/result", headers=headers) as response:
            if response.is_error:
                response.read()
            check(response)
            with Path(path).open("wb") as stream:
                for part in response.iter_bytes():
                    stream.write(part)

    def delete_rollout(self, job_id: str) -> None:
        """Removes a queued rollout that has ended, and its result. Raises UserError ``unknown_job``, ``job_open``."""
        check(self._http.delete(f"/v1/rollouts/{segment(job_id)}"))

    def _problem_of(self, header: dict[str, Any]) -> tuple[Any, Grid, dict[str, float]]:
        """(family, grid, coefficients) of an answer."""
        grid, name = header["grid"], header["family"]
        extent = tuple((low, high) for low, high in grid["extent"])
        entry = families().get(name) or declared_family(self._get(f"/v1/families/{segment(name)}"))
        return entry, Grid(tuple(grid["n"]), extent, tuple(grid["offset"])), header["coefficients"]

    def _create_job(self, prefix: str, document: dict[str, Any], key: str | None) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self._json("POST", JOB_PATHS[prefix], json=document, headers=headers)

    def _get(self, path: str) -> dict[str, Any]:
        response = self._http.get(path)
        check(response)
        return dict(response.json())


def _job_path(job_id: str) -> str:
    """Raises UserError ``unknown_job``."""
    prefix = job_id.partition("-")[0]
    if prefix not in JOB_PATHS:
        raise UserError("unknown_job", f"{job_id!r} is no job id", got=job_id, expected="eval-..., ft-... or ro-...")
    return f"{JOB_PATHS[prefix]}/{segment(job_id)}"
