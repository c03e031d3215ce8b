"""What a service can be asked for: families and models, rollouts, jobs, files. Both clients offer every operation here.

Public functions without an underscore are the clients' methods: operations, or streams of events.
"""

import base64
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import httpx
import numpy as np

from ups_server.client.exchange import (
    Ask,
    ItemT,
    Operation,
    Pause,
    Stream,
    asked,
    deleted,
    given,
    got,
    pause_s,
    segment,
    sent,
    user_error,
    worked,
)
from ups_server.client.messages import (
    CheckpointDocument,
    EquationDocument,
    FamilyDocument,
    FileDocument,
    InitialCondition,
    JobDocument,
    KeyDocument,
    ModelDocument,
    RolloutOptions,
    ServerEvent,
    Step,
    SuperResolutionOptions,
    rollout_body,
)
from ups_server.errors import UserError
from ups_server.pde import Family, Grid
from ups_server.pde import families as known_families
from ups_server.tensors import SAFETENSORS, from_safetensors

if TYPE_CHECKING:
    import xarray as xr

EVALUATIONS, FINE_TUNINGS, ROLLOUTS = "/v1/evaluations", "/v1/fine-tuning/jobs", "/v1/rollouts"
JOBS = {"evaluation": EVALUATIONS, "fine_tuning": FINE_TUNINGS, "rollout": ROLLOUTS}
"""Where jobs are, by their kind."""
KINDS = {"eval": "evaluation", "ft": "fine_tuning", "ro": "rollout"}
"""The first part of a job's id."""
FILES = "/v1/files"
PART_BYTES = 2**18
"""Of a file, sent at a time."""
MAX_FAILURES = 8
"""Breaks one after another, without anything arriving in between, before a stream or an upload is given up."""


def families(dimensions: int | None = None) -> Operation[list[FamilyDocument]]:
    """Every family of the service, or those in so many dimensions."""
    found = yield from got("/v1/families", **given(dimensions=dimensions))
    return [FamilyDocument(entry) for entry in found["families"]]


def family(family_id: str) -> Operation[FamilyDocument]:
    """One family. Raises UserError ``unknown_family``."""
    return FamilyDocument((yield from got(f"/v1/families/{segment(family_id)}")))


def equation(
    text: str | None = None, description: str | None = None, **coefficients: float
) -> Operation[EquationDocument]:
    """The canonical form of an equation in symbols, or a proposal for a description in words.

    Raises:
        UserError: ``invalid_equation``, ``missing_coefficient``, ``ill_posed``, ``text_too_long``.
    """
    given = {"equation": text, "description": description, "coefficients": coefficients}
    content = json.dumps({name: value for name, value in given.items() if value}).encode()
    headers = {"Content-Type": "application/json"}
    response = yield from asked(Ask("POST", "/v1/equations", content, headers, repeatable=True))
    return EquationDocument(response.json())


def models(family: str | None = None, kind: str | None = None) -> Operation[list[ModelDocument]]:
    """Every model of the service, without scores and cards.

    Args:
        family: only those that were trained on it.
        kind: only "learned" or "builtin" ones.
    """
    found = yield from got("/v1/models", **given(family=family, kind=kind))
    return [ModelDocument(entry) for entry in found["models"]]


def model(model_id: str) -> Operation[ModelDocument]:
    """One model with its scores and card. Raises UserError ``unknown_model``."""
    return ModelDocument((yield from got(f"/v1/models/{segment(model_id)}")))


def delete_model(model_id: str) -> Operation[None]:
    """Removes an adapted model. Raises UserError ``unknown_model``, ``model_in_use``, ``not_deletable``."""
    yield from deleted(f"/v1/models/{segment(model_id)}")


def current_key() -> Operation[KeyDocument]:
    """The client's own key: what it allows and what it has used."""
    return KeyDocument((yield from got("/v1/keys/current")))


