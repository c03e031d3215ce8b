"""Formats of trajectory files: one module each, which reads, writes or does both.

A format is found by what a file is, never by its suffix: the first of `formats()` that matches opens it. Other packages
add a `Format` by an entry point of the group `ups_server.formats`, which is asked before those here, and an `Exporter`
by one of `ups_server.exporters`, which is found by its name, suffixes and media type.
"""

import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ups_server.data.composed import Concat, natural
from ups_server.data.formats.base import FIRST_BYTES, ZARR_ROOT, Exporter, Format, Given
from ups_server.data.remote import address_of
from ups_server.data.source import TrajectorySource
from ups_server.data.store import MANIFEST, PLAN, Store
from ups_server.errors import UserError
from ups_server.plugins import broken_plugin, load_plugin, plugins

if TYPE_CHECKING:
    from ups_server.data.mapping import Mapping as ArrayMapping

FORMATS, EXPORTERS = "ups_server.formats", "ups_server.exporters"
"""Groups of entry points."""

logger = logging.getLogger(__name__)


class StoreFormat(Format):
    """A folder that is a store, or is becoming one."""

    name = "store"

    def matches(self, path: Path, first: bytes) -> bool:
        return any((path / name).is_file() for name in (MANIFEST, PLAN))

    def open(self, path: Path, given: Given) -> Store:
        store = Store.open(path)
        if given.family is not None and given.family != store.family:
            raise UserError(
                "family_mismatch", f"{path.name} holds another family", got=given.family, expected=store.family
            )
        return store


@cache
def formats() -> tuple[Format, ...]:
    """All formats that are read, in the order in which they are asked; the last takes every other file."""
    from ups_server.data.formats.netcdf import NetcdfFormat
    from ups_server.data.formats.npz import NpzFormat
    from ups_server.data.formats.pdebench import PdebenchFormat
    from ups_server.data.formats.well import WellFormat
    from ups_server.data.formats.zarr import ZarrFormat

    built_in: tuple[Format, ...] = (
        ZarrFormat(), StoreFormat(), NpzFormat(), NetcdfFormat(), WellFormat(), PdebenchFormat()
    )  # fmt: skip
    return (*_added(FORMATS, Format, [found.name for found in built_in]), *built_in)


@cache
def exporters() -> dict[str, Exporter]:
    """All formats that are written, by name; the first is the default of bytes."""
    from ups_server.data.formats.netcdf import NetcdfExporter
    from ups_server.data.formats.npz import NpzExporter
    from ups_server.data.formats.pdebench.writing import PdebenchExporter
    from ups_server.data.formats.well import WellExporter
    from ups_server.data.formats.written import JsonExporter, SafetensorsExporter
    from ups_server.data.formats.zarr import ZarrExporter, ZarrZipExporter

    built_in: tuple[Exporter, ...] = (
        SafetensorsExporter(), NpzExporter(), NetcdfExporter(), PdebenchExporter(), WellExporter(), JsonExporter(),
        ZarrExporter(), ZarrZipExporter(),
    )  # fmt: skip
    added = _added(EXPORTERS, Exporter, [found.format for found in built_in])
    return {found.format: found for found in (*built_in, *added)}


def _added(group: str, kind: type, taken: Iterable[str]) -> Iterator[Any]:
    """What other packages register; the log says what is wrong with those that cannot be used."""
    for entry in plugins(group, frozenset(taken)).values():
        try:
            found = load_plugin(entry)
            if not (inspect.isclass(found) and issubclass(found, kind) and not inspect.isabstract(found)):
                raise broken_plugin(entry, repr(found), f"a complete subclass of {kind.__module__}.{kind.__name__}")
            yield found()
        except UserError as error:
            logger.warning("left out: %s", error)


def format_of(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        UserError: ``unknown_layout`` for a folder of something else.
    """
    if (found := _format_of(path)) is not None:
        return found
    raise UserError(
        "unknown_layout",
        f"{path.name} is a folder, but neither a store nor Zarr, and holds no files",
        hint=f'files deeper in it are read as one by a pattern, such as "{path.name}/part/*.h5"',
    )


def _format_of(path: Path) -> Format | None:
    if address_of(path) is not None:
        return next(candidate for candidate in formats() if candidate.name == "zarr")
    first = _first_bytes(path)
    return next((candidate for candidate in formats() if candidate.matches(path, first)), None)


def is_hdf5(path: Path) -> bool:
    """Is the file to be read as HDF5? Its structure is not looked at: only first bytes, or a plug-in, say no."""
    first = _first_bytes(path)
    return not any(candidate.matches(path, first) for candidate in formats() if not candidate.hdf5)


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        return b""
    with path.open("rb") as stream:
        return stream.read(FIRST_BYTES)


def open_source(
    path: str | os.PathLike[str],
    family: str | None = None,
    coefficients: Mapping[str, float] | None = None,
    mapping: "ArrayMapping | None" = None,
) -> TrajectorySource:
    """Open a file or store of trajectories, or Zarr behind an address (`https://...`, `s3://...`, see `data.remote`);
    several files as one by a pattern such as `ns_incom_*.h5`, or their folder.

    The layout is recognised by its structure; the family is what the user, the file's attributes and its name say,
    which must agree with one another and with the structure.

    Args:
        family: its id, needed where the file does not say.
        coefficients: needed where the file does not say.
        mapping: what the file's arrays mean, where the file does not explain itself: it is read by that alone.

    Raises:
        UserError: one clear sentence about what is missing, contradictory or broken.
    """
    file = Path(path)
    if found := matching(file):
        openers = [partial(open_source, part, family, coefficients, mapping) for part in found]
        return Concat(openers, [part.name for part in found])
    if address_of(file) is None and not file.exists():
        raise UserError("not_found", f"there is no file {file}")
    if mapping is not None:
        from ups_server.data.mapped import open_mapped

        return open_mapped(file, mapping, family, coefficients)
    return open_content(file, family, coefficients)


def open_content(
    path: Path, family: str | None = None, coefficients: Mapping[str, float] | None = None
) -> TrajectorySource:
    """Open one file or folder: its content, not its suffix, says how it is read.

    Raises:
        UserError: as `open_source`.
    """
    return format_of(path).open(path, Given(family, coefficients or {}))


def matching(pattern: Path) -> list[Path]:
    """The files whose name fits a pattern with `*`, or those in a folder that is neither a store nor Zarr, without
    hidden ones, in the order of the numbers in their names.
    """
    if pattern.is_dir():
        if _format_of(pattern) is not None or any((pattern / name).exists() for name in ZARR_ROOT):
            return []
        found = [entry for entry in pattern.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    elif "*" not in pattern.name or not pattern.parent.is_dir():
        return []
    else:
        found = list(pattern.parent.glob(pattern.name))
    return sorted(found, key=lambda path: natural(path.name))
