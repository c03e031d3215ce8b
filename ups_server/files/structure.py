"""A walk over an HDF5 file, link by link, before anything in it is believed.

Hard links only, every object once, plain numbers, built-in filters, data that lie in the file, and bounds on
everything that a few bytes can declare. Reads structure only: no value of any dataset.
"""

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import h5py
from h5py import h5d, h5g, h5o, h5s, h5t, h5z

from ups_server.data.formats.hdf5 import BUILT_IN_FILTERS, LZF
from ups_server.errors import UserError
from ups_server.files.records import ExaminationLimits

DEFLATE = h5z.FILTER_DEFLATE
COMPRESSION = {DEFLATE, LZF}
CHECKSUM_BYTES = 4
SCALES = {"DIMENSION_LIST", "REFERENCE_LIST"}
"""Attributes by which NetCDF-4 joins variables and dimensions: references between objects of the file."""
NUMBERS = {h5t.FLOAT: (2, 4, 8), h5t.INTEGER: (1, 2, 4, 8), h5t.ENUM: (1,)}
"""Classes of numbers and their sizes in bytes; what is true or false is enumerated, in a byte."""
TYPE_NAMES = {
    h5t.STRING: "text",
    h5t.COMPOUND: "compound values",
    h5t.REFERENCE: "object references",
    h5t.VLEN: "lists of any length",
    h5t.ENUM: "enumerated values",
    h5t.OPAQUE: "opaque bytes",
    h5t.ARRAY: "arrays as elements",
    h5t.BITFIELD: "bit fields",
    h5t.TIME: "times",
}


