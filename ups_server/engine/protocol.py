"""How the API process and the engine process talk: a JSON header and raw float32 arrays per message, no pickle.

On the wire: ``!IQ`` (bytes of the header, bytes of all arrays), the header (UTF-8 JSON, with the arrays' `shapes`),
the arrays one after another (C order, native float32: both ends are on one machine).

To the engine: ``load`` (model), ``rollout`` (id, spec, window, step, ended, trace: of the request's span, empty where
nothing is traced; arrays initial, static where there is one, and what a durable rollout needs to go on from a step
above 0, its states in `ended` left out),
``more`` (id, frames: so many more frames may be sent), ``cancel`` (id).
From the engine: ``ready`` (device), ``loaded`` (model), ``unloaded`` (model), ``load_failed`` (model, reason),
``started`` (id), ``frame`` (id, step; the states, and what a durable rollout needs to go on), ``ended`` (id,
states_ended: which states go on no more, and why), ``end`` (id, seconds), ``problem`` (id, problem), ``alive`` (work:
what has been computed so far).
"""

import asyncio
import json
import math
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ups_server.errors import UserError
from ups_server.solvers.solver import Frames

Message = tuple[dict[str, Any], list[Frames]]

LATE = "late"
"""Code of the problem of a rollout one of whose steps took longer than its process allows."""

_PREFIX = struct.Struct("!IQ")


def encode(header: dict[str, Any], arrays: Sequence[Frames] = ()) -> bytes:
    """One message as bytes."""
    text = json.dumps({**header, "shapes": [array.shape for array in arrays]}).encode()
    parts = [np.ascontiguousarray(array, dtype=np.float32).data for array in arrays]
    return b"".join([_PREFIX.pack(len(text), sum(part.nbytes for part in parts)), text, *parts])


async def read(reader: asyncio.StreamReader) -> Message:
    """The next message.

    Raises:
        asyncio.IncompleteReadError: the other end is gone.
    """
    header_size, array_size = _PREFIX.unpack(await reader.readexactly(_PREFIX.size))
    header = await reader.readexactly(header_size)
    return _decode(header, await reader.readexactly(array_size))


def receive(connection: socket.socket) -> Message | None:
    """The next message, waiting for it; None when the other end is gone."""
    prefix = _receive_exactly(connection, _PREFIX.size)
    if prefix is None:
        return None
    header_size, array_size = _PREFIX.unpack(prefix)
    header, arrays = _receive_exactly(connection, header_size), _receive_exactly(connection, array_size)
    return None if header is None or arrays is None else _decode(header, arrays)


def problem_as_json(error: UserError) -> dict[str, Any]:
    """A user's mistake on its way from the engine process."""
    return {
        "code": error.code,
        "message": error.message,
        "got": _plain(error.got),
        "expected": _plain(error.expected),
        "hint": error.hint,
    }


def problem_from_json(document: dict[str, Any]) -> UserError:
    return UserError(
        document["code"],
        document["message"],
        got=document["got"],
        expected=document["expected"],
        hint=document["hint"],
    )


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


def _decode(header: bytes | bytearray, payload: bytes | bytearray) -> Message:
    document = json.loads(header)
    values, arrays = np.frombuffer(payload, dtype=np.float32), []
    for shape in document.pop("shapes"):
        size = math.prod(shape)
        arrays.append(values[:size].reshape(shape))
        values = values[size:]
    return document, arrays


def _receive_exactly(connection: socket.socket, size: int) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while len(view):
        try:
            received = connection.recv_into(view)
        except ConnectionResetError:  # the other end was killed before it had read everything
            return None
        if received == 0:
            return None
        view = view[received:]
    return buffer
