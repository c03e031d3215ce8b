"""Files of every format that is read, damaged on purpose: HDF5 in its structure, by the library; archives in their
members, with checksums that fit; all byte by byte.

The same random numbers give the same file.
"""

import shutil
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.mapped_files import LAYOUTS
from tests.pdebench_files import write
from ups_server.data.export import convert
from ups_server.data.formats import open_source
from ups_server.data.inspect import inspect

FAMILIES = (
    "advection",
    "burgers",
    "compressible_ns_1d",
    "darcy",
    "diffusion_sorption",
    "shallow_water",
    "incompressible_ns_2d",
)
SIGNATURES = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"BTHD", b"FADB", b"\x89HDF")
EXTREMES = (0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40)
NUMBERS = ("f2", "f4", "f8", ">f4", "i1", "i8", "u2", "c8", "?", "S4")

Random = np.random.Generator
Structural = Callable[[Random, h5py.File, Path], None]


@dataclass(frozen=True)
class Seed:
    """A good file.

    Attributes:
        reader: what reads it, by name.
        mapping: what it is read by; None where it explains itself.
    """

    reader: str
    path: Path
    mapping: dict[str, Any] | None = None


def seeds(folder: Path) -> list[Seed]:
    """A good file a family and one compressed with LZF in PDEBench's layouts, one in each other format that is written,
    and one in each layout that is read through a mapping; folders, which cannot be uploaded, left out."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [write(folder / f"{name}.h5", name) for name in FAMILIES]
    lzf = write(folder / "lzf.h5", "burgers")
    with h5py.File(lzf, "a") as file:
        values = np.round(file["tensor"][()], 1)
        del file["tensor"]
        file.create_dataset("tensor", data=values, chunks=(1, *values.shape[1:]), compression="lzf")
    found = [Seed("PDEBench", path) for path in (*files, lzf)]
    for of, place in (("burgers.h5", "1d"), ("incompressible_ns_2d.h5", "2d")):
        with closing(open_source(folder / of)) as source:
            for reader, suffix, format in (
                ("NetCDF that names its family", ".nc", "netcdf"),
                ("npz that names its family", ".npz", "npz"),
                ("The Well that names its family", ".well.h5", "the_well"),
                ("Zarr, zip, that names its family", ".zip", "zarr_zip"),
            ):
                found.append(Seed(reader, convert(source, folder / f"{place}{suffix}", format=format)))
    for name, layout in LAYOUTS.items():
        if not layout.folder:
            layout.write(folder / name)
            mapping = {**(inspect(folder / name).mapping or {}), **layout.changes}
            found.append(Seed(layout.name, folder / name, mapping))
    return found


def mutate(random: Random, seed: Path, path: Path, secret: Path) -> list[str]:
    """Writes a damaged copy of `seed`; what was done to it. `secret` is a file that must never be read."""
    shutil.copyfile(seed, path)
    done = []
    if random.random() < 0.6 and h5py.is_hdf5(path):
        done += mutate_structure(random, path, secret)
    elif random.random() < 0.75 and zipfile.is_zipfile(path):
        done += mutate_members(random, path, secret)
    elif random.random() < 0.75 and path.read_bytes()[:10] == b"MATLAB 5.0":
        done += mutate_element(random, path)
    if not done or random.random() < 0.4:
        content = bytearray(path.read_bytes())
        done += damaged(random, content)
        path.write_bytes(content)
    return done


def damaged(random: Random, content: bytearray) -> list[str]:
    """Damages bytes in a few places; what was done."""
    done = []
    for _ in range(random.integers(1, 6)):
        if content:
            damage = BYTES[random.integers(len(BYTES))]
            damage(random, content)
            done.append(damage.__name__)
    return done


def mutate_structure(random: Random, path: Path, secret: Path) -> list[str]:
    """Changes HDF5 by its library."""
    done = []
    with h5py.File(path, "a") as file:
        for _ in range(random.integers(1, 4)):
            change = STRUCTURAL[random.integers(len(STRUCTURAL))]
            try:
                change(random, file, secret)
            except (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError) as error:
                done.append(f"{change.__name__} impossible ({type(error).__name__})")
            else:
                done.append(change.__name__)
                if change is with_garbage_chunks:
                    break  # the library, which is not confined here, writes past its buffers where it reads one
    return done


def mutate_members(random: Random, path: Path, secret: Path) -> list[str]:
    """Changes members of an archive, whose checksums fit again: what reads them sees the damage."""
    with zipfile.ZipFile(path) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    kind = zipfile.ZIP_STORED if random.random() < 0.75 else zipfile.ZIP_DEFLATED
    done: list[str] = []
    links: list[str] = []
    for _ in range(random.integers(1, 4)):
        name = list(members)[random.integers(len(members))]
        choice = random.random()
        if choice < 0.7:
            done += [f"{name}: {what}" for what in damaged(random, members[name])]
        elif choice < 0.76 and len(members) > 1:
            del members[name]
            done.append(f"{name} removed")
        elif choice < 0.82:
            other = list(members)[random.integers(len(members))]
            members[name] = bytearray(members[other])
            done.append(f"{name} is {other}")
        elif choice < 0.88:
            members[(f"../{name}", str(secret), f"{name}/", "x" * 300, "\u03bb\n")[random.integers(5)]] = members[name]
            done.append(f"{name} under another name too")
        elif choice < 0.94:
            links.append(name)
            members[name] = bytearray(str(secret).encode())
            done.append(f"{name} a link outside")
        else:
            members[name] = bytearray(int(random.integers(2**24)))
            done.append(f"{name} of many zeros")
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = kind
            entry.external_attr = (0o120777 if name in links else 0o100600) << 16
            archive.writestr(entry, bytes(content))
    return done


def mutate_element(random: Random, path: Path) -> list[str]:
    """Damages a variable of a MATLAB 5 file under its compression."""
    content = path.read_bytes()
    elements, at = [], 128
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        elements.append((at, size))
        at += 8 + size
    at, size = elements[random.integers(len(elements))]
    inside = bytearray(zlib.decompress(content[at + 8 : at + 8 + size]))
    done = [f"inside: {what}" for what in damaged(random, inside)]
    packed = bytes(inside)
    if random.random() < 0.5:
        packed = zlib.compress(packed)
        packed = content[at : at + 4] + len(packed).to_bytes(4, "little") + packed
    path.write_bytes(content[:at] + packed + content[at + 8 + size :])
    return done


def some_name(random: Random, file: h5py.File) -> str:
    names: list[str] = []
    file.visit(names.append)
    if not names:
        raise KeyError("empty")
    return names[random.integers(len(names))]


def some_dataset(random: Random, file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None)
    if not names:
        raise KeyError("no dataset")
    return names[random.integers(len(names))]


def small(data: h5py.Dataset) -> Any:
    """All its values; an earlier change may have declared more than there is memory for."""
    if data.size is None or data.size > 2**20:
        raise ValueError("too large")
    return data[()]


def removed(random: Random, file: h5py.File, secret: Path) -> None:
    del file[some_name(random, file)]


def renamed(random: Random, file: h5py.File, secret: Path) -> None:
    letters = "".join(chr(c) for c in random.choice([97, 45, 48, 46, 955, 0x1F4A9, 10, 37], 6))
    file.move(some_name(random, file), letters)


def of_another_shape(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    shape = tuple(int(n) for n in random.integers(0, 6, random.integers(0, 6)))
    replace(file, name, random.random(shape).astype("f4"))


def of_another_type(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    values = small(file[name])
    kind = np.dtype(NUMBERS[random.integers(len(NUMBERS))])
    with np.errstate(all="ignore"):
        replace(file, name, np.asarray(values).astype(kind))


def transposed(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    replace(file, name, np.transpose(small(file[name])))


def with_wild_values(random: Random, file: h5py.File, secret: Path) -> None:
    data = file[some_dataset(random, file)]
    values = np.array(small(data), copy=True)
    if values.size:
        wild = (np.nan, np.inf, -np.inf, -1e30, 3e38, 1e-45, 0.0)
        with np.errstate(all="ignore"):
            values.flat[random.integers(values.size, size=3)] = wild[random.integers(len(wild))]
    data[...] = values


def with_wild_coordinates(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    n = int(random.integers(0, 40))
    kinds = (np.zeros(n), np.arange(n)[::-1], np.geomspace(1, 1e30, max(n, 1)), random.normal(size=n))
    replace(file, name, kinds[random.integers(len(kinds))])


def with_an_attribute(random: Random, file: h5py.File, secret: Path) -> None:
    names = ("beta", "nu", "Nu", "config", "family", "boundary", "eta", "zeta", "M", "rho", "x" * 70)
    values: tuple[Any, ...] = (
        np.nan,
        -1.0,
        1e300,
        "text: [",
        "sim: {D: 1.e-8, deep: {deeper: [1, 2, {a: *b}]}}",
        "&a [*a, *a]",
        np.bytes_(b"\xff\xfe"),
        np.zeros(5),
        np.zeros((0,)),
        True,
        h5py.Empty("f4"),
        "!!python/object/apply:os.system ['true']",
        "burgers",
        "9" * 5000,
    )
    place = file if random.random() < 0.5 else file[some_name(random, file)]
    place.attrs[names[random.integers(len(names))]] = values[random.integers(len(values))]


def linked_softly(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_name(random, file)
    del file[name]
    file[name] = h5py.SoftLink(("/", "/absent", f"/{name}", "..")[random.integers(4)])


def linked_outside(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_name(random, file)
    del file[name]
    file[name] = h5py.ExternalLink(str(secret), "/tensor")


def stored_outside(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(secret), "tensor", shape)
    file.create_virtual_dataset(name, layout)


def looped(random: Random, file: h5py.File, secret: Path) -> None:
    group = file.require_group("0001")
    group[f"loop{random.integers(1000)}"] = file["/"] if random.random() < 0.5 else group


def with_garbage_chunks(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    shape = file[name].shape
    if not shape or 0 in shape:
        raise ValueError("no chunks")
    del file[name]
    options: tuple[dict[str, Any], ...] = ({"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}, {})
    data = file.create_dataset(name, shape, "f4", chunks=shape, **options[random.integers(len(options))])
    data.id.write_direct_chunk((0,) * len(shape), random.bytes(int(random.integers(0, 4096))))


def declared_huge(random: Random, file: h5py.File, secret: Path) -> None:
    name = some_dataset(random, file)
    rank = max(1, len(file[name].shape))
    del file[name]
    shape = tuple(int(2 ** random.integers(1, 50 // rank)) for _ in range(rank))
    file.create_dataset(name, shape, "f4", chunks=tuple(min(n, 8) for n in shape), compression="gzip")


def with_more_groups(random: Random, file: h5py.File, secret: Path) -> None:
    for number in range(int(random.integers(1, 60))):
        file.require_group(f"{number:04d}")


def nested(random: Random, file: h5py.File, secret: Path) -> None:
    file.require_group("/".join(["0"] * int(random.integers(2, 200))))


def replace(file: h5py.File, name: str, values: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


STRUCTURAL: tuple[Structural, ...] = (
    removed,
    renamed,
    of_another_shape,
    of_another_type,
    transposed,
    with_wild_values,
    with_wild_coordinates,
    with_an_attribute,
    linked_softly,
    linked_outside,
    stored_outside,
    virtual,
    looped,
    with_garbage_chunks,
    declared_huge,
    with_more_groups,
    nested,
)


def place(random: Random, content: bytearray) -> int:
    """A place in the metadata rather than among the values."""
    kind = random.random()
    if kind < 0.3:
        return int(random.integers(min(len(content), 2048)))
    if kind < 0.8:
        found = content.find(SIGNATURES[random.integers(len(SIGNATURES))], int(random.integers(len(content))))
        if found >= 0:
            return min(len(content) - 1, found + int(random.integers(128)))
    return int(random.integers(len(content)))


def bits_flipped(random: Random, content: bytearray) -> None:
    for _ in range(random.integers(1, 9)):
        content[place(random, content)] ^= 1 << int(random.integers(8))


def number_replaced(random: Random, content: bytearray) -> None:
    size = int(random.choice([1, 2, 4, 8]))
    at = min(place(random, content), len(content) - size)
    content[at : at + size] = (EXTREMES[random.integers(len(EXTREMES))] % 2 ** (8 * size)).to_bytes(size, "little")


def number_nudged(random: Random, content: bytearray) -> None:
    at = place(random, content)
    content[at] = (content[at] + int(random.integers(-3, 4))) % 256


def block_overwritten(random: Random, content: bytearray) -> None:
    at, size = place(random, content), int(random.integers(1, 64))
    block = random.bytes(size)
    content[at : at + size] = block[: len(content) - at]


def block_copied(random: Random, content: bytearray) -> None:
    size = int(random.integers(1, 256))
    source, target = place(random, content), place(random, content)
    block = content[source : source + size]
    content[target : target + len(block)] = block


def cut_short(random: Random, content: bytearray) -> None:
    if random.random() < 0.3:
        del content[max(64, int(random.integers(len(content)))) :]


def made_longer(random: Random, content: bytearray) -> None:
    content += random.bytes(int(random.integers(1, 4096)))


def piece_removed(random: Random, content: bytearray) -> None:
    at = place(random, content)
    if len(content) > 512:
        del content[at : at + int(random.integers(1, 16))]


BYTES = (
    bits_flipped,
    number_replaced,
    number_nudged,
    block_overwritten,
    block_copied,
    cut_short,
    made_longer,
    piece_removed,
)
