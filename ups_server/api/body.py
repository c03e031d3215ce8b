"""Bodies from the wire: rollout requests, and files.

A rollout request is JSON, or an array with the JSON beside it in safetensors or npz. Of an upload the headers say where
its bytes belong; they go to disk piece by piece.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from ups_server.api.conventions import content_coding
from ups_server.api.memory import COPIES
from ups_server.api.service import Service
from ups_server.errors import UserError
from ups_server.files.records import UploadRequest
from ups_server.files.uploads import Arrival, ContentWriter
from ups_server.rollout.resolve import Discretized, check_memory
from ups_server.specs import RolloutRequest
from ups_server.tensors import (
    NPZ,
    SAFETENSORS,
    Arrays,
    count_numbers,
    find_lists,
    from_npz,
    from_safetensors,
    read_lists,
)

JSON = "application/json"
SAFETENSORS_TYPES = (SAFETENSORS, "application/x-safetensors")
MEDIA_TYPES = (JSON, *SAFETENSORS_TYPES, NPZ)
STALL_S = 30.0
"""Longest pause of a client that is sending a body: what it keeps of the memory others wait for."""
MAX_TEXT = 2**20
"""Bytes of the JSON beside an array."""
VALUES = re.compile(rb'"values"[ \t\r\n]*:[ \t\r\n]*\[(?=[ \t\r\n]*[\[0-9IN-])')
"""Where the numbers of an initial condition begin. Within a text the quotes would be escaped."""
REQUEST_ENTRY = "request"
"""Metadata key (safetensors) or entry (npz) that holds the JSON request of a binary body."""


BodyReader = Callable[[bytes], tuple[RolloutRequest, Arrays | None]]
"""Makes of a body the request that is in it, and its arrays."""


@asynccontextmanager
async def received(
    request: Request,
    service: Service,
    outline: Callable[[RolloutRequest, Arrays | None], Discretized],
    read: BodyReader | None = None,
) -> AsyncIterator[Discretized]:
    """The rollout that a body asks for. While the block lasts, there is memory for making a plan of it.

    Args:
        outline: the first half of the plan, which says what the other half takes.
        read: what is in the body; default: by its media type.

    Raises:
        UserError: whatever is wrong with the body; ``queue_full``.
    """
    settings = service.settings
    limit, most = settings.max_body_bytes, settings.max_points // 2
    if read is None:
        read = partial(decode, kind=media_type(request), limit=limit, most_values=most)
    announced = announced_size(request, limit)
    async with service.memory.hold(COPIES * (limit if announced is None else announced)) as held:
        body = [await read_body(request, limit)]
        # The list gives the only reference away: the bytes are free as soon as the arrays are there.
        wanted, arrays = await asyncio.to_thread(lambda: read(body.pop()))
        found = await asyncio.to_thread(outline, wanted, arrays)
        check_memory(found, settings)
        if arrays is None:
            await held.change(found.bytes)
        else:
            held.raise_to(found.bytes)
        yield found


def announced_size(request: Request, limit: int) -> int | None:
    """Bytes of the body, where the client said so.

    Raises:
        UserError: ``body_too_large``.
    """
    announced = request.headers.get("content-length", "")
    if not announced.isdecimal():
        return None
    if int(announced) > limit:
        raise _too_large(int(announced), limit)
    return int(announced)


async def read_json(request: Request, limit: int) -> bytes:
    """A body of JSON, which is short.

    Raises:
        UserError: ``invalid_json``, ``body_too_large``, ``body_stalled``.
    """
    body = await read_body(request, min(limit, MAX_TEXT))
    await asyncio.to_thread(check_names, body)
    return body


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, never more than `limit` bytes of it.

    Raises:
        UserError: ``body_too_large``, ``body_stalled``.
    """
    announced_size(request, limit)
    body = bytearray()
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                body += await anext(chunks)
        except StopAsyncIteration:
            return bytes(body)
        except TimeoutError:
            raise UserError("body_stalled", f"no byte of the body came for {STALL_S:g} s", got=len(body)) from None
        if len(body) > limit:
            raise _too_large(f"more than {limit}", limit)


def media_type(request: Request) -> str:
    """What the body is; JSON where nothing is said.

    Raises:
        UserError: ``unsupported_media_type``.
    """
    header = request.headers.get("content-type", JSON)
    essence = header.partition(";")[0].strip().lower()
    if essence not in MEDIA_TYPES:
        raise UserError(
            "unsupported_media_type", "the body has a media type that is not read", got=header, expected=MEDIA_TYPES
        )
    return essence


def decode(body: bytes, kind: str, limit: int, most_values: int) -> tuple[RolloutRequest, Arrays | None]:
    """The request, and the arrays of the body: `values` in JSON become the array `initial_condition`.

    Args:
        limit: bytes that a compressed body may unpack to.
        most_values: numbers of an initial condition.

    Raises:
        UserError: whatever is wrong with the bytes.
    """
    if kind == JSON:
        return _from_json(body, most_values)
    arrays, texts = from_npz(body, limit, MAX_TEXT) if kind == NPZ else from_safetensors(body, MAX_TEXT)
    if REQUEST_ENTRY not in texts:
        raise UserError(
            "invalid_body",
            f"the body has no {REQUEST_ENTRY!r}",
            got=sorted(texts),
            expected=f"the JSON request as text: metadata key {REQUEST_ENTRY!r} of safetensors, entry of npz",
        )
    check_names(texts[REQUEST_ENTRY])
    return RolloutRequest.from_json(texts[REQUEST_ENTRY]), arrays


