"""Arrays that are read in part, in bounded memory, whatever their order, their file and its compression."""

import itertools
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ups_server.data.containers import matlab, open_container, saved_arrays
from ups_server.errors import UserError

MIB = 2**20


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (7,), (50, 2), (2, 60), (5, 0), (3, 4, 5), (2, 3, 4, 5)])
def test_every_part_is_what_indexing_gives(
    order: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_arrays, "PIECE", 200)
    values = np.asarray(np.random.default_rng(0).normal(size=shape), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "array.npy", values)
    np.savez(tmp_path / "plain.npz", array=values)
    np.savez_compressed(tmp_path / "packed.npz", array=values)
    choices: list[list[int | slice]]
    choices = [[0, n - 1, slice(None), slice(1, n, 2), slice(1, 2), slice(2, 2)] if n else [slice(None)] for n in shape]
    for path in tmp_path.iterdir():
        with closing(open_container(path)) as container:
            for index in itertools.product(*choices):
                found, expected = container.arrays["array"].read(index), values[index]
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_need_the_memory_of_parts(write: object, order: str, tmp_path: Path) -> None:
    values = np.zeros((64, 128, 1024), np.float64, order=order)  # type: ignore[call-overload]
    values[3, 5, 7] = 1.0
    assert callable(write)
    write(tmp_path / "a.npz", u=values)
    size = values.nbytes
    del values
    with closing(open_container(tmp_path / "a.npz")) as container:
        tracemalloc.start()
        try:
            assert container.arrays["u"].read((3, 5, slice(None)))[7] == 1.0
            assert container.arrays["u"].read((slice(None), 5, 7)).tolist() == [0.0] * 3 + [1.0] + [0.0] * 60
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * MIB < size / 10


def test_what_is_too_large_without_its_compression_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_arrays, "MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", small=np.zeros(125), large=np.zeros(126))
    with closing(open_container(tmp_path / "a.npz")) as container:
        assert container.arrays["small"].read((3,)) == 0
        with pytest.raises(UserError) as caught:
            container.arrays["large"].read((3,))
    assert caught.value.code == "unsupported_storage"
    assert "np.savez" in (caught.value.hint or "")


def test_a_large_variable_of_matlab_5_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matlab, "MOST_BYTES", 1000)
    savemat(tmp_path / "a.mat", {"small": np.zeros((5, 25)), "large": np.zeros((6, 21))})
    container = open_container(tmp_path / "a.mat")
    assert container.arrays["small"].read((3, 3)) == 0
    with pytest.raises(UserError) as caught:
        container.arrays["large"].read((3, 3))
    assert caught.value.code == "unsupported_storage"
    assert "-v7.3" in (caught.value.hint or "")


def test_an_entry_that_is_cut_short_or_damaged_is_said_so(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", u=np.random.default_rng(0).normal(size=4000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[2000] ^= 0xFF
    (tmp_path / "b.npz").write_bytes(content)
    with closing(open_container(tmp_path / "b.npz")) as container, pytest.raises(UserError) as caught:
        container.arrays["u"].read((slice(None),))
    assert caught.value.code == "unreadable"