def rollout(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    **options: Unpack[RolloutOptions],
) -> Operation["xr.Dataset"]:
    """A rollout with coordinates, units and attributes; a notebook shows a small picture of it.

    Args:
        family: a family id; or `equation` in symbols among the options.
        n_steps: steps of `dt`; or `times` among the options.
        initial_condition: an array (X..., C) in physical units, (X...) for a single field, a leading axis for a
            batch; or ``{"sample": {"seed": 7}}``.
        options: the other fields of `RolloutRequest`. The statistics of an ensemble are the dimension `statistic`.

    Raises:
        UserError: what the service objects to.
    """
    from ups_server.client.pictured import PicturedDataset

    solved = yield from _solved(ROLLOUTS, initial_condition, {"family": family, "n_steps": n_steps, **options})
    return PicturedDataset.of(_with_statistics(solved))


def super_resolution(
    family: str,
    n_steps: int,
    initial_condition: InitialCondition,
    output_resolution: Sequence[int],
    **options: Unpack[SuperResolutionOptions],
) -> Operation["xr.Dataset"]:
    """A rollout on a finer grid than its state, by both methods, along the dimension `method`; see `rollout`."""
    from ups_server.client.pictured import PicturedDataset

    document = {"family": family, "n_steps": n_steps, "output_resolution": list(output_resolution), **options}
    solved = yield from _solved("/v1/super-resolution", initial_condition, document)
    methods = json.loads(solved.attrs["methods"])
    return PicturedDataset.of(solved.rename(trajectory="method").assign_coords(method=methods))


def stream(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    **options: Unpack[RolloutOptions],
) -> Stream[Step]:
    """The states of a rollout as they are computed, the initial condition first; arguments as of `rollout`.

    Closing the iterator cancels the rollout. A blow-up ends it early.

    Raises:
        UserError: what the service objects to; ``engine_unavailable`` where it fails in the middle.
    """
    return _Steps(initial_condition, {"family": family, "n_steps": n_steps, **options})


def stream_events(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    **options: Unpack[RolloutOptions],
) -> Stream[ServerEvent]:
    """(name, data) of all events of a rollout, diagnostics and reference included, `data["data"]` being arrays.

    Raises:
        UserError: as `stream`.
    """
    return _RolloutEvents(initial_condition, {"family": family, "n_steps": n_steps, **options})


def submit(
    family: str | None = None,
    n_steps: int | None = None,
    initial_condition: InitialCondition | None = None,
    idempotency_key: str | None = None,
    **options: Unpack[RolloutOptions],
) -> Operation[JobDocument]:
    """Queues a rollout without waiting for it; arguments as of `rollout`. The job, to come back to by its id."""
    content, headers = rollout_body(initial_condition, {"family": family, "n_steps": n_steps, **options})
    queued = {**headers, "Prefer": "respond-async", "Idempotency-Key": idempotency_key or _new_key()}
    return JobDocument((yield from asked(Ask("POST", ROLLOUTS, content, queued, repeatable=True))).json())


def result(job_id: str) -> Operation["xr.Dataset"]:
    """The result of a queued rollout, loaded as it is used; frames that are not there yet are NaN.

    Values are fetched by a blocking connection, whichever client asks: in a coroutine, load what is needed in
    `asyncio.to_thread`.

    Raises:
        UserError: ``unknown_job``, ``result_not_ready``, ``result_expired``.
    """
    address = f"{_job_path(job_id)}/result"
    yield from asked(Ask("GET", f"{address}/zarr.json", repeatable=True))
    return _with_statistics((yield from worked(lambda http: _opened(http, address))))


def download(job_id: str, path: str | os.PathLike[str]) -> Operation[None]:
    """The result of a queued rollout that has ended as a file: .nc, .h5, .npz or .safetensors.

    The file is there once it is whole.

    Raises:
        UserError: ``unknown_format``, ``unknown_job``, ``result_not_ready``, ``result_expired``.
    """
    from ups_server.data.export import media_type_of

    headers = {"Accept": media_type_of(Path(path))}
    yield from _saved(Ask("GET", f"{_job_path(job_id)}/result", headers=headers, repeatable=True), Path(path))


