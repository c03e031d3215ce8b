"""How a rollout is answered: in the format of the Accept header, collected and encoded, or streamed step by step.

As server-sent events it is `start`, one `step` per frame as it is computed, then `end` or `problem`. Data of the events
(JSON): `start` is the answer without `data`, with all planned `times` and `n_frames`; `step` has `index`, `time` and
`data`, the state (X..., C), with a leading batch axis where the request had one, as nested lists or, with
``?encoding=base64``, as base64 of little-endian float32 in C order with its `shape`; states that have ended are null,
or NaN; `end` has `n_frames` and all `flags`; `problem` is a problem document.

With `diagnostics`, `start` has what is known before the first step (`wave_numbers`, `expected_error`,
`out_of_distribution`), each `step` its own (`conserved`, `energy`, `power`, `departure`), `end` the rest (`stopped`,
`endings`, `out_of_distribution`). With `reference`, a `reference` event a frame follows after the last step, once two
resolutions of the numerical solver agree: `index`, `time`, the solver's state as `data` and the model's `nrmse`,
`nrmse_per_field` and `rmse_per_field`; `end` has the whole comparison. Of an ensemble, `end` says which members ended
early.
"""

import asyncio
import base64
import json
import math
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from ups_server.api.problems import problem_document
from ups_server.data.export import encode as export_bytes
from ups_server.data.export import media_types
from ups_server.data.formats.written import plain
from ups_server.engine.engine import Engine, EngineFailure
from ups_server.errors import UserError
from ups_server.rollout.observation import Compared, Computed, Observation
from ups_server.rollout.plan import Plan
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames

JSON = "json"
EVENTS = "events"
JSON_VALUE = 96
"""Bytes of one value while it becomes JSON: as float32, as a number of Python's, as text."""
BINARY_COPIES = 3
"""Of the values, while they become a binary format."""

OFFERED = {
    "application/json": JSON,
    **{media_type: name for media_type, name in media_types().items() if name != JSON},
    "application/x-safetensors": "safetensors",
    "application/netcdf": "netcdf",
    "text/event-stream": EVENTS,
}
"""Media type -> format of the answer, the preferred first: every exporter, and the event stream."""
UNCOMPRESSED = ("application/octet-stream", *(name for name, output in OFFERED.items() if output != JSON))
"""Media types that are sent as they are, whatever `Accept-Encoding` says."""


def choose(accept: str | None) -> tuple[str, str]:
    """The (format, media type) a client prefers; JSON where it does not care.

    Raises:
        UserError: ``not_acceptable``.
    """
    ranges = [_media_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, best_quality = None, 0.0
    for media_type in OFFERED:
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = media_type, quality
    if best is None:
        raise UserError("not_acceptable", "none of the accepted formats is offered", got=accept, expected=list(OFFERED))
    return OFFERED[best], best


def choose_file(accept: str | None, default: str, formats: Collection[str]) -> tuple[str, str]:
    """The (format, media type) of a file that a client prefers, one of `formats`; `default` where it does not care.

    Raises:
        UserError: ``not_acceptable``.
    """
    format, media_type = choose(accept if accept and accept.strip() != "*/*" else default)
    if format not in formats:
        raise UserError("not_acceptable", "what is stored is not sent as that", got=media_type, expected=[*formats])
    return format, media_type


def _media_range(part: str) -> tuple[str, float]:
    """`type/subtype` and its q."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return name, quality


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """q of the most specific range that matches."""
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        qualities = [quality for name, quality in ranges if name == pattern]
        if qualities:
            return max(qualities)
    return 0.0


@dataclass(frozen=True)
class Answer:
    """A finished rollout.

    Attributes:
        values: (B, T, X..., C) in the units of the request's box.
        attributes: what is said beside them.
        truths: the numerical solver's frames, each (B, X..., C), where they were to be kept.
        seconds: of computing, where the engine knows.
    """

    plan: Plan
    values: Frames
    attributes: dict[str, Any]
    truths: list[Frames]
    seconds: float | None


async def collect(plan: Plan, engine: Engine, settings: Settings, keep_truths: bool = False) -> Answer:
    """Runs a plan to its end, or to where it blows up; keeps the reference's frames where they are wanted."""
    observation = Observation(plan, engine, settings.reference_timeout_s)
    await observation.start()
    values = np.empty(plan.shape, dtype=np.float32)
    frames, truths = 0, list[Frames]()
    async with aclosing(observation.events()) as events:
        async for event in events:
            if isinstance(event, Computed):
                values[:, frames] = await finished(plan, event.values)
                frames += 1
            elif keep_truths:
                truths.append(event.truth)
    attributes = await asyncio.to_thread(observation.attributes)
    return Answer(plan, values[:, :frames], attributes, truths, observation.seconds)


async def finished(plan: Plan, values: Frames) -> Frames:
    """`Plan.answer_values`, beside the event loop where it takes time."""
    if plan.finer is None and plan.ensemble is None:
        return plan.answer_values(values)
    return await asyncio.to_thread(plan.answer_values, values)


def check_size(plan: Plan, output: str, settings: Settings) -> None:
    """Raises UserError ``not_acceptable`` for JSON answers that belong into a binary format."""
    values = math.prod(plan.shape)
    if output == JSON and values > settings.max_json_values:
        raise UserError(
            "not_acceptable",
            "the answer is too large for JSON",
            got=values,
            expected=f"at most {settings.max_json_values} values",
            hint="send Accept: application/vnd.safetensors, application/x-npz or application/x-netcdf",
        )


def answer_bytes(plan: Plan, output: str) -> int:
    """Bytes of memory that a finished answer takes, at most: its values, and what they are written as."""
    return math.prod(plan.shape) * (JSON_VALUE if output == JSON else 4 * BINARY_COPIES)


def encode(answer: Answer, output: str) -> bytes:
    """The answer as the bytes of a format; static fields are in all but JSON."""
    plan = answer.plan
    return export_bytes(
        output,
        answer.values,
        plan.times()[: answer.values.shape[1]],
        plan.family,
        plan.grid,
        plan.stored,
        answer.attributes,
        plan.batched,
        None if output == JSON else plan.answer_static,
    )


VARY = {"Vary": "Accept"}
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **VARY}


