"""Rollouts: at once, streamed, on finer grids, or queued with a result that is kept."""

import base64
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from ups_server.client.catalogue import family as get_family
from ups_server.client.jobs import ROLLOUTS, job_path, new_key
from ups_server.client.listening import ItemT, Listening
from ups_server.client.messages import Event, InitialCondition, attributes, declared_family, request
from ups_server.client.operation import Ask, Operation, asked, deleted, worked
from ups_server.client.problems import segment, user_error
from ups_server.errors import UserError
from ups_server.pde import Grid, families
from ups_server.tensors import SAFETENSORS, from_safetensors

if TYPE_CHECKING:
    import xarray as xr


class Step(NamedTuple):
    """One state of a stream: (X..., C), or (B, X..., C) where the request had a batch axis."""

    step: int
    time: float
    values: NDArray[np.float32]


def rollout(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    **options: Any,
) -> Operation["xr.Dataset"]:
    """A rollout with coordinates, units and attributes.

    Args:
        family: a family id; or `equation` in symbols among the options.
        n_steps: steps of `dt`; or `times` among the options.
        initial_condition: an array (X..., C) in physical units, (X...) for a single field, a leading axis for a
            batch; or ``{"sample": {"seed": 7}}``.
        options: the other fields of `RolloutRequest`: equation, times, model, coefficients, grid, boundary, dt,
            save_every, output_resolution, method, diagnostics, reference, ensemble (whose statistics are the dimension
            `statistic`).

    Raises:
        UserError: what the service objects to.
    """
    document = _document(family, n_steps, options)
    return _with_statistics((yield from _solved(ROLLOUTS, initial_condition, document)))


