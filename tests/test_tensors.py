"""Nested lists of numbers, read in pieces: what the ordinary parser and numpy make of them, without their memory."""

import contextlib
import json
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import ups_server.tensors as reading
from ups_server.errors import UserError
from ups_server.tensors import find_lists, read_lists

SMALL_PIECE = 1000


def read(text: str) -> np.ndarray | None:
    """The array of a text that is nothing but lists; None where it is none."""
    body = text.encode()
    found = find_lists(body, 0)
    return None if found is None else read_lists(body, *found)


@pytest.fixture(autouse=True, scope="module", params=[SMALL_PIECE, reading.PIECE])
def piece(request: pytest.FixtureRequest) -> Iterator[None]:
    """Texts of one piece and of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", request.param)
        yield


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, array_shapes(max_dims=4, max_side=6), elements=st.floats(width=32)),
    st.sampled_from([None, 1]),
)
def test_arrays_come_back(values: np.ndarray, indent: int | None) -> None:
    found = read(json.dumps(values.astype(float).tolist(), indent=indent))
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


@settings(max_examples=400, deadline=None)
@given(array_shapes(max_dims=3, max_side=4), st.data())
def test_a_changed_text_is_read_as_by_json_or_refused(shape: tuple[int, ...], data: st.DataObject) -> None:
    text = json.dumps(np.arange(np.prod(shape)).reshape(shape).tolist())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(1, max(1, len(text) - 1)))
        put = data.draw(st.sampled_from(["", "[", "]", ",", "0", " ", "-"]))
        text = text[:place] + put + text[place + data.draw(st.integers(0, 1)) :]
    if not text.startswith("[") or not text.endswith("]"):
        return
    wanted: np.ndarray | None = None
    with contextlib.suppress(ValueError):
        wanted = np.array(json.loads(text))
    if wanted is not None and (wanted.size == 0 or wanted.dtype.kind not in "if"):
        wanted = None
    found = None
    with contextlib.suppress(UserError):
        found = read(text)
    assert (found is None) == (wanted is None), text
    if found is not None and wanted is not None:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[1, 2], [3]", "invalid_json"),
        ("[01]", "invalid_json"),
        ("[1.]", "invalid_json"),
        ("[1 2]", "invalid_json"),
        ("[[1, 2], [3]]", "wrong_shape"),
        ("[1, [2]]", "wrong_shape"),
        ("[[1], 2]", "wrong_shape"),
        ("[[[1], [2]], [[3]]]", "wrong_shape"),
        ("[" * 9 + "1" + "]" * 9, "wrong_shape"),
        ("[" + "[" * SMALL_PIECE + "]" * SMALL_PIECE + "]", "invalid_json"),
    ],
)
def test_what_is_no_array_is_refused(text: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert caught.value.code == code


def test_numbers_beyond_float32_are_infinite() -> None:
    found = read("[1e400, -1" + "0" * 60 + ", NaN, 1e39]")
    assert found is not None
    np.testing.assert_array_equal(found, [np.inf, -np.inf, np.nan, np.inf])


@pytest.mark.parametrize("text", ["[true]", '["1"]', "[null, 1]", "[{}]", "1", "["])
def test_what_holds_anything_else_is_left_to_the_ordinary_parser(text: str) -> None:
    assert read(text) is None


def test_memory_is_that_of_the_array() -> None:
    text = b"[" + b"0," * (2**20 - 1) + b"0]"
    tracemalloc.start()
    try:
        found = read_lists(text, 0, len(text))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.shape == (2**20,)
    assert peak < 2 * len(text) + 40 * reading.PIECE + 2**18, "the array, and a piece"
