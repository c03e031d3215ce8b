"""A stored result over HTTP as a read-only Zarr store: what is not read is not transferred."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from io import UnsupportedOperation
from typing import Any, Self, final

import httpx
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype


@final
class HttpStore(Store):
    """The files below an address; those that are not there are missing chunks, which read as NaN.

    Args:
        http: asked for every file; has to stay open as long as the store is read.
        address: of the group.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, http: httpx.Client, address: str) -> None:
        super().__init__(read_only=True)
        self._http, self._address = http, address

    def with_read_only(self, read_only: bool = True) -> Self:
        if not read_only:
            raise ValueError("a result cannot be written")
        return self

    def __eq__(self, value: object) -> bool:
        return isinstance(value, HttpStore) and (value._http, value._address) == (self._http, self._address)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        headers = {} if byte_range is None else {"Range": _range(byte_range)}
        response = await asyncio.to_thread(self._http.get, f"{self._address}/{key}", headers=headers)
        if response.status_code == 404:
            return None
        response.raise_for_status()
        return prototype.buffer.from_bytes(response.content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        response = await asyncio.to_thread(self._http.get, f"{self._address}/{key}", headers={"Range": "bytes=0-0"})
        return response.is_success

    async def set(self, key: str, value: Any) -> None:
        raise UnsupportedOperation("a result cannot be written")

    async def delete(self, key: str) -> None:
        raise UnsupportedOperation("a result cannot be written")

    async def list(self) -> AsyncIterator[str]:
        raise UnsupportedOperation("addresses cannot be listed")
        yield ""

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise UnsupportedOperation("addresses cannot be listed")
        yield ""

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise UnsupportedOperation("addresses cannot be listed")
        yield ""


def _range(byte_range: ByteRequest) -> str:
    if isinstance(byte_range, RangeByteRequest):
        return f"bytes={byte_range.start}-{byte_range.end - 1}"
    if isinstance(byte_range, OffsetByteRequest):
        return f"bytes={byte_range.offset}-"
    return f"bytes=-{byte_range.suffix}"
