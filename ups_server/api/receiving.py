"""Upload requests from the wire: where their bytes belong, and the way of the bytes to disk."""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from ups_server.errors import UserError
from ups_server.files.records import UploadRequest
from ups_server.files.writing import ContentWriter

HDF5_TYPES = ("application/x-hdf5", "application/x-hdf", "application/vnd.hdfgroup.hdf5", "application/octet-stream")
PIECE = 2**20
"""Bytes gathered before they are written."""
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


def described_upload(request: Request, name: str, declaration: str | None) -> UploadRequest:
    """The upload whose body is the file itself: size and checksum are in its headers.

    Raises:
        UserError: ``length_required``, ``invalid_digest``, and those of `UploadRequest.from_json`.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise UserError(
            "length_required",
            "the size of the file must be known before it comes",
            expected="a Content-Length header",
            hint="or create the upload with its size as JSON, and PUT its parts",
        )
    document: dict[str, Any] = {"name": name, "size": int(length), "sha256": digest_of(request)}
    if declaration is not None:
        try:
            document["declaration"] = json.loads(declaration)
        except ValueError as error:
            raise UserError("invalid_json", "the declaration is not valid JSON", got=str(error)) from None
    return UploadRequest.from_json(json.dumps(document))


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


async def receive(request: Request, writer: ContentWriter) -> None:
    """The body to disk, never more than a piece of it in memory. What had arrived stays when the client goes away.

    Raises:
        ClientDisconnect: the client went away.
        UserError: those of `ContentWriter.write`.
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
