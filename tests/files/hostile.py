"""Files that want to do harm: one function a kind. Each takes the path to write and the path of a secret file."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t, h5z

from tests.pdebench_files import plain, values_of, write
from ups_server.data.formats.hdf5 import LZF

ATTRIBUTES = {"beta": 0.4}
SHAPE = (3, 5, 16)


class Hostile(NamedTuple):
    """How a file is made, the code it is refused with, and words of the sentence."""

    make: Callable[[Path, Path], None]
    code: str
    words: str


def replaced(path: Path, name: str = "tensor") -> h5py.File:
    """A good file, open for change, without one of its datasets."""
    plain(path, ATTRIBUTES)
    file = h5py.File(path, "a")
    del file[name]
    return file


def external_link(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file["tensor"] = h5py.ExternalLink(str(secret), "/tensor")


def intermediate_external_link(path: Path, secret: Path) -> None:
    write(path, "diffusion_sorption")
    with h5py.File(path, "a") as file:
        del file["0001/grid"]
        file["0001/grid"] = h5py.ExternalLink(str(secret), "/")


def soft_link(path: Path, secret: Path) -> None:
    with replaced(path, "x-coordinate") as file:
        file["x-coordinate"] = h5py.SoftLink("/t-coordinate")


def external_storage(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", SHAPE, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(path: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource(str(secret), "tensor", SHAPE)
    with replaced(path) as file:
        file.create_virtual_dataset("tensor", layout)


def plugin_filter(path: Path, secret: Path) -> None:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(SHAPE)
    plist.set_filter(32001, h5z.FLAG_OPTIONAL, (1, 2, 3))
    chunked(path, plist, SHAPE, [((0, 0, 0), bytes(4 * int(np.prod(SHAPE))))])


def stacked_deflate_bomb(path: Path, secret: Path) -> None:
    shape = (64, 256, 1024)
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    plist.set_deflate(9)
    plist.set_deflate(9)
    twice = zlib.compress(zlib.compress(bytes(4 * int(np.prod(shape))), 9), 9)
    assert len(twice) < 4 * np.prod(shape) / 10_000
    chunked(path, plist, shape, [((0, 0, 0), twice)])


def deflate_bomb(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", data=np.zeros((64, 256, 1024), "f4"), chunks=(16, 256, 1024), compression=9)


def chunk_that_inflates(path: Path, secret: Path) -> None:
    """The library inflates a chunk to its end, whatever it declares: 256 MiB instead of 2 MiB."""
    shape = (1, 512, 1024)
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    plist.set_deflate(9)
    deflating = zlib.compressobj(9)
    parts = [deflating.compress(bytes(2**24)) for _ in range(16)]
    raw = b"".join([*parts, deflating.flush()])
    chunked(path, plist, shape, [((0, 0, 0), raw)])


def four_pebibytes(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", (2**30, 2**10, 2**10), "f4", chunks=(1, 256, 256), compression="gzip")
    assert path.stat().st_size < 10_000


def large_chunk(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        data = file.create_dataset("tensor", (2, 2**14, 2**14), "f4", chunks=(1, 2**14, 2**14), compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(2**20)))
        data.id.write_direct_chunk((1, 0, 0), zlib.compress(bytes(2**20)))


def many_groups(path: Path, secret: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(100_000):
            h5g.create(file.id, b"%06d" % number)


def hard_link_loop(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("0000")
        group["data"] = np.zeros((5, 16, 1), "f4")
        group["grid"] = file["/"]


def deep_groups(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("/".join(["0"] * 5000))


def many_attributes(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES | {f"a{number}": 1.0 for number in range(100)})


def large_attribute(path: Path, secret: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["rho"] = np.zeros(2**20, "f8")


def object_attribute(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES)
    with h5py.File(path, "a") as file:
        file.attrs["reference"] = file["tensor"].ref


def never_written(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", SHAPE, "f4", chunks=(1, 5, 16))


def never_allocated(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", SHAPE, "f4")


def truncated(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES)
    whole = path.read_bytes()
    path.write_bytes(whole[: 3 * len(whole) // 4])


def wrong_magic(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES)
    whole = path.read_bytes()
    path.write_bytes(b"\x89PNG" + whole[4:])


def text_values(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file["tensor"] = np.full(SHAPE, b"0.5", "S8")


def object_values(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", SHAPE, h5py.string_dtype())


def compound_values(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file["tensor"] = np.zeros(SHAPE, [("u", "f4"), ("v", "f4")])


def reference_values(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", SHAPE, h5py.ref_dtype)


def list_values(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        file.create_dataset("tensor", SHAPE, h5py.vlen_dtype("f4"))


def name_of_bytes(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES)
    with h5py.File(path, "a") as file:
        h5g.create(file.id, b"\xff\xfe")


def attribute_of_bytes(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES)
    with h5py.File(path, "a") as file:
        h5a.create(file.id, b"\xff", h5t.IEEE_F32LE, h5s.create(h5s.SCALAR))


def named_type(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES)
    with h5py.File(path, "a") as file:
        file["type"] = np.dtype("f4")


def whole_numbers(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES, tensor=np.ones(SHAPE, "i4"))


def nan_filled(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES, tensor=np.full(SHAPE, np.nan, "f4"))


def no_trajectories(path: Path, secret: Path) -> None:
    plain(path, ATTRIBUTES, tensor=np.zeros((0, *SHAPE[1:]), "f4"))


def damaged_chunk(path: Path, secret: Path) -> None:
    with replaced(path) as file:
        data = file.create_dataset("tensor", SHAPE, "f4", chunks=SHAPE, compression="gzip")
        data[:] = values_of("advection")[..., 0]
        data.id.write_direct_chunk((0, 0, 0), b"\x00" * 64)


def lzf_grows(path: Path, secret: Path) -> None:
    """A chunk of LZF that decodes to more than a chunk holds."""
    lzf(path, b"\x00a" + b"\xe0\xff\x00" * 10)


def lzf_shrinks(path: Path, secret: Path) -> None:
    """A chunk of LZF that decodes to less: the rest would be whatever lay in memory."""
    lzf(path, b"\x00a")


def lzf_size(path: Path, secret: Path) -> None:
    """LZF declared to decode into a buffer that is smaller than a chunk."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(SHAPE)
    plist.set_filter(LZF, h5z.FLAG_OPTIONAL, (4, 261, 1))
    # The filter writes the size of the chunk itself when the dataset is made: take it out again.
    chunked(path, plist, SHAPE, [((0, 0, 0), b"\x00a")])
    content = path.read_bytes()
    size = (4 * SHAPE[0] * SHAPE[1] * SHAPE[2]).to_bytes(4, "little")
    place = content.index(size, content.index(b"lzf"))
    path.write_bytes(content[:place] + (1).to_bytes(4, "little") + content[place + 4 :])