def delete_rollout(job_id: str) -> Operation[None]:
    """Removes a queued rollout that has ended, and its result. Raises UserError ``unknown_job``, ``job_open``."""
    yield from deleted(f"{ROLLOUTS}/{segment(job_id)}")


def evaluate(
    file: str,
    idempotency_key: str | None = None,
    *,
    model: str | None = None,
    dt: float | None = None,
    resolution: int | None = None,
    trajectories: int | None = None,
    horizon: str = "step",
    priority: int = 0,
) -> Operation[JobDocument]:
    """Queues an evaluation of a stored file. The job.

    Args:
        model: a model id; default: the service's default model.
        dt: step; default: the model's for the family, else the family's.
        resolution: points per axis; default: the file's.
        trajectories: the first so many; default: all.
        horizon: "final" scores the last state alone, predicted from the first.
        priority: higher goes first.
    """
    document = {
        "file": file,
        "model": model,
        "dt": dt,
        "resolution": resolution,
        "trajectories": trajectories,
        "priority": priority,
    }
    document |= {} if horizon == "step" else {"horizon": horizon}
    return JobDocument((yield from sent("POST", EVALUATIONS, document, idempotency_key or _new_key())))


def fine_tune(
    training_file: str,
    n_trajectories: int,
    idempotency_key: str | None = None,
    *,
    model: str | None = None,
    validation_file: str | None = None,
    start: str = "model",
    embedder: str | None = None,
    body_layers: int | None = None,
    alignment: str = "none",
    alignment_options: Mapping[str, str] | None = None,
    tuning: str | None = None,
    horizon: str = "step",
    max_steps: int | None = None,
    max_seconds: float | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    suffix: str | None = None,
    priority: int = 0,
) -> Operation[JobDocument]:
    """Queues a fine-tuning on a stored file. The job.

    Args:
        n_trajectories: to train on; the rest, or `validation_file`, is held out.
        model: a model id; default: the service's default model.
        start: "lm" has a new embedder and head around the pretrained language model, "random" around one of random
            weights; no model is used then. (`from` over HTTP.)
        embedder: of these, fno or patch. body_layers: of the language model; default all.
        alignment: none, euclidean, mmd, otdd, recraft, mona or pare, before tuning; alignment_options: its
            variants.
        tuning: what may change: operator, full, lora, layernorm, prefix or head; default operator, after a fresh start
            full.
        horizon: "final" learns to go from the first state to the last at once; of a steady equation, to its solution.
        max_steps: optimiser steps at most; default by `n_trajectories`.
        max_seconds: of training at most.
        learning_rate: peak; default by the method.
        suffix: part of the new model's id.
        priority: higher goes first.
    """
    document = {
        "training_file": training_file,
        "n_trajectories": n_trajectories,
        "model": model,
        "validation_file": validation_file,
        "alignment": alignment,
        "max_steps": max_steps,
        "max_seconds": max_seconds,
        "learning_rate": learning_rate,
        "seed": seed,
        "suffix": suffix,
        "priority": priority,
    }
    added = {
        "from": None if start == "model" else start,
        "embedder": embedder,
        "body_layers": body_layers,
        "alignment_options": None if alignment_options is None else dict(alignment_options),
        "tuning": tuning,
        "horizon": None if horizon == "step" else horizon,
    }
    document |= {name: value for name, value in added.items() if value is not None}
    return JobDocument((yield from sent("POST", FINE_TUNINGS, document, idempotency_key or _new_key())))


