"""Messages survive the wire, from either end."""

import asyncio
import socket

import numpy as np
import pytest

from ups_server.engine import protocol
from ups_server.engine.engine import RolloutSpec
from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.solvers.solver import Problem

ARRAYS = [np.random.default_rng(0).random((2, 5, 3)).astype(np.float32), np.zeros((0, 4), dtype=np.float32)]


def test_blocking_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(protocol.encode({"op": "frame", "name": "ν"}, ARRAYS) + protocol.encode({"op": "end"}))
        message = protocol.receive(theirs)
        assert message is not None
        header, arrays = message
        assert header == {"op": "frame", "name": "ν"}
        for got, sent in zip(arrays, ARRAYS, strict=True):
            np.testing.assert_array_equal(got, sent)
        assert protocol.receive(theirs) == ({"op": "end"}, [])
        ours.close()
        assert protocol.receive(theirs) is None


def test_an_end_that_is_killed_before_it_has_read_everything_is_the_end() -> None:
    """Its kernel resets the connection: the engine process ends, instead of waiting for ever for nobody."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(protocol.encode({"op": "frame"}, ARRAYS))
        ours.close()
        assert protocol.receive(theirs) is None


def test_a_message_cut_short_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(protocol.encode({"op": "frame"}, ARRAYS)[:-1])
        ours.close()
        assert protocol.receive(theirs) is None


@pytest.mark.anyio
async def test_asynchronous_end() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(protocol.encode({"op": "frame"}, ARRAYS))
    reader.feed_eof()
    header, arrays = await protocol.read(reader)
    assert header == {"op": "frame"}
    np.testing.assert_array_equal(arrays[0], ARRAYS[0])
    with pytest.raises(asyncio.IncompleteReadError):
        await protocol.read(reader)


def test_arrays_that_are_not_contiguous() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(protocol.encode({}, [ARRAYS[0].transpose(2, 1, 0)]))
        message = protocol.receive(theirs)
        assert message is not None
        np.testing.assert_array_equal(message[1][0], ARRAYS[0].transpose(2, 1, 0))


def test_spec() -> None:
    burgers = family("burgers")
    grid = Grid((16,), burgers.extent, (0.25,))
    spec = RolloutSpec("numerical", Problem("burgers", {"nu": 0.1}, grid, burgers.boundary, 0.05), 7, 2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(protocol.encode(spec.as_json()))
        message = protocol.receive(theirs)
    assert message is not None
    assert RolloutSpec.from_json(message[0]) == spec


def test_problem() -> None:
    error = UserError("wrong_shape", "no", got=(1, 2), expected={"n": Grid((8,), ((0.0, 1.0),))}, hint="try")
    back = protocol.problem_from_json(protocol.problem_as_json(error))
    assert (back.code, back.message, back.got, back.hint) == ("wrong_shape", "no", [1, 2], "try")
    assert isinstance(back.expected, str)