def _document(family: str | None, n_steps: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, without what is left open."""
    given = {"family": family, "n_steps": n_steps, **options}
    return {name: value for name, value in given.items() if value is not None}


def super_resolution(
    family: str, n_steps: int, initial_condition: InitialCondition, output_resolution: Sequence[int], **options: Any
) -> Operation["xr.Dataset"]:
    """A rollout on a finer grid than its state, by both methods, along the dimension `method`; see `rollout`."""
    document = {"family": family, "n_steps": n_steps, "output_resolution": list(output_resolution), **options}
    solved = yield from _solved("/v1/super-resolution", initial_condition, document)
    return solved.rename(trajectory="method").assign_coords(method=json.loads(solved.attrs["methods"]))


def _solved(path: str, initial: InitialCondition | None, document: dict[str, Any]) -> Operation["xr.Dataset"]:
    from ups_server.data.exporters.dataset import to_dataset

    content, headers = request(initial, document)
    response = yield from asked(Ask("POST", path, content, {**headers, "Accept": SAFETENSORS}, repeatable=True))
    arrays, texts = from_safetensors(response.content)
    header = json.loads(texts["header"])
    problem = yield from _problem_of(header)
    return to_dataset(arrays["data"], arrays["times"], *problem, attributes(header))


def _with_statistics(solved: "xr.Dataset") -> "xr.Dataset":
    """The rows of an ensemble are its statistics."""
    if "ensemble" not in solved.attrs:
        return solved
    names = json.loads(solved.attrs["ensemble"])["statistics"]
    return solved.rename(trajectory="statistic").assign_coords(statistic=names)


def _problem_of(header: dict[str, Any]) -> Operation[tuple[Any, Grid, dict[str, float]]]:
    """(family, grid, coefficients) of an answer."""
    name = header["family"]
    entry = families().get(name) or declared_family((yield from get_family(name)))
    return entry, Grid.from_json(header["grid"]), header["coefficients"]


class Streaming(Listening[ItemT]):
    """A rollout in progress. It is not kept, so that what breaks off is lost; the connection's end cancels it."""

    def __init__(self, initial_condition: InitialCondition | None, document: dict[str, Any]) -> None:
        super().__init__()
        self._initial_condition, self._document = initial_condition, document

    def _connect(self) -> Operation[httpx.Response]:
        content, headers = request(self._initial_condition, self._document)
        accepted, encoding = {**headers, "Accept": "text/event-stream"}, {"encoding": "base64"}
        return asked(Ask("POST", ROLLOUTS, content, accepted, encoding, repeatable=True, streamed=True))

    def _decoded(self, name: str, data: dict[str, Any]) -> Event:
        """Arrays as arrays. Raises UserError where the event says what is wrong."""
        if name == "problem":
            raise user_error(data)
        if "shape" in data:
            data["data"] = np.frombuffer(base64.b64decode(data["data"]), "<f4").reshape(data["shape"])
        self.ended = name == "end"
        return name, data

    def left(self, error: httpx.TransportError | None) -> Operation[None]:
        raise UserError("engine_unavailable", "the stream broke off") from error
        yield


class Events(Streaming[Event]):
    def _take(self, name: str, data: dict[str, Any]) -> Iterator[Event]:
        yield self._decoded(name, data)


class Steps(Streaming[Step]):
    def _take(self, name: str, data: dict[str, Any]) -> Iterator[Step]:
        if self._decoded(name, data)[0] == "step":
            yield Step(data["index"], data["time"], data["data"])


def stream(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    **options: Any,
) -> Listening[Step]:
    """The states of a rollout as they are computed, the initial condition first; arguments as of `rollout`.

    Closing the iterator cancels the rollout. A blow-up ends it early.

    Raises:
        UserError: what the service objects to; ``engine_unavailable`` where it fails in the middle.
    """
    return Steps(initial_condition, _document(family, n_steps, options))


def stream_events(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    **options: Any,
) -> Listening[Event]:
    """(name, data) of all events of a rollout, diagnostics and reference included, `data["data"]` being arrays.

    Raises:
        UserError: as `stream`.
    """
    return Events(initial_condition, _document(family, n_steps, options))


def submit(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    idempotency_key: str | None = None,
    **options: Any,
) -> Operation[dict[str, Any]]:
    """Queues a rollout without waiting for it; arguments as of `rollout`. The job, to come back to by its id."""
    content, headers = request(initial_condition, _document(family, n_steps, options))
    detached = {**headers, "Prefer": "respond-async", "Idempotency-Key": idempotency_key or new_key()}
    response = yield from asked(Ask("POST", ROLLOUTS, content, detached, repeatable=True))
    return dict(response.json())


def result(job_id: str) -> Operation["xr.Dataset"]:
    """The result of a queued rollout, loaded as it is used; frames that are not there yet are NaN.

    Values are fetched by a blocking connection, whichever client asks: in a coroutine, load what is needed in
    `asyncio.to_thread`.

    Raises:
        UserError: ``unknown_job``, ``result_not_ready``, ``result_expired``.
    """
    address = f"{job_path(job_id)}/result"
    yield from asked(Ask("GET", f"{address}/zarr.json", repeatable=True))
    return _with_statistics((yield from worked(lambda http: _opened(http, address))))


def _opened(http: httpx.Client, address: str) -> "xr.Dataset":
    import xarray as xr

    from ups_server.client.zarr_store import HttpStore

    lazy: xr.Dataset = xr.open_zarr(HttpStore(http, address), consolidated=True, decode_times=False)
    return lazy


def download(job_id: str, path: str | os.PathLike[str]) -> Operation[None]:
    """The result of a queued rollout that has ended as a file: .nc, .h5, .npz or .safetensors.

    The file is there once it is whole.

    Raises:
        UserError: ``unknown_format``, ``unknown_job``, ``result_not_ready``, ``result_expired``.
    """
    from ups_server.data.exporters import FORMATS, format_of

    headers = {"Accept": FORMATS[format_of(Path(path))].media_type}
    part = Path(path).with_name(f"{Path(path).name}.part")
    try:
        yield from asked(Ask("GET", f"{job_path(job_id)}/result", headers=headers, repeatable=True, into=part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def delete_rollout(job_id: str) -> Operation[None]:
    """Removes a queued rollout that has ended, and its result. Raises UserError ``unknown_job``, ``job_open``."""
    yield from deleted(f"{ROLLOUTS}/{segment(job_id)}")
