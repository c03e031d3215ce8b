"""What every format and exporter owes the others: those here, and those of a plug-in."""

import logging
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pdebench_files import COUNT, grid_for, static_of, times_of, values_of
from ups_server.cli import main
from ups_server.data.export import convert, encode, media_types, suffixes, write_file
from ups_server.data.formats import exporters, format_of, formats, open_source
from ups_server.data.formats.base import Header, InMemory
from ups_server.data.source import TrajectorySource, pieces
from ups_server.data.writer import transcode
from ups_server.errors import UserError
from ups_server.pde.registry import family
from ups_server.plugins import plugins

PLUGIN = Path(__file__).resolve().parent.parent / "plugins" / "text_format"
FAMILIES = ["burgers", "incompressible_ns_2d", "darcy"]
EXPORTERS = [*exporters(), "text"]
FORMATS = [*(found.name for found in formats()), "text"]
WRITTEN_BY = {"pdebench": "hdf5"}
"""Format -> its exporter, where they differ in name."""


@pytest.fixture(autouse=True)
def plugged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """With the plug-in installed; yields what the log said of it."""
    caches = (plugins, formats, exporters)
    monkeypatch.syspath_prepend(PLUGIN)
    for cache in caches:
        cache.cache_clear()
    with caplog.at_level(logging.WARNING):
        formats()
        exporters()
    yield caplog.text
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("text_format", None)


def header_of(name: str) -> Header:
    equation = family(name)
    growing = 1.0 + 0.25 * np.arange(COUNT, dtype=np.float64)
    coefficients: dict[str, float | NDArray[np.float64]] = {c.name: c.default * growing for c in equation.coefficients}
    return Header(equation, grid_for(name), times_of(name), coefficients, COUNT, {"note": "a text"})


def written(path: Path, exporter: str, name: str) -> Path:
    """A file, or a skip where the format has no place for the family."""
    header = header_of(name)
    try:
        write_file(path, header, InMemory(header, values_of(name), static_of(name)), exporter)
    except UserError as error:
        if error.code != "no_layout":
            raise
        pytest.skip(str(error))
    return path


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=FORMATS)
def source(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[TrajectorySource]:
    """A file of each format, under a name that says nothing."""
    kind = str(request.param)
    if kind == "store":
        with open_source(written(tmp_path / "a.h5", "hdf5", name)) as original:
            transcode(original, tmp_path / "file").close()
    else:
        written(tmp_path / "file", WRITTEN_BY.get(kind, kind), name)
    assert format_of(tmp_path / "file").name == kind
    with open_source(tmp_path / "file") as opened:
        yield opened


def test_a_source_is_what_was_written(source: TrajectorySource, name: str) -> None:
    header = header_of(name)
    assert (source.family, source.n_trajectories, source.grid) == (name, COUNT, header.grid)
    assert source.boundary == header.family.boundary
    assert source.fields == tuple(field.name for field in header.family.fields)
    assert source.static_fields == tuple(field.name for field in header.family.static_fields)
    np.testing.assert_allclose(source.times, header.times, rtol=1e-6)
    expected = np.stack([np.asarray(header.coefficients[key]) for key in source.coefficient_names], axis=1)
    np.testing.assert_allclose(source.coefficients, expected, rtol=1e-6)
    assert source.layout
    assert min(source.chunk_rows, source.chunk_frames) >= 1
    assert dict(source.row_faults) == {}
    assert source.row_numbers.numbers.tolist() == list(range(COUNT))
    assert all(stored.name and stored.shape for stored in source.datasets())


def test_any_part_is_read_as_indexing(source: TrajectorySource, name: str) -> None:
    values, static = values_of(name), static_of(name)
    space = (slice(1, None, 2),) * source.grid.ndim
    last = len(source.times) - 1
    np.testing.assert_array_equal(source.read(range(COUNT)), values)
    np.testing.assert_array_equal(source.read([2, 0], [last, 0], 2, 1), values[[2, 0]][:, [last, 0]][:, :, *space])
    np.testing.assert_array_equal(source.read(np.array([1]), slice(0, 1)), values[[1], :1])
    assert source.read([]).shape == (0, *values.shape[1:])
    assert source.read([0]).dtype == np.float32
    found = source.read_static([1, 1], 2, 1)
    assert (found is None) == (static is None)
    if found is not None and static is not None:
        np.testing.assert_array_equal(found, static[[1, 1]][:, *space])
    with pytest.raises(UserError) as caught:
        source.read([COUNT])
    assert caught.value.code == "row_out_of_range"


def test_pieces_are_all_of_it(source: TrajectorySource, name: str) -> None:
    values, found = values_of(name), np.zeros_like(values_of(name))
    for rows, frames, block in pieces(source, 1):
        found[rows.start : rows.stop, frames] = block
    np.testing.assert_array_equal(found, values)


def test_one_trajectory_is_whole(source: TrajectorySource, name: str) -> None:
    one = source.trajectory(1)
    assert (one.family, one.grid, one.boundary) == (source.family, source.grid, source.boundary)
    np.testing.assert_array_equal(one.values, values_of(name)[1])
    assert set(one.coefficients) == set(source.coefficient_names)
    assert (one.static is None) == (not source.static_fields)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("store", "zarr")])
