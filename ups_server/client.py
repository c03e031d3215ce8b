"""A Python client: rollouts as `xarray.Dataset`, problem documents as `UserError`. Imports no torch."""

import base64
import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.tensors import SAFETENSORS, from_safetensors, to_safetensors

if TYPE_CHECKING:
    import xarray as xr

JOB_PATHS = {"eval": "/v1/evaluations", "ft": "/v1/fine-tuning/jobs"}
"""Where jobs are, by the first part of their ids."""

InitialCondition = NDArray[Any] | Mapping[str, Any]


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
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        transport: httpx.BaseTransport | None = None,
        timeout: float = 600.0,
    ) -> None:
        self._http = httpx.Client(base_url=base_url, transport=transport, timeout=timeout)

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
        return self._get(f"/v1/families/{_segment(family_id)}")

    def models(self) -> list[dict[str, Any]]:
        """Every model of the service, without scores and cards."""
        return list(self._get("/v1/models")["models"])

    def model(self, model_id: str) -> dict[str, Any]:
        """One model with its scores and card. Raises UserError ``unknown_model``."""
        return self._get(f"/v1/models/{_segment(model_id)}")

    def rollout(self, family: str, n_steps: int, initial_condition: InitialCondition, **options: Any) -> "xr.Dataset":
        """A rollout with coordinates, units and attributes.

        Args:
            initial_condition: an array (X..., C) in physical units, (X...) for a single field, a leading axis for a
                batch; or ``{"sample": {"seed": 7}}``.
            options: the other fields of `RolloutRequest`: model, coefficients, grid, boundary, dt, save_every.

        Raises:
            UserError: what the service objects to.
        """
        from ups_server.data.exporters.dataset import to_dataset

        content, headers = _request(initial_condition, {"family": family, "n_steps": n_steps, **options})
        response = self._http.post("/v1/rollouts", content=content, headers={**headers, "Accept": SAFETENSORS})
        _check(response)
        arrays, texts = from_safetensors(response.content)
        header = json.loads(texts["header"])
        return to_dataset(arrays["data"], arrays["times"], *_problem_of(header), _attributes(header))

    def stream(self, family: str, n_steps: int, initial_condition: InitialCondition, **options: Any) -> Iterator[Step]:
        """The states of a rollout as they are computed, the initial condition first; arguments as of `rollout`.

        Closing the iterator cancels the rollout. A blow-up ends it early.

        Raises:
            UserError: what the service objects to; ``engine_unavailable`` where it fails in the middle.
        """
        content, headers = _request(initial_condition, {"family": family, "n_steps": n_steps, **options})
        with self._http.stream(
            "POST",
            "/v1/rollouts",
            params={"encoding": "base64"},
            content=content,
            headers={**headers, "Accept": "text/event-stream"},
        ) as response:
            if response.is_error:
                response.read()
            _check(response)
            for name, data in events(response.iter_lines()):
                if name == "step":
                    values = np.frombuffer(base64.b64decode(data["data"]), dtype="<f4").reshape(data["shape"])
                    yield Step(data["index"], data["time"], values)
                elif name == "problem":
                    raise _user_error(data)
                elif name == "end":
                    return
        raise UserError("engine_unavailable", "the stream broke off")

    def evaluate(self, file: str, idempotency_key: str | None = None, **options: Any) -> dict[str, Any]:
        """Queues an evaluation of a stored file; options are the other fields of `EvaluationSpec`. The job."""
        return self._create_job("eval", {"file": file, **options}, idempotency_key)

    def fine_tune(
        self, training_file: str, n_trajectories: int, idempotency_key: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Queues a fine-tuning on a stored file; options are the other fields of `FineTuningSpec`. The job."""
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
                _check(response)
                try:
                    for name, data in events(response.iter_lines()):
                        after = data["seq"]
                        yield name, data
                except httpx.RemoteProtocolError:
                    continue
            ended = self.job(job_id)["finished_at"] is not None

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Asks for the end of a job. Raises UserError ``job_finished``."""
        return self._post(f"{_job_path(job_id)}/cancel")

    def resume(self, job_id: str) -> dict[str, Any]:
        """Queues a cancelled or failed job again. Raises UserError ``job_not_resumable``."""
        return self._post(f"{_job_path(job_id)}/resume")

    def _create_job(self, prefix: str, document: dict[str, Any], key: str | None) -> dict[str, Any]:
        return self._post(JOB_PATHS[prefix], document, {} if key is None else {"Idempotency-Key": key})

    def _post(
        self, path: str, document: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        response = self._http.post(path, json=document, headers=headers)
        _check(response)
        return dict(response.json())

    def _get(self, path: str) -> dict[str, Any]:
        response = self._http.get(path)
        _check(response)
        return dict(response.json())


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of server-sent events; comments are skipped."""
    name, data = "message", list[str]()
    for line in lines:
        if line == "":
            if data:
                yield name, json.loads("\n".join(data))
            name, data = "message", []
        elif line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))


def _request(initial: InitialCondition, document: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of a rollout: arrays travel as safetensors."""
    if isinstance(initial, Mapping):
        text = json.dumps({**document, "initial_condition": dict(initial)})
        return text.encode(), {"Content-Type": "application/json"}
    body = to_safetensors({"initial_condition": np.asarray(initial)}, {"request": json.dumps(document)})
    return body, {"Content-Type": SAFETENSORS}


def _problem_of(header: dict[str, Any]) -> tuple[Any, Grid, dict[str, float]]:
    """(family, grid, coefficients) of an answer."""
    grid = header["grid"]
    extent = tuple((low, high) for low, high in grid["extent"])
    return family(header["family"]), Grid(tuple(grid["n"]), extent, tuple(grid["offset"])), header["coefficients"]


def _attributes(header: dict[str, Any]) -> dict[str, Any]:
    """What the service says beside the problem itself."""
    return {name: header[name] for name in ("model", "model_version", "dt", "n_steps", "save_every", "flags")}


def _job_path(job_id: str) -> str:
    """Raises UserError ``unknown_job``."""
    prefix = job_id.partition("-")[0]
    if prefix not in JOB_PATHS:
        raise UserError("unknown_job", f"{job_id!r} is no job id", got=job_id, expected="eval-... or ft-...")
    return f"{JOB_PATHS[prefix]}/{_segment(job_id)}"


def _segment(identifier: str) -> str:
    """An id as one part of a path."""
    return quote(identifier, safe="")


def _check(response: httpx.Response) -> None:
    """Raises the UserError of a problem document, or httpx.HTTPStatusError for anything else that failed."""
    if not response.is_error:
        return
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        raise _user_error(response.json())
    response.raise_for_status()


def _user_error(problem: dict[str, Any]) -> UserError:
    return UserError(
        problem["code"],
        problem["detail"],
        got=problem.get("got"),
        expected=problem.get("expected"),
        hint=problem.get("hint"),
    )