def jobs(
    kind: str | None = None, limit: int = 20, before: str | None = None, state: str | None = None
) -> Operation[list[JobDocument]]:
    """The latest jobs, of every kind or of one: "evaluation", "fine_tuning" or "rollout".

    Args:
        before: a job's id: only those of its kind made before it.
        state: only those in this state.

    Raises:
        UserError: ``invalid_value``, ``invalid_request``.
    """
    if kind is None and before is not None:
        kind = KINDS.get(before.partition("-")[0])
    if kind is not None and kind not in JOBS:
        raise UserError("invalid_value", f"{kind!r} is no kind of job", got=kind, expected=[*JOBS])
    page = given(limit=limit, before=before, state=state)
    found: list[JobDocument] = []
    for name in JOBS if kind is None else [kind]:
        found += [JobDocument(entry) for entry in (yield from got(JOBS[name], **page))["jobs"]]
    return sorted(found, key=lambda job: job.created_at, reverse=True)[:limit]


def job(job_id: str) -> Operation[JobDocument]:
    """One job: its state, and its result or error once it has ended. Raises UserError ``unknown_job``."""
    return JobDocument((yield from got(_job_path(job_id))))


def wait(
    job_id: str, progress: Callable[[str, int, int], None] | None = None, interval_s: float = 0.2
) -> Operation[JobDocument]:
    """The job once it has ended, however it ended.

    Args:
        progress: called with (what, done, of how many) as the job goes on.

    Raises:
        UserError: ``unknown_job``.
    """
    after = 0
    while True:
        found = yield from got(f"{_job_path(job_id)}/events", after=after)
        for event in found["events"]:
            after, data = event["seq"], event["data"]
            if progress is not None and event["type"] == "progress":
                progress(data.get("what", "scores"), data["done"], data["total"])
            if progress is not None and event["type"] == "step":
                progress("tuning", data["step"], data["steps"])
        if found["complete"]:
            return (yield from job(job_id))
        yield Pause(interval_s)


def follow(job_id: str, after: int = 0) -> Stream[ServerEvent]:
    """(type, data) of a job's events above number `after` as they come, until it ends.

    A stream that breaks off is taken up again where it was.
    """
    return _JobEvents(job_id, after)


def checkpoints(job_id: str) -> Operation[list[CheckpointDocument]]:
    """Where a fine-tuning job has saved its state so far, with its scores. Raises UserError ``unknown_job``."""
    found = yield from got(f"{FINE_TUNINGS}/{segment(job_id)}/checkpoints")
    return [CheckpointDocument(entry) for entry in found["checkpoints"]]


def cancel(job_id: str) -> Operation[JobDocument]:
    """Asks for the end of a job. Raises UserError ``job_finished``."""
    return JobDocument((yield from sent("POST", f"{_job_path(job_id)}/cancel")))


def resume(job_id: str) -> Operation[JobDocument]:
    """Queues a cancelled or failed job again. Raises UserError ``job_not_resumable``."""
    return JobDocument((yield from sent("POST", f"{_job_path(job_id)}/resume")))


def upload(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    declaration: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    wait: bool = True,
    name: str | None = None,
) -> Operation[FileDocument]:
    """Uploads a file, or several of the same structure as one data set, and waits until it is examined.

    An upload that breaks off goes on from where it stopped, also when the call is repeated: the same files with the
    same names and declaration are the same upload.

    Args:
        path: of the file, or a folder of Zarr, which is sent as a zip; of several, whose trajectories are counted
            through all of them in this order.
        declaration: family or equation, coefficients, boundary, axes: see `Declaration` in the OpenAPI document.
        progress: called with (bytes done, bytes in all).
        wait: False returns as soon as all bytes have arrived.
        name: of the file on the service; default: its own, or what the names of several have in common.

    Returns:
        The file's record, with its report.

    Raises:
        UserError: why the service takes no such file, or why it refused this one.
        httpx.TransportError: the service cannot be reached any more.
    """
    chosen = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(entry) for entry in path]
    if not chosen:
        raise UserError("empty_file", "there are no files to upload")
    with ExitStack() as held:
        sources = yield from worked(lambda _: [held.enter_context(_as_file(entry)) for entry in chosen])
        sha256 = yield from worked(lambda _: _digest(sources))
        sizes = [source.stat().st_size for source in sources]
        wanted: dict[str, Any] = {"name": name or common_name(chosen), "size": sum(sizes), "sha256": sha256}
        wanted["declaration"] = declaration or {}
        if len(chosen) > 1:
            wanted["parts"] = [{"name": file.name, "size": size} for file, size in zip(chosen, sizes, strict=True)]
        key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        record = yield from sent("POST", FILES, wanted, key)
        if record["state"] == "uploading":
            yield from _transfer(record, sources, progress)
    return (yield from examined_file(record["id"]) if wait else file(record["id"]))