def _from_json(body: bytes, most_values: int) -> tuple[RolloutRequest, Arrays | None]:
    """A JSON request, its `values` read apart from the rest, which is short."""
    found = VALUES.search(body)
    lists = None if found is None else find_lists(body, found.end() - 1)
    if lists is None:
        return RolloutRequest.from_json(_short(body)), None
    start, end = lists
    request = RolloutRequest.from_json(_short(body[:start] + b"[]" + body[end:]))
    initial = request.initial_condition
    if initial is None or initial.values != []:  # those of another place, or the first of two
        return RolloutRequest.from_json(_short(body)), None
    count = count_numbers(body, start, end)
    if count > most_values:
        raise UserError(
            "too_many_points",
            "the initial condition holds more values than an answer of this service may",
            got=count,
            expected=f"at most {most_values}",
        )
    values = read_lists(body, start, end)
    return request.model_copy(update={"initial_condition": None}), {"initial_condition": values}


def check_names(text: str | bytes) -> None:
    """Refuses JSON in which an object has a name twice: nobody knows which of both is meant.

    Raises:
        UserError: ``invalid_json``.
    """

    def check(entries: list[tuple[str, Any]]) -> None:
        seen = set[str]()
        for name, _ in entries:
            if name in seen:
                raise UserError(
                    "invalid_json", "an object of the JSON has a name twice", got=name[:128], expected="each name once"
                )
            seen.add(name)

    # What is no JSON at all is refused, and explained, where it is read.
    with suppress(ValueError, RecursionError):
        json.loads(text, object_pairs_hook=check)


def _short(text: bytes) -> bytes:
    """JSON that may be read although that takes a multiple of its size.

    Raises:
        UserError: ``body_too_large``, ``invalid_json``.
    """
    if len(text) > MAX_TEXT:
        raise UserError(
            "body_too_large",
            "the JSON beside `initial_condition.values` is too long, or those hold something else than numbers",
            got=len(text),
            expected=f"at most {MAX_TEXT} bytes",
            hint="send large states as safetensors or npz",
        )
    check_names(text)
    return text


def _too_large(got: int | str, limit: int) -> UserError:
    return UserError("body_too_large", "the request body is too large", got=got, expected=f"at most {limit} bytes")


HDF5_TYPES = ("application/x-hdf5", "application/x-hdf", "application/vnd.hdfgroup.hdf5", "application/octet-stream")
PIECE = 2**20
"""Bytes gathered before they are written."""
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


def described_upload(request: Request, name: str, declaration: str | None) -> UploadRequest:
    """The upload whose body is the file itself: size and checksum are in its headers.

    Without a size it is of one byte: everything else of it can be checked before the bytes come.

    Raises:
        UserError: ``invalid_digest``, and those of `UploadRequest.from_json`.
    """
    check_plain(request)
    size = int(request.headers.get("content-length", 1))
    document: dict[str, Any] = {"name": name, "size": size, "sha256": digest_of(request)}
    if declaration is not None:
        check_names(declaration)
        try:
            document["declaration"] = json.loads(declaration)
        except ValueError as error:
            raise UserError("invalid_json", "the declaration is not valid JSON", got=str(error)) from None
    return UploadRequest.from_json(json.dumps(document))


def check_plain(request: Request) -> None:
    """Raises UserError ``unsupported_encoding``: of a file the bytes themselves are counted, resumed and verified."""
    coding = content_coding(request.headers)
    if coding is not None:
        raise UserError(
            "unsupported_encoding",
            "the bytes of a file are taken as they are",
            got=coding,
            expected=["identity"],
            hint="send the file without Content-Encoding",
        )


def digest_of(request: Request) -> str | None:
    """The sha256 of a `Repr-Digest` header (RFC 9530), in hexadecimal.

    Raises:
        UserError: ``invalid_digest``.
    """
    header = request.headers.get("repr-digest")
    if header is None:
        return None
    found = DIGEST.search(header)
    try:
        digest = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise UserError(
            "invalid_digest",
            "Repr-Digest holds no sha-256",
            got=header[:128],
            expected="sha-256=:<base64 of 32 bytes>:",
        )
    return digest.hex()


def range_start(request: Request, size: int) -> int:
    """Where the first byte of the body belongs; 0 without a `Content-Range`.

    Raises:
        UserError: ``invalid_range``: not of this form, of another size, or of another length than the body.
    """
    check_plain(request)
    header = request.headers.get("content-range")
    length = request.headers.get("content-length", "")
    if header is None:
        return 0
    found = RANGE.fullmatch(header.strip())
    start, last, total = (int(number) for number in found.groups()) if found else (0, -1, -1)
    wrong_length = length.isdecimal() and int(length) != last - start + 1
    if total != size or not start <= last < total or wrong_length:
        raise UserError(
            "invalid_range",
            "the Content-Range does not fit the file or the body",
            got=header[:128],
            expected=f"bytes FIRST-LAST/{size}, LAST included, as many as the body has",
        )
    return start


async def receive(request: Request, writer: ContentWriter | Arrival) -> None:
    """The body to disk, never more than a piece of it in memory. What had arrived stays when the client goes away.

    Raises:
        ClientDisconnect: the client went away.
        UserError: those of the writer's `write`.
    """
    gathered = bytearray()
    try:
        async for chunk in _chunks(request):
            gathered += chunk
            if len(gathered) >= PIECE:
                data, gathered = bytes(gathered), bytearray()
                await asyncio.to_thread(writer.write, data)
    except ClientDisconnect:
        await asyncio.to_thread(writer.write, bytes(gathered))
        raise
    await asyncio.to_thread(writer.write, bytes(gathered))


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        yield chunk