class Encoding(StrEnum):
    """How the state of a `step` event is written."""

    LIST = "list"
    BASE64 = "base64"


class EventStream(EventSourceResponse):
    """Closes its generator as soon as the client is gone, which frees the engine's place."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, headers=HEADERS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def stream(plan: Plan, engine: Engine, encoding: Encoding, settings: Settings) -> EventStream:
    """Starts a rollout and answers with its events.

    Waits for the engine to accept it, so that what is refused is an error status and not an event.
    """
    observation = Observation(plan, engine, settings.reference_timeout_s)
    await observation.start()
    return EventStream(with_keep_alive(_events(observation, encoding), settings.keep_alive_s))


async def with_keep_alive(events: AsyncGenerator[bytes], interval: float) -> AsyncGenerator[bytes]:
    """The events, and a comment after each `interval` seconds without one."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(events))
            while not (await asyncio.wait([coming], timeout=interval))[0]:
                yield KEEPALIVE_COMMENT
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
        else:
            await events.aclose()


async def _events(observation: Observation, encoding: Encoding) -> AsyncGenerator[bytes]:
    plan, diagnosis = observation.plan, observation.diagnosis
    header, times, frames = plan.header(), plan.times().tolist(), 0
    async with aclosing(observation.events()) as running:
        try:
            async for event in running:
                if isinstance(event, Compared):
                    yield _reference(plan, event, times[event.index], encoding)
                    continue
                if frames == 0:
                    outline = {} if diagnosis is None else {"diagnostics": diagnosis.outline()}
                    yield _event("start", {**header.document(), "n_frames": plan.n_frames, **outline})
                state = await finished(plan, event.values)
                yield _step(plan, event, state, times[event.index], encoding)
                frames += 1
        except (UserError, EngineFailure) as error:
            yield _event("problem", problem_document(error))
            return
    ending: dict[str, Any] = {
        "n_frames": frames,
        "flags": [flag.model_dump(mode="json") for flag in observation.flags],
    }
    if diagnosis is not None:
        ending["diagnostics"] = diagnosis.ending()
    if plan.ensemble is not None:
        ending["ensemble"] = plan.ensemble.summary(observation.flags).model_dump(mode="json")
    if observation.comparison is not None:
        ending["reference"] = observation.comparison.model_dump(mode="json")
    yield _event("end", ending)


def _step(plan: Plan, event: Computed, state: Frames, time: float, encoding: Encoding) -> bytes:
    found = {} if event.diagnostics is None else {"diagnostics": event.diagnostics}
    written = _written(state if plan.batched else state[0], encoding)
    return _event("step", {"index": event.index, "time": time, **written, **found}, event.index)


def _reference(plan: Plan, event: Compared, time: float, encoding: Encoding) -> bytes:
    written = _written(event.truth if plan.many else event.truth[0], encoding)
    return _event("reference", {"index": event.index, "time": time, **event.errors, **written})


def _written(state: Frames, encoding: Encoding) -> dict[str, Any]:
    if encoding is Encoding.BASE64:
        return {"shape": state.shape, "data": base64.b64encode(state.astype("<f4").tobytes()).decode()}
    return {"data": plain(state)}


def _event(name: str, data: dict[str, Any], event_id: int | None = None) -> bytes:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return format_sse_event(data_str=text, event=name, id=None if event_id is None else str(event_id))