@contextmanager
def _as_file(path: Path) -> Iterator[Path]:
    """The file; of a folder of Zarr a zip, whose bytes are the same whenever it is made.

    Raises:
        UserError: ``not_a_file`` for other folders.
    """
    if not path.is_dir():
        yield path
        return
    from ups_server.data.formats.base import ZARR_ROOT

    if not any((path / name).is_file() for name in ZARR_ROOT):
        raise UserError("not_a_file", f"{path.name} is a folder, but not Zarr", hint="give the files in it")
    with tempfile.TemporaryDirectory(prefix="ups-") as folder:
        zipped = Path(folder) / path.name
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_STORED) as archive:
            for entry in sorted(path.rglob("*")):
                if entry.is_file():
                    info = zipfile.ZipInfo(entry.relative_to(path).as_posix())
                    info.file_size = entry.stat().st_size
                    with entry.open("rb") as source, archive.open(info, "w") as target:
                        shutil.copyfileobj(source, target, PART_BYTES)
        yield zipped


def fetch(
    address: str, declaration: Mapping[str, Any] | None = None, name: str | None = None
) -> Operation[FileDocument]:
    """Has the service copy a Zarr that lies elsewhere, and waits until it is examined.

    Args:
        address: ``https://host/x.zarr`` or ``s3://bucket/x.zarr``; the service's settings say which it may read.
        declaration: as of `upload`.
        name: of the file on the service; default: the last part of the address.

    Raises:
        UserError: ``address_refused``, ``private_target``, ``not_found``, ``unreachable``, ``too_many_bytes``,
            ``too_slow``, and those of `upload`.
    """
    wanted = {"address": address, "declaration": declaration or {}, **given(name=name)}
    record = yield from sent("POST", FILES, wanted)
    return (yield from examined_file(record["id"]))


def common_name(files: Sequence[Path]) -> str:
    """`shock_*.mat` for several files, where their names begin or end alike; that of a single one."""
    names = [file.name for file in files]
    if len(set(names)) == 1:
        return names[0]
    start = _common(names)
    end = _common([name[len(start) :][::-1] for name in names])[::-1]
    return f"{start}*{end}"