class Structure:
    """What the walk found.

    Attributes:
        compressed: paths of the datasets whose chunks are compressed by deflate or LZF.
        logical_bytes: all values, decoded.
    """

    def __init__(self, file: h5py.File, limits: ExaminationLimits) -> None:
        """Walks the whole file.

        Raises:
            UserError: one sentence about the first thing that is not allowed.
        """
        self.compressed: list[str] = []
        self.logical_bytes = 0
        self._limits = limits
        self._file_bytes = file.id.get_filesize()
        self._seen: set[tuple[int, int]] = set()
        self._objects = 0
        self._chunks = 0
        root = h5g.open(file.id, b"/")
        self._visit("/", root)
        self._walk(root, "", 1)

    def _walk(self, group: h5g.GroupID, path: str, depth: int) -> None:
        if depth > self._limits.depth:
            raise _refusal("too_deep", f"{path} lies too deep", depth, f"at most {self._limits.depth} groups deep")
        count = group.get_num_objs()
        if self._objects + count > self._limits.objects:
            raise _refusal(
                "too_many_objects",
                "the file holds too many groups and datasets",
                f"at least {self._objects + count}",
                f"at most {self._limits.objects}",
            )
        for name in list(group):
            label = f"{path}/{_text(name, path or '/')}"
            self._check_link(group, name, label)
            self._object(group, name, label, depth)

    def _check_link(self, group: h5g.GroupID, name: bytes, label: str) -> None:
        kind = group.links.get_info(name).type
        if kind != h5py.h5l.TYPE_HARD:
            what = {h5py.h5l.TYPE_EXTERNAL: "a link into another file", h5py.h5l.TYPE_SOFT: "a soft link"}
            raise _refusal(
                "link_refused", f"{label} is {what.get(kind, 'a link of an unknown kind')}", None, "hard links"
            )

    def _object(self, group: h5g.GroupID, name: bytes, label: str, depth: int) -> None:
        found = h5o.open(group, name)
        if isinstance(found, h5g.GroupID):
            self._visit(label, found)
            self._walk(found, label, depth + 1)
        elif isinstance(found, h5d.DatasetID):
            self._visit(label, found)
            self._dataset(label, found)
        else:
            raise _refusal("type_refused", f"{label} is neither a group nor a dataset", None, None)

    def _visit(self, label: str, found: Any) -> None:
        """Counts an object and looks at its attributes."""
        self._objects += 1
        info = h5o.get_info(found)
        address = (int(info.fileno), int(info.addr))
        if address in self._seen:
            raise _refusal(
                "linked_twice",
                f"{label} leads to an object that was already reached: the links form a loop",
                None,
                None,
            )
        self._seen.add(address)
        count = h5py.h5a.get_num_attrs(found)
        if count > self._limits.attributes:
            raise _refusal(
                "too_many_attributes", f"{label} has too many attributes", count, f"at most {self._limits.attributes}"
            )
        for index in range(count):
            self._attribute(label, h5py.h5a.open(found, index=index))

    def _attribute(self, label: str, attribute: Any) -> None:
        name = _text(attribute.name, label)
        kind, shape = attribute.get_type(), attribute.shape
        if kind.get_class() not in (*NUMBERS, h5t.STRING) and not (
            name in SCALES and kind.get_class() in (h5t.COMPOUND, h5t.VLEN)
        ):
            raise _refusal(
                "type_refused",
                f"the attribute {name} of {label} holds {_type_name(kind)}",
                None,
                "numbers or text",
            )
        if shape is not None and max(kind.get_size(), 1) * math.prod(shape) > self._limits.attribute_bytes:
            raise _refusal(
                "attribute_too_large",
                f"the attribute {name} of {label} is too large",
                kind.get_size() * math.prod(shape),
                f"at most {self._limits.attribute_bytes} bytes",
            )

    def _dataset(self, label: str, found: h5d.DatasetID) -> None:
        found.get_type().dtype  # noqa: B018 (a damaged number type, which no reader expects, raises here)
        plist = found.get_create_plist()
        layout = plist.get_layout()
        if layout == h5d.VIRTUAL:
            raise _refusal("virtual_dataset", f"{label} is a virtual dataset: its values lie elsewhere", None, None)
        if plist.get_external_count():
            raise _refusal("external_storage", f"{label} keeps its values in another file", None, None)
        kind = found.get_type()
        if kind.get_size() not in NUMBERS.get(kind.get_class(), ()):
            raise _refusal("type_refused", f"{label} holds {_type_name(kind)}", None, "floating-point numbers")
        filters = self._filters(label, plist)
        shape, size = self._shape(label, found), kind.get_size()
        logical = math.prod(shape) * size
        self.logical_bytes += logical
        if self.logical_bytes > self._limits.logical_bytes:
            raise _refusal(
                "too_many_values",
                f"{label} declares more values than a file may hold",
                f"{self.logical_bytes} bytes",
                f"at most {self._limits.logical_bytes} bytes in all",
            )
        if logical:
            if layout == h5d.CHUNKED:
                self._check_chunks(label, found, plist, shape, size)
            else:
                self._check_plain(label, found, layout, logical)
            if COMPRESSION & set(filters):
                self.compressed.append(label)

    def _filters(self, label: str, plist: Any) -> list[int]:
        filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
        foreign = sorted(set(filters) - BUILT_IN_FILTERS)
        if foreign:
            raise _refusal(
                "filter_refused",
                f"{label} needs a filter plugin to be read",
                f"filter {foreign[0]}",
                "deflate, LZF, shuffle, Fletcher-32 or scale-offset",
            )
        if len(set(filters)) < len(filters) or len(COMPRESSION & set(filters)) > 1:
            raise _refusal("filter_refused", f"{label} applies the same filter more than once", filters, None)
        if LZF in filters and filters[filters.index(LZF) + 1 :] not in ([], [h5z.FILTER_FLETCHER32]):
            raise _refusal("filter_refused", f"{label} filters what LZF has compressed", filters, None)
        return filters

    def _shape(self, label: str, found: h5d.DatasetID) -> tuple[int, ...]:
        space = found.get_space()
        if space.get_simple_extent_type() == h5s.SCALAR:
            return ()
        if space.get_simple_extent_type() != h5s.SIMPLE or space.get_simple_extent_ndims() > self._limits.axes:
            raise _refusal("wrong_shape", f"{label} is no array", None, f"1 to {self._limits.axes} axes")
        return tuple(int(n) for n in found.shape)

    def _check_plain(self, label: str, found: h5d.DatasetID, layout: int, logical: int) -> None:
        if layout == h5d.COMPACT:
            return
        offset = found.get_offset()
        if offset is None:  # never written, which readers look after
            return
        if found.get_storage_size() < logical or offset + logical > self._file_bytes:
            raise _refusal("truncated", f"{label} reaches beyond the end of the file: it is truncated", None, None)

    def _check_chunks(self, label: str, found: h5d.DatasetID, plist: Any, shape: tuple[int, ...], size: int) -> None:
        chunk = tuple(int(n) for n in plist.get_chunk())
        chunk_bytes = math.prod(chunk) * size
        if chunk_bytes > self._limits.chunk_bytes:
            raise _refusal(
                "chunk_too_large",
                f"{label} is stored in chunks that are too large to be decoded",
                f"{chunk_bytes} bytes",
                f"at most {self._limits.chunk_bytes} bytes",
            )
        expected = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        self._chunks += expected
        if self._chunks > self._limits.chunks:
            raise _refusal("too_many_chunks", "the file has too many chunks", self._chunks, self._limits.chunks)
        # Chunks that were never written are left to the readers.
        logical, kept = found.get_num_chunks() * chunk_bytes, found.get_storage_size()
        if logical > self._limits.ratio * kept:
            raise _refusal(
                "compression_ratio",
                f"{label} is compressed so much that it holds almost nothing",
                f"{logical / max(kept, 1):.0f} : 1",
                f"at most {self._limits.ratio} : 1",
            )
        check_stored_chunks(label, found, chunk_bytes, self._file_bytes)


