"""Zarr behind an address: `https://host/x.zarr` or `s3://bucket/x.zarr`, read through fsspec where it lies.

Read-only and bounded: so many objects, so many bytes of each and of all, so many seconds. Over HTTP a folder cannot be
listed: its metadata must be consolidated (`zarr.consolidate_metadata`), or the server must show what is in a folder.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlsplit

from ups_server.addresses import is_public
from ups_server.errors import UserError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

ADDRESS = re.compile(r"(https?|s3):/{1,2}(?=[^/])")
"""What an address begins with; of the two slashes a `Path` keeps one."""
MOST_CHUNK_BYTES = 2**29
"""Of a chunk, or a shard, when it is decoded: one number of it cannot be read without it."""


@dataclass(frozen=True)
class RemoteLimits:
    """Bounds of all that is read of one address.

    Attributes:
        private: may it be on this machine or in a private network?
        redirects: may a web server send elsewhere?
    """

    objects: int = 2**20
    object_bytes: int = 2**29
    bytes: int = 2**36
    seconds: float = 6 * 3600.0
    request_s: float = 60.0
    private: bool = True
    redirects: bool = True


def address_of(path: Path | str) -> str | None:
    """The address that is given in place of a file; None for files."""
    text = str(path)
    found = ADDRESS.match(text)
    return None if found is None else f"{found[1]}://{text[found.end() :].rstrip('/')}"


def open_store(address: str, limits: RemoteLimits | None = None) -> "Store":
    """What lies at an address, for zarr; closing it ends the connections.

    Raises:
        UserError: ``invalid_address``, ``extra_missing``; while it is read ``unreachable``, ``too_many_objects``,
            ``too_many_bytes``, ``too_slow``, ``private_target``.
    """
    limits = limits or RemoteLimits()
    parts = urlsplit(address)
    if parts.query or parts.fragment or "@" in parts.netloc or not parts.netloc:
        raise UserError(
            "invalid_address",
            "this is no address of a Zarr folder",
            got=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            expected="https://host/x.zarr or s3://bucket/x.zarr",
            hint="names are appended to it: it has no query and no password",
        )
    try:
        return _opened(address, parts.scheme, limits)
    except ImportError as error:
        extra = "s3" if parts.scheme == "s3" else "remote"
        hint = f"pip install 'ups-server[{extra}]'"
        raise UserError("extra_missing", "reading by an address needs a package", got=str(error), hint=hint) from error


def is_consolidated(store: "Store") -> bool:
    """Does its metadata list what is in it?"""
    import zarr

    root = zarr.open(store, mode="r")
    return isinstance(root, zarr.Group) and root.metadata.consolidated_metadata is not None


def not_there(address: str) -> UserError:
    return UserError(
        "not_found",
        f"there is no Zarr at {address}",
        hint="only Zarr is read by its address: other files are downloaded first",
    )


def _opened(address: str, scheme: str, limits: RemoteLimits) -> "Store":
    import fsspec
    from zarr.storage import FsspecStore

    sessions: list[Any] = []
    options: dict[str, Any] = {"asynchronous": True, "skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": limits.request_s}
    else:
        options |= {"get_client": _client_of(sessions, limits), "allow_redirects": limits.redirects}
    system, root = fsspec.url_to_fs(address, **options)

    @final
    class BoundedStore(FsspecStore):
        """As fsspec's, within the limits, with failures in words."""

        def __init__(self) -> None:
            super().__init__(system, read_only=True, path=root)
            self._running = set[asyncio.Task[Any]]()
            self._left = limits.objects
            self._bytes_left = limits.bytes
            self._deadline = time.monotonic() + limits.seconds

        async def get(
            self, key: str, prototype: "BufferPrototype", byte_range: "ByteRequest | None" = None
        ) -> "Buffer | None":
            from zarr.abc.store import RangeByteRequest

            self._count()
            if byte_range is None and scheme == "s3":  # an object that is larger shows by its length
                byte_range = RangeByteRequest(0, limits.object_bytes + 1)
            own = asyncio.current_task()
            known = {own} - self._running if own is not None else set()
            self._running |= known
            try:
                found = await super().get(key, prototype, byte_range)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # each library has its own for servers that do not answer as they should
                raise _unreachable(f"{address}/{key}", error) from error
            finally:
                self._running -= known
            if found is not None:
                _check_object(len(found), limits)
                self._bytes_left -= len(found)
                if self._bytes_left < 0:
                    raise _too_much("bytes", limits.bytes)
            return found

        async def get_partial_values(
            self, prototype: "BufferPrototype", key_ranges: "Iterable[tuple[str, ByteRequest | None]]"
        ) -> "list[Buffer | None]":
            return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

        async def exists(self, key: str) -> bool:
            self._count()
            try:
                return await super().exists(key)
            except (UserError, MemoryError):
                raise
            except Exception as error:
                raise _unreachable(f"{address}/{key}", error) from error

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            try:
                async for name in super().list_dir(prefix):
                    self._count()
                    yield name
            except (UserError, MemoryError):
                raise
            except Exception as error:
                raise _unreachable(f"{address}/{prefix}", error) from error

        def close(self) -> None:
            from zarr.core.sync import sync

            if self._running:
                sync(self._stopped())
            super().close()
            while sessions:
                sync(sessions.pop().close())
            if scheme == "s3" and system._s3creator is not None:
                sync(system._s3creator.__aexit__(None, None, None))
                system._s3creator = None

        async def _stopped(self) -> None:
            """Ends the requests that others of the same time left behind when they failed."""
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        def _count(self) -> None:
            self._left -= 1
            if self._left < 0:
                raise _too_much("objects", limits.objects)
            if time.monotonic() > self._deadline:
                raise UserError("too_slow", f"reading {address} takes too long", expected=f"{limits.seconds:g} s")

    return BoundedStore()


