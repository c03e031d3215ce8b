"""The transcoded store: what is written is read, and nothing but whole stores opens."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ups_server.data.store import MANIFEST, GridRecord, Store, StoreLayout
from ups_server.data.writer import StoreWriter
from ups_server.errors import UserError
from ups_server.pde.grid import Grid

GRID = Grid((8, 6), ((0.0, 1.0), (0.0, 2.0)))
LAYOUT = StoreLayout(
    family="any",
    fields=("u", "v"),
    grid=GridRecord.of(GRID),
    times=(0.0, 0.5, 1.0),
    boundary=(("periodic", "periodic"), ("no_flux", "no_flux")),
    coefficients=("a",),
    static_fields=("s",),
)


def rows(count: int) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]]:
    rng = np.random.default_rng(count)
    return (
        rng.normal(size=(count, *LAYOUT.row_shape)).astype(np.float32),
        rng.normal(size=(count, 1)),
        rng.normal(size=(count, *LAYOUT.static_shape)).astype(np.float32),
    )


def write(path: Path, count: int = 7, batch: int = 2, rows_per_shard: int = 3) -> Store:
    values, coefficients, static = rows(count)
    with StoreWriter(path, LAYOUT, {"seed": (1, 2)}, rows_per_shard) as writer:
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            writer.append(values[part], coefficients[part], static[part])
    return Store.open(path)


def test_reads_what_was_written_across_shards(tmp_path: Path) -> None:
    values, coefficients, static = rows(7)
    store = write(tmp_path / "s")
    assert [shard.count for shard in store.manifest.shards] == [3, 3, 1]
    assert len(store) == store.n_trajectories == 7
    assert np.array_equal(store.read(range(7)), values)
    assert np.array_equal(store.coefficients, coefficients)
    assert store.grid == GRID
    picked = store.static_view(5)
    assert picked is not None
    assert np.array_equal(picked, static[5])


@pytest.mark.parametrize("frames", [slice(None), slice(0, None, 2), [2, 0], slice(1, 1)])
@pytest.mark.parametrize(("stride", "first"), [(1, 0), (2, 0), (2, 1)])
def test_reading_is_indexing(tmp_path: Path, frames: slice | list[int], stride: int, first: int) -> None:
    values, _, _ = rows(7)
    part = values[[6, 0, 3]][:, frames][:, :, first::stride, first::stride]
    assert np.array_equal(write(tmp_path / "s").read([6, 0, 3], frames, stride, first), part)


def test_a_trajectory_knows_itself(tmp_path: Path) -> None:
    values, coefficients, static = rows(7)
    trajectory = write(tmp_path / "s").trajectory(4)
    assert np.array_equal(trajectory.values, values[4])
    assert trajectory.coefficients == {"a": coefficients[4, 0]}
    assert trajectory.static is not None
    assert np.array_equal(trajectory.static, static[4])


def test_views_are_read_only(tmp_path: Path) -> None:
    view = write(tmp_path / "s").view(0)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0.0


def test_equal_data_have_equal_fingerprints_whatever_the_batches(tmp_path: Path) -> None:
    first, second, other = write(tmp_path / "a"), write(tmp_path / "b", batch=5), write(tmp_path / "c", count=6)
    assert first.manifest.fingerprint == second.manifest.fingerprint != other.manifest.fingerprint


def test_many_shards_need_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ups_server.data.store.MAX_OPEN_SHARDS", 2)
    store = write(tmp_path / "s", rows_per_shard=1)
    assert np.array_equal(store.read([0, 3, 6, 0]), rows(7)[0][[0, 3, 6, 0]])
    assert len(store._open) == 2


@pytest.mark.parametrize("row", [-1, 7])
def test_rows_outside_are_refused(tmp_path: Path, row: int) -> None:
    with pytest.raises(UserError, match="no row"):
        write(tmp_path / "s").read([row])


def test_an_interrupted_store_does_not_open_and_resumes(tmp_path: Path) -> None:
    values, coefficients, static = rows(7)
    whole = write(tmp_path / "whole")
    path = tmp_path / "s"
    interrupted = StoreWriter(path, LAYOUT, {"seed": (1, 2)}, 3)
    interrupted.append(values[:5], coefficients[:5], static[:5])
    interrupted.__exit__(KeyboardInterrupt, None, None)
    with pytest.raises(UserError) as caught:
        Store.open(path)
    assert caught.value.code == "store_incomplete"
    with StoreWriter(path, LAYOUT, {"seed": (1, 2)}, 3) as writer:
        assert writer.written == 3
        writer.append(values[3:], coefficients[3:], static[3:])
    assert Store.open(path).manifest.fingerprint == whole.manifest.fingerprint


def test_a_store_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", LAYOUT, {"seed": 1})
    with pytest.raises(UserError) as caught:
        StoreWriter(tmp_path / "s", LAYOUT, {"seed": 2})
    assert caught.value.code == "store_exists"


def test_a_finished_store_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pytest.raises(UserError) as caught:
        StoreWriter(tmp_path / "s", LAYOUT)
    assert caught.value.code == "store_exists"


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    values, coefficients, static = rows(2)
    writer = StoreWriter(tmp_path / "s", LAYOUT)
    for bad in (
        (values[:, :2], coefficients, static),
        (values, coefficients[:1], static),
        (values, coefficients, None),
    ):
        with pytest.raises(UserError) as caught:
            writer.append(*bad)
        assert caught.value.code == "wrong_shape"


def _truncate(path: Path) -> None:
    file = path / "values-00001.f32"
    file.write_bytes(file.read_bytes()[:-4])


def _not_json(path: Path) -> None:
    (path / MANIFEST).write_text("{")


def _unknown_key(path: Path) -> None:
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"count"', '"amount"', 1))


def _version(path: Path) -> None:
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"format_version": 1', '"format_version": 9'))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_truncate, "store_corrupt"),
        (lambda path: (path / "coefficients-00000.f64").unlink(), "store_corrupt"),
        (_not_json, "store_corrupt"),
        (_unknown_key, "store_corrupt"),
        (_version, "store_version"),
    ],
)
def test_damaged_stores_do_not_open(tmp_path: Path, damage: object, code: str) -> None:
    write(tmp_path / "s")
    damage(tmp_path / "s")  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        Store.open(tmp_path / "s")
    assert caught.value.code == code


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Store.open(tmp_path / "nothing")
    assert caught.value.code == "not_found"


def test_single_frames_are_those_of_the_row(tmp_path: Path) -> None:
    values, _, _ = rows(7)
    store = write(tmp_path / "s")
    frames = list(store.frames(5, [2, 0, 2]))
    assert np.array_equal(frames, values[5][[2, 0, 2]])
    with pytest.raises(ValueError, match="read-only"):
        frames[0][0] = 0.0


def test_a_file_cut_while_it_is_read_is_no_data(tmp_path: Path) -> None:
    store = write(tmp_path / "s")
    next(store.frames(6, [0]))
    (tmp_path / "s" / "values-00002.f32").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        next(store.frames(6, [0]))
    assert caught.value.code == "store_corrupt"
