"""Files in PDEBench's layouts, damaged on purpose: some in their structure, by the library, some byte by byte.

The same random numbers give the same file.
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from fnmatch import fnmatch
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


def seeds(folder: Path) -> list[Path]:
    """A good file a family, one compressed with LZF, NetCDF and an npz; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [write(folder / f"{name}.h5", name) for name in FAMILIES]
    with closing(open_source(files[0])) as source:
        others = [convert(source, folder / name) for name in ("netcdf.nc", "arrays.npz")]
    lzf = write(folder / "lzf.h5", "burgers")
    with h5py.File(lzf, "a") as file:
        values = np.round(file["tensor"][()], 1)
        del file["tensor"]
        file.create_dataset("tensor", data=values, chunks=(1, *values.shape[1:]), compression="lzf")
    return [*files, *others, lzf]


def mapped_seeds(folder: Path, pattern: str) -> dict[str, dict[str, Any]]:
    """A good file of each layout that is read through a mapping, and its mapping; those whose name fits a pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, layout in LAYOUTS.items():
        if not layout.folder and fnmatch(name, pattern):
            layout.write(folder / name)
            found[name] = {**(inspect(folder / name).mapping or {}), **layout.changes}
    return found


def mutate(random: Random, seed: Path, path: Path, secret: Path) -> list[str]:
    """Writes a damaged copy of `seed`; what was done to it. `secret` is a file that must never be read."""
    shutil.copyfile(seed, path)
    done = []
    if random.random() < 0.6 and h5py.is_hdf5(path):
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
    if not done or random.random() < 0.4:
        content = bytearray(path.read_bytes())
        for _ in range(random.integers(1, 6)):
            damage = BYTES[random.integers(len(BYTES))]
            damage(random, content)
            done.append(damage.__name__)
        path.write_bytes(content)
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
