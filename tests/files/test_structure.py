"""Where an LZF stream ends is found without decoding it."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.files.examined import examined
from tests.pdebench_files import FRAMES, plain, values_of
from ups_server.data.store import Store
from ups_server.files.structure import lzf_length


@given(values=st.binary(min_size=64, max_size=3000), repeats=st.integers(1, 40))
def test_the_length_of_what_h5py_compresses(values: bytes, repeats: int) -> None:
    content = np.frombuffer(values * repeats, np.uint8)
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("a", data=content, chunks=content.shape, compression="lzf")
        mask, raw = data.id.read_direct_chunk((0,))
    assert mask or lzf_length(raw) == content.size


@pytest.mark.parametrize("raw", [b"\x05ab", b"\x20\x00", b"\x00a\xe0", b"\x00a\x20\x01", b"\x00a\xe0\x01"])
def test_damaged_streams(raw: bytes) -> None:
    assert lzf_length(raw) is None


def test_a_length_by_hand() -> None:
    assert lzf_length(b"\x01ab" + b"\x20\x01" + b"\xe0\x03\x00") == 2 + 3 + (7 + 3 + 2)


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True}]
)
def test_a_file_compressed_with_lzf(options: dict[str, bool], tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4}, tensor=None)
    values = np.round(values_of("advection")[..., 0], 1)
    with h5py.File(path, "a") as file:
        file.create_dataset("tensor", data=values, chunks=(1, FRAMES, 16), compression="lzf", **options)
    found = examined(path, tmp_path, family="advection")
    assert found.result.problem is None, found.result.problem
    with Store.open(found.output / "store") as store:
        np.testing.assert_array_equal(store.read(range(3))[..., 0], values)