def lzf(path: Path, raw: bytes) -> None:
    with replaced(path) as file:
        data = file.create_dataset("tensor", SHAPE, "f4", chunks=SHAPE, compression="lzf")
        data[:] = values_of("advection")[..., 0]
        data.id.write_direct_chunk((0, 0, 0), raw)


def chunked(
    path: Path, plist: h5p.PropDCID, shape: tuple[int, ...], chunks: list[tuple[tuple[int, ...], bytes]]
) -> None:
    """A dataset whose stored chunks are given byte by byte."""
    with replaced(path) as file:
        data = h5d.create(file.id, b"tensor", h5t.IEEE_F32LE, h5s.create_simple(shape), plist)
        for offset, raw in chunks:
            data.write_direct_chunk(offset, raw)


HOSTILE = {
    "external link": Hostile(external_link, "link_refused", "/tensor is a link into another file"),
    "intermediate external link": Hostile(
        intermediate_external_link, "link_refused", "/0001/grid is a link into another file"
    ),
    "soft link": Hostile(soft_link, "link_refused", "/x-coordinate is a soft link"),
    "external storage": Hostile(external_storage, "external_storage", "/tensor keeps its values in another file"),
    "virtual dataset": Hostile(virtual_dataset, "virtual_dataset", "/tensor is a virtual dataset"),
    "plugin filter": Hostile(plugin_filter, "filter_refused", "/tensor needs a filter plugin"),
    "stacked deflate bomb": Hostile(stacked_deflate_bomb, "filter_refused", "applies the same filter more than once"),
    "deflate bomb": Hostile(deflate_bomb, "compression_ratio", "compressed so much"),
    "chunk that inflates": Hostile(chunk_that_inflates, "chunk_refused", "inflates to more than it declares"),
    "4 PiB declaration": Hostile(four_pebibytes, "too_many_values", "declares more values than a file may hold"),
    "1 GiB chunk": Hostile(large_chunk, "chunk_too_large", "chunks that are too large"),
    "100,000 groups": Hostile(many_groups, "too_many_objects", "too many groups and datasets"),
    "hard-link loop": Hostile(hard_link_loop, "linked_twice", "/0000/grid leads to an object that was already reached"),
    "deep groups": Hostile(deep_groups, "too_deep", "lies too deep"),
    "many attributes": Hostile(many_attributes, "too_many_attributes", "/ has too many attributes"),
    "large attribute": Hostile(large_attribute, "attribute_too_large", "the attribute rho of / is too large"),
    "object attribute": Hostile(
        object_attribute, "type_refused", "the attribute reference of / holds object references"
    ),
    "never written": Hostile(never_written, "never_written", "declares values that were never written"),
    "never allocated": Hostile(never_allocated, "never_written", "declares values that were never written"),
    "truncated": Hostile(truncated, "not_hdf5", "is truncated"),
    "wrong magic": Hostile(wrong_magic, "not_hdf5", "is not an HDF5 file"),
    "text": Hostile(text_values, "type_refused", "/tensor holds text"),
    "objects": Hostile(object_values, "type_refused", "/tensor holds text"),
    "compounds": Hostile(compound_values, "type_refused", "/tensor holds compound values"),
    "references": Hostile(reference_values, "type_refused", "/tensor holds object references"),
    "lists": Hostile(list_values, "type_refused", "/tensor holds lists of any length"),
    "name of bytes": Hostile(name_of_bytes, "name_refused", "/ holds a name that is not text"),
    "attribute of bytes": Hostile(attribute_of_bytes, "name_refused", "holds a name that is not text"),
    "named type": Hostile(named_type, "type_refused", "/type is neither a group nor a dataset"),
    "whole numbers": Hostile(whole_numbers, "wrong_dtype", "/tensor does not hold floating-point numbers"),
    "NaN": Hostile(nan_filled, "unusable_file", "u holds 240 values that are not finite"),
    "no trajectories": Hostile(no_trajectories, "empty_file", "/tensor holds no values"),
    "LZF that grows": Hostile(lzf_grows, "chunk_refused", "that LZF decodes to another size"),
    "LZF that shrinks": Hostile(lzf_shrinks, "chunk_refused", "that LZF decodes to another size"),
    "LZF of another size": Hostile(lzf_size, "filter_refused", "declares another size for LZF"),
    "damaged chunk": Hostile(damaged_chunk, "unusable_file", "its data are damaged or missing"),
}
