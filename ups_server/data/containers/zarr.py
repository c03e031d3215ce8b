"""Zarr of version 2 or 3: a folder, a zip of one, or a folder at an address; read where it lies."""

import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import MOST_ARRAYS, Container, Index, StoredArray, plain
from ups_server.data.formats.base import ZARR_ROOT
from ups_server.data.remote import MOST_CHUNK_BYTES, not_there, open_store
from ups_server.errors import UserError

ALONE = "array"
"""What the array of a hierarchy without groups is called."""
DEPTH = 4
HEARTBEAT_S = 0.002


def start_loop() -> None:
    """Starts the thread in which zarr reads, and has it look for work by the clock.

    A confined process cannot wake it up as usual, by a socket.
    """
    import asyncio

    from zarr.core.sync import _get_loop

    async def look() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)

    asyncio.run_coroutine_threadsafe(look(), _get_loop())


def root_of(names: Iterable[str]) -> str | None:
    """The folder of a zip that holds a hierarchy, `` where it is the zip itself; None where there is none."""
    folders = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in ZARR_ROOT}
    tops = {folder for folder in folders if not any(_lies_in(folder, other) for other in folders)}
    return tops.pop() if len(tops) == 1 else None


def _lies_in(folder: str, other: str) -> bool:
    return folder != other and (not other or folder.startswith(f"{other}/"))


def open_zarr(path: Path) -> Container:
    """Raises UserError ``wrong_shape`` (too many arrays), and what zarr raises for damaged ones."""
    from zarr.storage import LocalStore, ZipStore

    inside = ""
    if not path.is_dir():
        with zipfile.ZipFile(path) as archive:
            inside = root_of(archive.namelist()) or ""
    return _container(path, LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r"), inside)


def open_remote(path: Path, address: str) -> Container:
    """The Zarr at an address.

    Raises:
        UserError: ``not_found``, ``unknown_layout`` (nothing can be found in it), ``chunk_too_large``, and those of
            `remote.open_store` and `open_zarr`.
    """
    store = open_store(address)
    try:
        found = _container(path, store)
        if not found.arrays:
            raise UserError(
                "unknown_layout",
                f"no arrays are found in {address}",
                hint="where its server lists no folders, zarr.consolidate_metadata(...) has its metadata list them",
            )
        for array in found.arrays.values():
            if (size := math.prod(array.chunks or ()) * array.dtype.itemsize) > MOST_CHUNK_BYTES:
                raise UserError(
                    "chunk_too_large", f"{array.name} is stored in chunks that are too large to be read by an address",
                    got=f"{size} bytes", expected=f"at most {MOST_CHUNK_BYTES} bytes",
                )  # fmt: skip
    except BaseException as error:
        store.close()
        if isinstance(error, FileNotFoundError):
            raise not_there(address) from None
        raise
    return found


def _container(path: Path, store: Any, inside: str = "") -> Container:
    import zarr

    root = zarr.open(store, mode="r", path=inside)
    if isinstance(root, zarr.Array):
        members: list[tuple[str, Any]] = [(ALONE, root)]
    else:
        members = list(root.members(max_depth=DEPTH))
    arrays = {name: _array(name, found) for name, found in members if isinstance(found, zarr.Array)}
    if len(arrays) > MOST_ARRAYS:
        raise UserError("wrong_shape", f"{path.name} holds too many arrays", got=len(arrays))
    version = root.metadata.zarr_format
    return Container(f"Zarr (version {version})", arrays, plain(dict(root.attrs)), store.close)


def _array(name: str, found: Any) -> StoredArray:
    attributes = dict(found.attrs)
    names = attributes.pop("_ARRAY_DIMENSIONS", None) or getattr(found.metadata, "dimension_names", None)
    axes = tuple(map(str, names)) if names and len(names) == found.ndim and None not in names else ()
    chunks = tuple(found.shards or found.chunks)
    return StoredArray(name, tuple(found.shape), np.dtype(found.dtype), _part(found), axes, chunks, plain(attributes))


def _part(found: Any) -> Callable[[Index], NDArray[Any]]:
    return lambda index: np.asarray(found[index])