def _common(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def examined_file(file_id: str, interval_s: float = 0.2) -> Operation[FileDocument]:
    """The record of an uploaded file once it is examined.

    Raises:
        UserError: ``unknown_file``, or why the file was refused.
    """
    while (record := (yield from file(file_id))).state == "validating":
        yield Pause(interval_s)
    if record.state == "refused":
        raise user_error(record["problem"])
    return record


def files(
    limit: int | None = None, before: str | None = None, state: str | None = None, family: str | None = None
) -> Operation[list[FileDocument]]:
    """Every uploaded file, the newest first, without reports.

    Args:
        limit: so many at most.
        before: a file's id: only those made before it.
        state: only those in this state.
        family: only those of this equation.

    Raises:
        UserError: ``unknown_file``, ``invalid_request``.
    """
    page = given(limit=limit, before=before, state=state, family=family)
    return [FileDocument(entry) for entry in (yield from got(FILES, **page))["files"]]


def file(file_id: str) -> Operation[FileDocument]:
    """One uploaded file with its report. Raises UserError ``unknown_file``."""
    return FileDocument((yield from got(f"{FILES}/{segment(file_id)}")))


def preview(file_id: str) -> Operation[bytes]:
    """A picture of an accepted file, PNG. Raises UserError ``unknown_file`` or ``wrong_state``."""
    response = yield from asked(Ask("GET", f"{FILES}/{segment(file_id)}/preview", repeatable=True))
    return response.content


def data(
    file_id: str,
    trajectories: str | int | Sequence[int] | None = None,
    *,
    times: tuple[float, float] | None = None,
    steps: str | int | Sequence[int] | None = None,
    resolution: int | Sequence[int] | None = None,
) -> Operation["xr.Dataset"]:
    """Trajectories of an accepted file, with coordinates, units and attributes.

    Args:
        trajectories: by their numbers in the file: one, several, or a range such as "0:10"; default: all usable ones.
        times: (first, last), both included.
        steps: frames by number, instead of `times`.
        resolution: points along the first axis or along each, by leaving points out.

    Raises:
        UserError: ``unknown_file``, ``wrong_state``, ``row_out_of_range``, ``unusable_row``, ``invalid_times``,
            ``resolution_mismatch``, ``too_much_data``.
    """
    from io import BytesIO

    import xarray as xr

    from ups_server.client.pictured import PicturedDataset

    ask = _data(file_id, "netcdf", trajectories, times, steps, resolution)
    content = (yield from asked(ask)).content
    return PicturedDataset.of(xr.load_dataset(BytesIO(content), engine="h5netcdf", decode_times=False))


def download_data(
    file_id: str,
    path: str | os.PathLike[str],
    trajectories: str | int | Sequence[int] | None = None,
    *,
    times: tuple[float, float] | None = None,
    steps: str | int | Sequence[int] | None = None,
    resolution: int | Sequence[int] | None = None,
    format: str | None = None,
) -> Operation[None]:
    """Trajectories of an accepted file as a file, which is there once it is whole; arguments as of `data`.

    Args:
        format: default: what the suffix of `path` asks for.

    Raises:
        UserError: ``unknown_format``, and those of `data`.
    """
    from ups_server.data.export import exporter_of

    target = Path(path)
    ask = _data(file_id, format or exporter_of(target).format, trajectories, times, steps, resolution)
    yield from _saved(ask, target)


def _data(
    file_id: str,
    format: str,
    trajectories: str | int | Sequence[int] | None,
    times: tuple[float, float] | None,
    steps: str | int | Sequence[int] | None,
    resolution: int | Sequence[int] | None,
) -> Ask:
    params = given(
        format=format,
        trajectories=_listed(trajectories),
        times=None if times is None else f"{float(times[0])!r}:{float(times[1])!r}",
        steps=_listed(steps),
        resolution=_points(resolution),
    )
    return Ask("GET", f"{FILES}/{segment(file_id)}/data", params=params, repeatable=True)


def _points(resolution: int | Sequence[int] | None) -> str | None:
    """`[64, 32]` to "64x32"."""
    if resolution is None:
        return None
    return "x".join(map(str, [resolution] if isinstance(resolution, int) else resolution))


def _listed(numbers: str | int | Sequence[int] | None) -> str | None:
    """`[0, 3]` to "0,3"."""
    if numbers is None or isinstance(numbers, str):
        return numbers
    return ",".join(map(str, [numbers] if isinstance(numbers, int) else numbers))


def _saved(ask: Ask, path: Path) -> Operation[None]:
    """The answer as a file, which is there once it is whole."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield from asked(replace(ask, into=part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def declare(file_id: str, declaration: Mapping[str, Any]) -> Operation[FileDocument]:
    """Says something else about a refused file and waits until it is examined again.

    Raises:
        UserError: ``unknown_file``, ``wrong_state``, what is wrong with the declaration, or why it is refused.
    """
    yield from sent("PUT", f"{FILES}/{segment(file_id)}/declaration", dict(declaration))
    return (yield from examined_file(file_id))


def delete_file(file_id: str) -> Operation[None]:
    """Removes an uploaded file. Raises UserError ``unknown_file``."""
    yield from deleted(f"{FILES}/{segment(file_id)}")


def _solved(path: str, initial: InitialCondition | None, document: Mapping[str, Any]) -> Operation["xr.Dataset"]:
    from ups_server.data.formats.netcdf import to_dataset

    content, headers = rollout_body(initial, document)
    response = yield from asked(Ask("POST", path, content, {**headers, "Accept": SAFETENSORS}, repeatable=True))
    arrays, texts = from_safetensors(response.content)
    header = json.loads(texts["header"])
    known = known_families().get(header["family"])
    solved = known or _declared_family((yield from family(header["family"])))
    grid = Grid.from_json(header["grid"])
    values, static = arrays["data"], arrays.get("static")
    if static is not None and values.ndim == grid.ndim + 2:
        static = static[0]
    told = _attributes(header)
    return to_dataset(values, arrays["times"], solved, grid, header["coefficients"], told, static)


def _attributes(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the service says beside the problem itself."""
    always = ("model", "model_version", "dt", "n_steps", "save_every", "flags")
    asked_for = ("equation", "terms", "diagnostics", "reference", "super_resolution", "methods", "errors", "ensemble")
    return {name: header[name] for name in (*always, *asked_for) if name in header}


def _declared_family(card: FamilyDocument) -> Family:
    """An equation of a user's from its entry in the list of families."""
    from ups_server.data.user_equation import EquationSpec

    same = ("id", "name", "equation", "extent", "boundary", "dt", "time_unit", "length_unit")
    fields = [
        {"name": entry["name"], "slot": slot, "unit": entry["unit"], "description": entry["description"]}
        for slot, entry in enumerate(card["fields"])
    ]
    document = {name: card[name] for name in same} | {"fields": fields}
    return EquationSpec.model_validate_json(json.dumps(document)).family()


def _with_statistics(solved: "xr.Dataset") -> "xr.Dataset":
    """The rows of an ensemble are its statistics."""
    if "ensemble" not in solved.attrs:
        return solved
    names = json.loads(solved.attrs["ensemble"])["statistics"]
    return solved.rename(trajectory="statistic").assign_coords(statistic=names)


def _opened(http: httpx.Client, address: str) -> "xr.Dataset":
    import xarray as xr

    from ups_server.client.zarr_store import HttpStore

    lazy: xr.Dataset = xr.open_zarr(HttpStore(http, address), consolidated=True, decode_times=False)
    return lazy


class _RolloutStream(Stream[ItemT]):
    """A rollout in progress. It is not kept, so that what breaks off is lost; the connection's end cancels it."""

    def __init__(self, initial_condition: InitialCondition | None, document: Mapping[str, Any]) -> None:
        super().__init__()
        self._initial_condition, self._document = initial_condition, document

    def connect(self) -> Operation[httpx.Response]:
        content, headers = rollout_body(self._initial_condition, self._document)
        accepted, encoding = {**headers, "Accept": "text/event-stream"}, {"encoding": "base64"}
        return asked(Ask("POST", ROLLOUTS, content, accepted, encoding, repeatable=True, streamed=True))

    def disconnected(self, error: httpx.TransportError | None) -> Operation[None]:
        raise UserError("engine_unavailable", "the stream broke off") from error
        yield

    def _decoded(self, event: ServerEvent) -> ServerEvent:
        """Arrays as arrays. Raises UserError where the event says what is wrong."""
        data = event.data
        if event.name == "problem":
            raise user_error(data)
        if "shape" in data:
            data["data"] = np.frombuffer(base64.b64decode(data["data"]), "<f4").reshape(data["shape"])
        self.ended = event.name == "end"
        return event


class _RolloutEvents(_RolloutStream[ServerEvent]):
    def items(self, event: ServerEvent) -> Iterator[ServerEvent]:
        yield self._decoded(event)


class _Steps(_RolloutStream[Step]):
    def items(self, event: ServerEvent) -> Iterator[Step]:
        name, data = self._decoded(event)
        if name == "step":
            yield Step(data["index"], data["time"], data["data"])


class _JobEvents(Stream[ServerEvent]):
    """A job's events above a number, until the job has ended; every connection goes on where the last one was."""

    def __init__(self, job_id: str, after: int) -> None:
        super().__init__()
        self._job_id, self._after, self._failures = job_id, after, 0

    def connect(self) -> Operation[httpx.Response]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._after)}
        ask = Ask("GET", f"{_job_path(self._job_id)}/events", headers=headers, repeatable=True, streamed=True)
        while True:
            try:
                return (yield from asked(ask))
            except httpx.TransportError as error:
                yield from self._failed(error)

    def items(self, event: ServerEvent) -> Iterator[ServerEvent]:
        self._after, self._failures = event.data["seq"], 0
        yield event

    def disconnected(self, error: httpx.TransportError | None) -> Operation[None]:
        try:
            if error is None:
                self.ended = (yield from job(self._job_id)).finished_at is not None
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


