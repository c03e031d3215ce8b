"""Zarr behind an address that a request names, copied to where uploads arrive; only from where a setting allows it.

The copy is made by a process of its own, `fetch_process`, whose output, a zip, is taken as the bytes of an upload are:
counted, and examined without network afterwards.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ups_server.data.remote import address_of
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.files.examination import environment
from ups_server.files.uploads import Arrival
from ups_server.settings import Settings
from ups_server.specs import Spec, invalid_request

logger = logging.getLogger(__name__)

MOST_OBJECTS = 2**17
OBJECT_BYTES = 64 * 2**20
PIECE = 2**20
MOST_CHARACTERS = 255
"""Of the name of a file."""
ERROR_BYTES = 2**14
PASSED_ON = ("AWS_", "FSSPEC_", "SSL_CERT_")
"""Of the service's environment, to its process that fetches: whose buckets it may read."""


class FetchRequest(Spec):
    """A Zarr that lies elsewhere: the service fetches a copy of it."""

    address: str = Field(
        max_length=2048,
        pattern=r"^(https?|s3)://[^\s?#@]+$",
        description="Of the Zarr folder, `https://host/x.zarr`; only under what UPS_REMOTE_ADDRESSES allows.",
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_CHARACTERS,
        description="Its name; default: the last part of the address.",
    )
    declaration: Declaration = Declaration()

    @classmethod
    def from_json(cls, text: str | bytes) -> "FetchRequest":
        """Raises UserError ``invalid_request``, and those of `Declaration.check`."""
        try:
            request = cls.model_validate_json(text)
        except ValidationError as error:
            raise invalid_request(error) from None
        request.declaration.check()
        return request

    @property
    def file_name(self) -> str:
        last = self.address.rstrip("/").rpartition("/")[2]
        return self.name or last[-MOST_CHARACTERS:] or "remote.zarr"


class FetchJob(BaseModel):
    """What the process that fetches is asked: everything at an address, within limits, as a zip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    most_objects: int
    object_bytes: int
    most_bytes: int
    seconds: float
    private: bool


def allowed(address: str, settings: Settings) -> str:
    """The address, as it is asked for.

    Raises:
        UserError: ``address_refused`` where the settings do not allow it.
    """
    plain = address_of(address) or ""
    folders = plain.replace("%2e", ".").replace("%2E", ".").split("/")
    if ".." not in folders and any(f"{plain}/".startswith(prefix) for prefix in settings.remote_addresses):
        return plain
    raise UserError(
        "address_refused",
        "this service does not read by that address",
        got=address,
        expected=list(settings.remote_addresses) or "an upload",
        hint="`ups data convert ADDRESS x.zip` copies Zarr to a file that can be uploaded; UPS_REMOTE_ADDRESSES says "
        "what may be fetched",
    )


async def fetch(
    wanted: FetchRequest, settings: Settings, arrival: Arrival, gone: Callable[[], Awaitable[bool]]
) -> None:
    """Copies what lies at the address to `arrival`.

    Args:
        gone: has whoever asked for it gone away?

    Raises:
        UserError: ``address_refused``, ``too_slow``, ``fetch_abandoned``, ``fetch_failed``, those of `arrival`, and
            those of `ups_server.data.remote`.
    """
    job = FetchJob(
        address=allowed(wanted.address, settings),
        most_objects=MOST_OBJECTS,
        object_bytes=OBJECT_BYTES,
        most_bytes=settings.max_file_bytes,
        seconds=settings.remote_timeout_s,
        private=settings.remote_private,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ups_server.files.fetch_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(settings.data_dir.resolve()),
        limit=PIECE,
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise RuntimeError("the process has no streams")
    said = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(settings.remote_timeout_s):
            process.stdin.write(job.model_dump_json().encode())
            process.stdin.close()
            while piece := await process.stdout.read(PIECE):
                await asyncio.to_thread(arrival.write, piece)
                if await gone():
                    raise UserError("fetch_abandoned", "whoever asked for it went away")
            code = await process.wait()
        if code != 0:
            raise _failure((await said)[-ERROR_BYTES:])
    except TimeoutError:
        raise UserError(
            "too_slow", f"fetching {wanted.address} takes too long", expected=f"{settings.remote_timeout_s:g} s"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        said.cancel()


def _environment(data_dir: Path) -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    return {**environment(data_dir), **passed}


def _failure(said: bytes) -> UserError:
    """What the process says on its last line."""
    try:
        document = json.loads(said.decode(errors="replace").strip().rpartition("\n")[2])
        return UserError(**document)
    except (ValueError, TypeError):
        logger.error("fetching failed: %s", said.decode(errors="replace"))
        return UserError("fetch_failed", "fetching failed; the service's log says why")