def check_stored_chunks(label: str, found: h5d.DatasetID, chunk_bytes: int, file_bytes: int) -> None:
    """Every stored chunk lies in the file and is not larger than what it decodes to, a filter's header aside."""
    worst: list[str] = []

    def look(info: Any) -> int | None:
        if info.byte_offset + info.size > file_bytes:
            worst.append(f"{label} reaches beyond the end of the file: it is truncated")
        elif info.size > chunk_bytes + chunk_bytes // 64 + 4096:
            worst.append(f"{label} has a chunk that is stored in more bytes than it decodes to")
        return 1 if worst else None

    found.chunk_iter(look)
    if worst:
        raise _refusal("truncated" if "truncated" in worst[0] else "chunk_refused", worst[0], None, None)


def check_compressed(label: str, found: h5d.DatasetID) -> None:
    """The library trusts a compressed chunk to end where its declaration says; we look.

    A chunk that is damaged is left to the library, which does not decode it: its rows cannot be read.

    Raises:
        UserError: ``chunk_refused`` or ``filter_refused``.
    """
    plist = found.get_create_plist()
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    place = next(index for index, number in enumerate(filters) if number in COMPRESSION)
    if any(later != h5z.FILTER_FLETCHER32 for later in filters[place + 1 :]):
        return
    decoded = math.prod(int(n) for n in plist.get_chunk()) * found.get_type().get_size()
    if filters[place] == LZF and tuple(plist.get_filter(place)[2])[2:3] != (decoded,):
        raise _refusal("filter_refused", f"{label} declares another size for LZF than its chunks have", None, decoded)
    exact = h5z.FILTER_SCALEOFFSET not in filters
    for mask, raw in _stored_chunks(found, tuple(int(n) for n in plist.get_chunk())):
        if mask & 1 << place:
            continue
        if filters[place] == DEFLATE:
            _check_deflated(label, raw, decoded + 4096)
        else:
            _check_lzf(label, raw[: -CHECKSUM_BYTES if place + 1 < len(filters) else None], decoded, exact)


def _stored_chunks(found: h5d.DatasetID, chunk: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    """(mask of the filters left out, bytes) of each chunk that was written."""
    steps = [range(0, n, c) for n, c in zip(found.shape, chunk, strict=True)]
    complete = found.get_num_chunks() == math.prod(len(step) for step in steps)
    for offset in itertools.product(*steps):
        if complete or found.get_chunk_info_by_coord(offset).byte_offset is not None:
            yield found.read_direct_chunk(offset)


def _check_deflated(label: str, raw: bytes, most: int) -> None:
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(raw, most)
    except zlib.error:
        return
    if not inflating.eof:
        raise _refusal("chunk_refused", f"{label} has a chunk that inflates to more than it declares", None, None)


def _check_lzf(label: str, raw: bytes, decoded: int, exact: bool) -> None:
    length = lzf_length(raw)
    if length is not None and (length > decoded or (exact and length < decoded)):
        raise _refusal("chunk_refused", f"{label} has a chunk that LZF decodes to another size", length, decoded)


def lzf_length(raw: bytes) -> int | None:
    """Bytes that an LZF stream decodes to; None where it is damaged: it ends early or refers to before its beginning.

    A control byte below 32 announces that many bytes and one more, as they are; else its upper three bits, or the next
    byte, tell how much of what was decoded is repeated, and the rest from how far back.
    """
    place, length, end = 0, 0, len(raw)
    while place < end:
        control = raw[place]
        place += 1
        if control < 32:
            place += control + 1
            length += control + 1
            continue
        repeated = control >> 5
        if repeated == 7:
            if place >= end:
                return None
            repeated += raw[place]
            place += 1
        if place >= end or ((control & 31) << 8 | raw[place]) >= length:
            return None
        place += 1
        length += repeated + 2
    return length if place == end else None


def _type_name(kind: Any) -> str:
    return TYPE_NAMES.get(kind.get_class(), f"numbers of {kind.get_size()} bytes")


def _text(name: bytes, place: str) -> str:
    """A name in the file; h5py gives those that are no text as bytes, which nothing behind us expects."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise _refusal("name_refused", f"{place} holds a name that is not text", repr(name[:64]), "UTF-8") from None


def _refusal(code: str, message: str, got: Any, expected: Any) -> UserError:
    return UserError(code, message, got=got, expected=expected)
