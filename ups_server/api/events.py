"""Rollouts as server-sent events: `start`, one `step` per frame as it is computed, then `end` or `problem`.

Data of the events (JSON): `start` is the answer without `data`, with all planned `times` and `n_frames`; `step` has
`index`, `time` and `data`, the state (X..., C), with a leading batch axis where the request had one, as nested lists
or, with ``?encoding=base64``, as base64 of little-endian float32 in C order with its `shape`; `end` has `n_frames` and
all `flags`; `problem` is a problem document.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import StrEnum
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from ups_server.api.problems import problem_document
from ups_server.data.exporters import Header
from ups_server.errors import UserError
from ups_server.solve.engine import BlowUp, Engine, EngineFailure, Event, Frame
from ups_server.solve.rollout import Plan
from ups_server.solve.solver import Frames

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


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


async def stream(plan: Plan, engine: Engine, encoding: Encoding, keep_alive: float) -> EventStream:
    """Starts a rollout and answers with its events.

    Waits for the engine to accept it, so that what is refused is an error status and not an event.
    """
    running = engine.rollout(plan.spec, plan.initial, plan.static)
    await anext(running)
    return EventStream(with_keep_alive(_events(plan, running, encoding), keep_alive))


async def with_keep_alive(events: AsyncGenerator[bytes], interval: float) -> AsyncGenerator[bytes]:
    """The events, and a comment after each `interval` seconds of silence."""
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


async def _events(plan: Plan, running: AsyncGenerator[Event], encoding: Encoding) -> AsyncGenerator[bytes]:
    times, frames, flags = plan.times(), 1, list(plan.flags)
    async with aclosing(running):
        yield _event("start", {**_header(plan), "n_frames": plan.n_frames})
        yield _step(plan, 0, 0.0, plan.initial, encoding)
        try:
            async for event in running:
                if isinstance(event, Frame):
                    yield _step(plan, frames, float(times[frames]), event.values, encoding)
                    frames += 1
                elif isinstance(event, BlowUp):
                    flags.append(plan.blow_up_flag(event))
        except (UserError, EngineFailure) as error:
            yield _event("problem", problem_document(error))
            return
        yield _event("end", {"n_frames": frames, "flags": [flag.model_dump(mode="json") for flag in flags]})


def _header(plan: Plan) -> dict[str, Any]:
    header = Header(
        plan.family,
        plan.grid,
        plan.times(),
        plan.coefficients,
        len(plan.initial),
        plan.attributes(plan.flags),
        plan.batched,
    )
    return header.document(header.times)


def _step(plan: Plan, index: int, time: float, values: Frames, encoding: Encoding) -> bytes:
    state = plan.answer_values(values)
    if not plan.batched:
        state = state[0]
    if encoding is Encoding.BASE64:
        text = base64.b64encode(state.astype("<f4").tobytes()).decode()
        return _event("step", {"index": index, "time": time, "shape": state.shape, "data": text}, index)
    return _event("step", {"index": index, "time": time, "data": state.tolist()}, index)


def _event(name: str, data: dict[str, Any], event_id: int | None = None) -> bytes:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return format_sse_event(data_str=text, event=name, id=None if event_id is None else str(event_id))