def _client_of(sessions: list[Any], limits: RemoteLimits) -> Callable[..., Any]:
    """Makes the HTTP client: no proxy, no cookies, no object without end, no connection to what may not be reached.

    What a name leads to is looked at when the connection is made, so that neither a redirect nor a name that changes
    its address leads elsewhere.
    """
    import socket

    import aiohttp

    def connected(info: Any) -> socket.socket:
        family, kind, protocol, _, target = info
        if not limits.private and not is_public(ip_address(str(target[0]).partition("%")[0])):
            raise UserError(
                "private_target", "the address is on this machine or in a private network", got=str(target[0])
            )
        return socket.socket(family, kind, protocol)

    class Response(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is not None:
                return self._body
            if 300 <= self.status < 400:
                raise UserError("unreachable", f"{self.url} has moved, and is not followed", got=self.status)
            pieces, size = [], 0
            async for piece in self.content.iter_chunked(2**20):
                pieces.append(piece)
                size += len(piece)
                _check_object(size, limits)
            self._body = b"".join(pieces)
            return self._body

    async def client(loop: Any = None, **options: Any) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=connected, limit=16),
            timeout=aiohttp.ClientTimeout(total=limits.request_s, connect=10),
            response_class=Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            **options,
        )
        sessions.append(session)
        return session

    return client


def _check_object(size: int, limits: RemoteLimits) -> None:
    if size > limits.object_bytes:
        raise _too_much("bytes in one object", limits.object_bytes)


def _too_much(what: str, most: int) -> UserError:
    code = "too_many_objects" if what == "objects" else "too_many_bytes"
    return UserError(
        code,
        f"so many {what} are not read by an address",
        expected=f"at most {most}",
        hint="ask for fewer --trajectories, or download it",
    )


def _unreachable(place: str, error: Exception) -> UserError:
    return UserError(
        "unreachable",
        f"{place} cannot be read",
        got=f"{type(error).__name__}: {error}"[:300],
        hint="public buckets: FSSPEC_S3_ANON=true; others: AWS_PROFILE or AWS_ACCESS_KEY_ID"
        if place.startswith("s3:")
        else None,
    )