def test_damaged_files_are_one_sentence(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "file", WRITTEN_BY.get(kind, kind), "burgers")
    content = path.read_bytes()
    for size in range(1, len(content), max(1, len(content) // 16)):
        path.write_bytes(content[:size])
        with pytest.raises(UserError), open_source(path) as opened:
            opened.read(range(opened.n_trajectories))


@pytest.mark.parametrize("kind", EXPORTERS)
def test_bytes_and_files_hold_the_same(kind: str, name: str, tmp_path: Path) -> None:
    exporter, header = exporters()[kind], header_of(name)
    written(tmp_path / "file", kind, name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    if exporter.media_type is None:
        with pytest.raises(UserError):
            exporter.write(BytesIO(), header, InMemory(header, values_of(name)))
        return
    assert media_types()[exporter.media_type] == kind
    content = encode(kind, values_of(name), header.times, header.family, header.grid, header.coefficients)
    (tmp_path / "bytes").write_bytes(content)
    if kind not in ("safetensors", "json") and not header.family.static_fields:
        with open_source(tmp_path / "bytes") as first, open_source(tmp_path / "file") as second:
            np.testing.assert_array_equal(first.read(range(COUNT)), second.read(range(COUNT)))


BOTH_WAYS = [kind for kind in EXPORTERS if kind in FORMATS or kind in WRITTEN_BY.values()]
"""Exporters whose files are read again."""


@pytest.mark.parametrize("last", BOTH_WAYS)
@pytest.mark.parametrize("first", BOTH_WAYS)
def test_what_goes_through_two_formats_is_as_it_was(first: str, last: str, name: str, tmp_path: Path) -> None:
    with open_source(written(tmp_path / "first", first, name)) as source:
        try:
            convert(source, tmp_path / "last", format=last)
        except UserError as error:
            if error.code != "no_layout":
                raise
            pytest.skip(str(error))
        with open_source(tmp_path / "last") as found:
            np.testing.assert_array_equal(found.read(range(COUNT)), values_of(name))
            np.testing.assert_array_equal(found.times, source.times)
            np.testing.assert_allclose(found.coefficients, source.coefficients, rtol=1e-7)
            assert (found.family, found.grid, found.boundary) == (source.family, source.grid, source.boundary)
            static, expected = found.read_static(range(COUNT)), static_of(name)
            assert (static is None) == (expected is None)
            if static is not None and expected is not None:
                np.testing.assert_array_equal(static, expected)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_progress_reaches_the_end(kind: str, tmp_path: Path) -> None:
    if kind == "json":
        pytest.skip("it is read at once")
    header, seen = header_of("burgers"), list[tuple[int, int]]()
    values = InMemory(header, values_of("burgers"))
    write_file(tmp_path / "file", header, values, kind, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (COUNT, COUNT)


def test_suffixes_and_media_types_are_of_one_exporter_each() -> None:
    known = exporters().values()
    assert len(suffixes()) == sum(len(exporter.suffixes) for exporter in known)
    assert len(media_types()) == sum(exporter.media_type is not None for exporter in known)
    assert all(name == exporter.format for name, exporter in exporters().items())
    assert suffixes()[".txt"].format == "text"


def test_the_log_says_which_plug_ins_are_left_out(plugged: str) -> None:
    assert [found.name for found in formats()].count("text") == 1
    for said in ("no_format of the package text-format 1.0", "npz of text-format 1.0", "absent of the package"):
        assert said in plugged


def test_commands_know_a_plug_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "file.h5", "hdf5", "burgers")
    for words in (("convert", path, tmp_path / "file.txt"), ("check", tmp_path / "file.txt", "--no-probe")):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, words)])
        assert not ended.value.code, capsys.readouterr().err
    assert "text" in capsys.readouterr().out
