"""The values of stored files, or a part of them, in the formats that scientists use: written to disk, then sent."""

import asyncio
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from ups_server.api.answers import JSON, VARY, choose_file
from ups_server.api.memory import COPIES
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service
from ups_server.data.export import header_of, media_types, write_file
from ups_server.data.formats import exporters
from ups_server.data.selection import Selection
from ups_server.data.source import BLOCK_BYTES
from ups_server.errors import UserError
from ups_server.files.equations import stored_equation
from ups_server.files.storage import unknown

router = APIRouter(prefix="/v1/files", tags=["files"])

FORMATS = {name: media_type for media_type, name in media_types().items()}
"""Format -> media type, of all that are one file."""
NETCDF = FORMATS["netcdf"]
BINARY = {"schema": {"type": "string", "format": "binary"}}
DATA: dict[int | str, dict[str, Any]] = {
    200: {"description": "A file.", "content": {media_type: BINARY for media_type in media_types()}},
    **documented(404, 406, 409, 413, 422, 429, 507),
}
TWICE = 2
"""A Zarr folder lies beside the zip that is made of it."""


class MadeFile(FileResponse):
    """A file that was made for this answer, and is removed once it is sent: there are no parts of it to ask for."""

    def __init__(self, path: Path, held: ExitStack, media_type: str, filename: str) -> None:
        super().__init__(path, media_type=media_type, filename=filename)
        del self.headers["accept-ranges"]
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = {**scope, "headers": [entry for entry in scope["headers"] if entry[0] != b"range"]}
        with self._held:
            await super().__call__(whole, receive, send)


@router.get("/{file_id}/data", responses=DATA, response_class=FileResponse, response_model=None)
async def get_data(
    file_id: str,
    request: Request,
    service: CurrentService,
    format: Annotated[str | None, Query(max_length=32, description="Instead of Accept: " + ", ".join(FORMATS))] = None,
    trajectories: Annotated[
        str | None,
        Query(max_length=4096, description="`FIRST:END`, a range without its end, or `N,N`; default: all usable ones."),
    ] = None,
    times: Annotated[
        str | None, Query(max_length=64, description="`FROM:TO`: frames within, both ends included; default: all.")
    ] = None,
    steps: Annotated[
        str | None, Query(max_length=4096, description="`FIRST:END` or `N,N`: frames by number, instead of `times`.")
    ] = None,
    resolution: Annotated[
        str | None,
        Query(
            pattern=r"^[0-9]{1,7}(x[0-9]{1,7}){0,2}$",
            description="`N` or `NxN`: points along the first axis, or along each, by leaving points out.",
        ),
    ] = None,
) -> MadeFile:
    """Trajectories of an accepted file, all or some, as the file that `format` or the Accept header asks for.

    Default: NetCDF with CF conventions. Trajectories have the numbers that they have in the file.
    """
    if format is None:
        format, media_type = choose_file(request.headers.get("accept"), NETCDF, FORMATS)
    elif format in FORMATS:
        media_type = FORMATS[format]
    else:
        raise UserError("unknown_format", f"{format!r} is not written as one file", got=format, expected=[*FORMATS])
    points = None if resolution is None else [int(number) for number in resolution.split("x")]
    wanted = Selection(trajectories, times, steps, points[0] if points and len(points) == 1 else points)
    async with service.answers.hold(COPIES * BLOCK_BYTES):
        made = await asyncio.to_thread(_made, file_id, wanted, format, media_type, service)
    made.headers.update({**VARY, "Cache-Control": "no-store"})
    return made


def _made(file_id: str, wanted: Selection, format: str, media_type: str, service: Service) -> MadeFile:
    """Writes the file, in constant memory but for JSON, which is small.

    Raises:
        UserError: ``unknown_file``, ``wrong_state``, ``too_much_data``, ``storage_full``, and those of the selection
            and the exporter.
    """
    settings = service.settings
    record = service.files.record(file_id)
    with ExitStack() as held:
        try:
            store = service.files.open_store(file_id)
            held.callback(store.close)
            part = wanted.of(store, record.name)
            declared = stored_equation(settings.data_dir, file_id)
            header = header_of(part, None if declared is None else declared.family())
            values = math.prod(header.shape)
            _check_size(4 * values, settings.max_data_bytes)
            if format == JSON:
                _check_size(values, settings.max_json_values, "values, as JSON")
            folder = held.enter_context(service.files.scratch(TWICE * 4 * values))
            suffix = (*exporters()[format].suffixes, ".h5")[0]
            path = folder / f"data{suffix}"
            write_file(path, header, part, format)
        except FileNotFoundError:  # deleted in between
            raise unknown(file_id) from None
        return MadeFile(path, held.pop_all(), media_type, f"{Path(record.name).stem}{suffix}")


def _check_size(found: int, most: int, what: str = "bytes of values") -> None:
    if found > most:
        raise UserError(
            "too_much_data",
            "so much is not sent in one answer",
            got=f"{found} {what}",
            expected=f"at most {most} {what}",
            hint="ask for fewer `trajectories`, `times` or a lower `resolution`, several times",
        )