def _new_key() -> str:
    """An Idempotency-Key for a caller who has none: what is sent again makes one job."""
    return uuid.uuid4().hex


def _job_path(job_id: str) -> str:
    """Raises UserError ``unknown_job``."""
    kind = KINDS.get(job_id.partition("-")[0])
    if kind is None:
        raise UserError("unknown_job", f"{job_id!r} is no job id", got=job_id, expected="eval-..., ft-... or ro-...")
    return f"{JOBS[kind]}/{segment(job_id)}"


def _transfer(
    record: Mapping[str, Any], sources: Sequence[Path], progress: Callable[[int, int], None] | None
) -> Operation[None]:
    """Sends the bytes of files that the service lacks, as often as the connection breaks and something arrived."""
    address, size = f"{FILES}/{record['id']}/content", int(record["size"])
    failures, offset = 0, int(record["offset"])
    while True:
        try:
            if failures:
                arrived = yield from _arrived(address)
                failures = failures if arrived == offset else 1
                offset = arrived
            if offset == size:
                return
            headers = {"Content-Range": f"bytes {offset}-{size - 1}/{size}", "Content-Length": str(size - offset)}
            yield from asked(Ask("PUT", address, _Remainder(sources, offset, size, progress), headers))
            return
        except httpx.TransportError as error:
            failures += 1
            if failures > MAX_FAILURES:
                raise error
            yield Pause(pause_s(failures))


def _arrived(address: str) -> Operation[int]:
    """Bytes of an upload that the service has."""
    response: httpx.Response = yield Ask("HEAD", address)
    if response.status_code == 404:
        raise UserError("unknown_file", "the upload was deleted", got=address)
    response.raise_for_status()
    return int(response.headers["Upload-Offset"])


@dataclass(frozen=True)
class _Remainder:
    """Files, one after the other, from an offset on, in parts; says how far it is after each."""

    sources: Sequence[Path]
    offset: int
    size: int
    progress: Callable[[int, int], None] | None

    def __iter__(self) -> Iterator[bytes]:
        done, before = self.offset, 0
        for source in self.sources:
            with source.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(min(done - before, size))
                before += size
                while part := stream.read(PART_BYTES):
                    yield part
                    done += len(part)
                    if self.progress is not None:
                        self.progress(done, self.size)


def _digest(paths: Sequence[Path]) -> str:
    """Of the bytes of all files, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while part := stream.read(PART_BYTES):
                found.update(part)
    return found.hexdigest()
