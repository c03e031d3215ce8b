"""The process that copies Zarr behind an address to its standard output, as a zip; nothing of it is decoded.

Started as ``python -m ups_server.files.fetch_process`` with a `FetchJob` as JSON on its standard input. What is wrong
with the address is the last line of its standard error, as JSON, and exit code 2.
"""

import asyncio
import itertools
import json
import math
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from ups_server.data.remote import RemoteLimits, not_there, open_store
from ups_server.errors import UserError
from ups_server.files import confinement
from ups_server.files.fetch import FetchJob
from ups_server.files.records import ExaminationLimits

MEMORY_BYTES = 2**30
AT_ONCE = 8
DOCUMENTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
DEPTH = 4
REFUSED = 2


def main() -> None:
    """Reads the job, copies, and says what went wrong."""
    confinement.die_with_parent()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no part of the zip
    job = FetchJob.model_validate_json(sys.stdin.read())
    confinement.limit_resources(ExaminationLimits(memory_bytes=MEMORY_BYTES, open_files=64, cpu_s=int(job.seconds)))
    try:
        with output:
            copy(job, output)
    except UserError as error:
        document = {"code": error.code, "message": error.message, "got": error.got, "expected": error.expected}
        print(json.dumps({**document, "hint": error.hint}, default=str), file=sys.stderr, flush=True)
        os._exit(REFUSED)  # at once: requests that are still open would have their say after these last words


def copy(job: FetchJob, output: Any) -> None:
    """Everything that belongs to the Zarr, as far as its metadata say.

    Raises:
        UserError: those of `open_store`, ``not_found``, ``unreadable``, ``unknown_layout``.
    """
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    limits = RemoteLimits(
        job.most_objects, job.object_bytes, job.most_bytes, job.seconds, private=job.private, redirects=False
    )
    store = open_store(job.address, limits)
    prototype = default_buffer_prototype()

    async def several(names: tuple[str, ...]) -> list[Any]:
        return list(await asyncio.gather(*(store.get(name, prototype) for name in names)))

    try:
        with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
            names_left = _unique(_names(store, job.address))
            while names := tuple(itertools.islice(names_left, AT_ONCE)):
                for name, content in zip(names, sync(several(names)), strict=True):
                    if content is not None:
                        archive.writestr(name, content.to_bytes())
    finally:
        store.close()


def _names(store: Any, address: str) -> Iterator[str]:
    """The names of all objects that the metadata tell of, there or not: documents first, then chunks."""
    import zarr

    try:
        root = zarr.open(store, mode="r")
    except UserError:
        raise
    except FileNotFoundError:
        raise not_there(address) from None
    except Exception as error:  # zarr has many for documents that are damaged
        raise UserError("unreadable", f"{address} is damaged or of another format") from error
    members = [] if isinstance(root, zarr.Array) else list(root.members(max_depth=DEPTH))
    if not members and not isinstance(root, zarr.Array):
        raise UserError(
            "unknown_layout", f"no arrays are found in {address}", hint="zarr.consolidate_metadata(...) names them"
        )
    every = [("", root), *((f"{name}/", found) for name, found in members)]
    for prefix, _ in every:
        yield from (f"{prefix}{document}" for document in DOCUMENTS)
    for prefix, found in every:
        if isinstance(found, zarr.Array):
            sizes = found.shards or found.chunks
            counts = (math.ceil(n / size) for n, size in zip(found.shape, sizes, strict=True))
            for place in itertools.product(*map(range, counts)):
                yield prefix + found.metadata.encode_chunk_key(place)


def _unique(names: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name not in seen:
            seen.add(name)
            yield name


if __name__ == "__main__":
    main()
