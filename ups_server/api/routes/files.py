"""Users' files: uploads that can be resumed, what is found in them, and their end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from ups_server.access.keys import ApiKey
from ups_server.api.access import Admitted, reserved, scoped_key
from ups_server.api.body import (
    HDF5_TYPES,
    JSON,
    described_upload,
    range_start,
    read_body,
    read_json,
    receive,
)
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service, place_of
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.files.fetch import FetchRequest, fetch
from ups_server.files.records import STATES, FileRecord, UploadRequest, empty_file
from ups_server.files.uploads import Arrival

router = APIRouter(prefix="/v1/files", tags=["files"])

MAX_REQUEST_BYTES = 2**18
CLIENT_CLOSED = 499

BINARY = {"schema": {"type": "string", "format": "binary"}}
HDF5_BODIES = {name: BINARY for name in HDF5_TYPES}
UPLOAD_BODY = {
    "required": True,
    "description": "JSON: makes a place for the file, whose bytes come by PUT, or for several, `parts`, whose bytes "
    "come one after the other; or says the `address` of a Zarr that is to be fetched, where the service allows it. "
    "HDF5: the file itself, named and declared by the query, its length announced or not; `Repr-Digest: "
    "sha-256=:...:` (RFC 9530) has it verified.",
    "content": {
        JSON: {
            "schema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/UploadRequest"},
                    {"$ref": "#/components/schemas/FetchRequest"},
                ]
            },
            "example": {"name": "burgers.hdf5", "size": 1048576, "declaration": {"family": "burgers"}},
        },
        **HDF5_BODIES,
    },
}
PART_BODY = {
    "required": True,
    "description": "Bytes of the file. `Content-Range: bytes FIRST-LAST/SIZE` says which; without it, all from the "
    "first on. Bytes that had already arrived are skipped.",
    "content": HDF5_BODIES,
}
YAML = "application/yaml"
MAX_MAPPING_BYTES = 2**15
DECLARATION_BODY = {
    "required": True,
    "description": "JSON: the declaration. YAML: its mapping, such as a refused file proposes.",
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/Declaration"}, "example": {"family": "burgers"}},
        YAML: {"schema": {"type": "string"}},
    },
}
OFFSET_HEADERS = {
    "Upload-Offset": {"description": "Bytes that have arrived.", "schema": {"type": "integer"}},
    "Upload-Length": {"description": "Bytes of the whole file.", "schema": {"type": "integer"}},
}
CREATED: dict[int | str, dict[str, Any]] = {
    200: {"model": FileRecord, "description": "The idempotency key was used before: that file."},
    201: {
        "model": FileRecord,
        "description": "The file; its bytes are missing where the body was JSON.",
        "headers": {"Location": {"description": "The file.", "schema": {"type": "string"}}},
    },
    **documented(400, 404, 409, 413, 415, 422, 507),
}
UploadKey = Annotated[
    str | None,
    Header(min_length=1, max_length=256, description="A request repeated with the same key makes no second file."),
]


class FileList(BaseModel):
    """All files, the newest first, without their reports."""

    files: list[FileRecord]
    bytes_used: int = Field(description="By all files of the service.")
    bytes_allowed: int
    next: str | None = Field(default=None, description="`before` of the following page; null: this is the last one.")


@router.post(
    "", status_code=201, responses=CREATED, response_model=FileRecord, openapi_extra={"requestBody": UPLOAD_BODY}
)
async def create_file(
    request: Request,
    response: Response,
    service: CurrentService,
    name: Annotated[
        str | None, Query(max_length=255, description="The file's name, where the body is the file.")
    ] = None,
    declaration: Annotated[
        str | None, Query(max_length=8192, description="The declaration as JSON, where the body is the file.")
    ] = None,
    idempotency_key: UploadKey = None,
    caller: Admitted = None,
) -> FileRecord | Response:
    """Takes a file, or makes a place for one that comes in parts; it is then examined."""
    essence = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    address: FetchRequest | None = None
    if essence == JSON:
        body = await read_json(request, MAX_REQUEST_BYTES)
        wanted, address = await asyncio.to_thread(_wanted, body)
    elif essence in HDF5_TYPES:
        wanted = described_upload(request, name or "file.h5", declaration)
    else:
        raise UserError(
            "unsupported_media_type",
            "the body has a media type that is not read",
            got=essence,
            expected=(JSON, *HDF5_TYPES),
        )
    place = partial(_place, key=scoped_key(idempotency_key), payer=caller.key if caller else None, service=service)
    try:
        if address is not None:
            copied = partial(fetch, address, service.settings, gone=request.is_disconnected)
            async with service.fetches:
                record, new = await _take_unsized(copied, service, wanted, place)
        elif essence != JSON and "content-length" not in request.headers:
            record, new = await _take_unsized(partial(receive, request), service, wanted, place)
        else:
            record, new = await asyncio.to_thread(place, wanted)
            if essence != JSON and record.state == "uploading":
                record = await _take(request, service, record, 0)
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED)
    response.status_code = 201 if new else 200
    response.headers["Location"] = place_of(request, record.id)
    return record


@router.get("", responses=documented(404))
def list_files(
    service: CurrentService,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    before: Annotated[str | None, Query(description="Only files made before this one.")] = None,
    state: Annotated[STATES | None, Query(description="Only files in this state.")] = None,
    family: Annotated[str | None, Query(max_length=128, description="Only files of this equation.")] = None,
) -> FileList:
    """The latest files first; all of them without a `limit`."""
    records = service.files.records()
    if before is not None:
        service.files.record(before)
        records = records[1 + [record.id for record in records].index(before) :]
    wanted = [record for record in records if state in (None, record.state) and family in (None, record.family)]
    page = [record.model_copy(update={"report": None}) for record in wanted[:limit]]
    allowed = service.settings.files_quota_bytes
    return FileList(
        files=page,
        bytes_used=allowed - service.files.room(),
        bytes_allowed=allowed,
        next=page[-1].id if len(page) < len(wanted) else None,
    )


@router.get("/{file_id}", responses=documented(404))
def get_file(file_id: str, service: CurrentService) -> FileRecord:
    """One file: its state; once it is examined, the report or the problem."""
    return service.files.record(file_id)


@router.head(
    "/{file_id}/content",
    status_code=204,
    responses={204: {"description": "How much has arrived.", "headers": OFFSET_HEADERS}, **documented(404)},
)
def get_offset(file_id: str, service: CurrentService) -> Response:
    """Where an interrupted upload goes on."""
    record = service.files.record(file_id)
    headers = {"Upload-Offset": str(record.offset), "Upload-Length": str(record.size), "Cache-Control": "no-store"}
    return Response(status_code=204, headers=headers)


@router.put(
    "/{file_id}/content",
    responses=documented(404, 409, 413, 422, 507),
    response_model=FileRecord,
    openapi_extra={"requestBody": PART_BODY},
)
async def put_content(
    file_id: str,
    request: Request,
    service: CurrentService,
    content_range: Annotated[
        str | None, Header(description="bytes FIRST-LAST/SIZE", examples=["bytes 0-1048575/4194304"])
    ] = None,
) -> FileRecord | Response:
    """Takes bytes of a file; after the last one it is examined. A later request takes over from one that hangs."""
    record = await asyncio.to_thread(service.files.expect, file_id, "uploading")
    try:
        return await _take(request, service, record, range_start(request, record.size))
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED)


@router.put(
    "/{file_id}/declaration",
    responses=documented(400, 404, 409, 422),
    openapi_extra={"requestBody": DECLARATION_BODY},
)
async def put_declaration(file_id: str, request: Request, service: CurrentService) -> FileRecord:
    """Says something else about a refused file, which is examined again."""
    if request.headers.get("content-type", JSON).partition(";")[0].strip().lower() == YAML:
        text = await read_body(request, MAX_MAPPING_BYTES)
        declaration = await asyncio.to_thread(Declaration.from_mapping, text)
    else:
        body = await read_json(request, MAX_REQUEST_BYTES)
        declaration = await asyncio.to_thread(Declaration.from_json, body)
    record = await asyncio.to_thread(service.files.redeclare, file_id, declaration)
    service.examiner.submit(file_id)
    return record


@router.get(
    "/{file_id}/preview",
    response_class=FileResponse,
    responses={
        200: {"description": "A picture of the first trajectory.", "content": {"image/png": BINARY}},
        **documented(404, 409),
    },
)
def get_preview(file_id: str, service: CurrentService) -> FileResponse:
    """A picture of an accepted file."""
    return FileResponse(service.files.preview(file_id), media_type="image/png")


@router.delete("/{file_id}", status_code=204, responses=documented(404, 409))
def delete_file(file_id: str, service: CurrentService) -> None:
    """Removes a file, at whatever state, unless an open job reads it."""
    service.files.record(file_id)
    user = service.jobs.store.uses_file(file_id)
    if user is not None:
        raise UserError("file_in_use", f"{file_id} is in use", got=user, hint="cancel the job, or wait for it")
    service.examiner.cancel(file_id)
    service.files.delete(file_id)


def _place(
    wanted: UploadRequest, arrival: Arrival | None = None, *, key: str | None, payer: ApiKey | None, service: Service
) -> tuple[FileRecord, bool]:
    """A place for a file, which counts for the API key `payer`, and whether it is new; `arrival`: its bytes."""
    file_id = service.files.id_of(key)
    if service.files.folder(file_id).is_dir():  # a repetition takes no room
        return service.files.create(wanted, file_id)
    with reserved(file_id, wanted.size, payer, service):
        return service.files.create(wanted, file_id, arrival)


def _wanted(body: bytes) -> tuple[UploadRequest, FetchRequest | None]:
    """What is to come, and where from if not from whoever asks; without a size it is of one byte at first.

    Raises:
        UserError: those of `UploadRequest.from_json` and `FetchRequest.from_json`.
    """
    document: Any = None
    with suppress(ValueError, RecursionError):  # explained where it is read
        document = json.loads(body)
    if not isinstance(document, dict) or "address" not in document:
        return UploadRequest.from_json(body), None
    found = FetchRequest.from_json(body)
    return UploadRequest(name=found.file_name, size=1, declaration=found.declaration), found


async def _take_unsized(
    bring: Callable[[Arrival], Awaitable[None]],
    service: Service,
    wanted: UploadRequest,
    place: Callable[..., tuple[FileRecord, bool]],
) -> tuple[FileRecord, bool]:
    """Bytes, whose number nobody said, to disk; then they have a size and get their place."""
    with service.files.arrival() as arrival:
        await bring(arrival)
        if arrival.size == 0:
            raise empty_file(wanted.name)
        record, new = await asyncio.to_thread(place, wanted.model_copy(update={"size": arrival.size}), arrival)
    if new:
        service.examiner.submit(record.id)
        record = await asyncio.to_thread(service.files.record, record.id)
    return record, new


async def _take(request: Request, service: Service, record: FileRecord, start: int) -> FileRecord:
    """The body to disk; a file that is whole is examined."""
    with await asyncio.to_thread(service.files.writer, record.id, start) as writer:
        await receive(request, writer)
    if writer.complete:
        service.examiner.submit(record.id)
    return await asyncio.to_thread(service.files.record, record.id)
