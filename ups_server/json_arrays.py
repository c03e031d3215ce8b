"""Nested lists of numbers in JSON, read into an array a piece at a time.

A list of Python numbers takes ten times the bytes of its text, so that a body of some megabytes would take the memory
of the process. Here the text is cut into pieces of `PIECE` bytes, behind commas. A piece without its brackets is a flat
list, which the ordinary JSON parser reads; the brackets alone give the shape. Imports no torch.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from ups_server.errors import UserError

PIECE = 2**18
"""Bytes of text read at a time."""
MAX_AXES = 8
NUMBERS = b"0123456789+-.eEinftyINaT"
"""Characters of numbers, `Infinity` and `NaN` included; `true` and `null` have others."""
BLANK = b" \t\r\n"
_LISTS = re.compile(rb"\[[\[\],0-9+\-.eEinftyINa \t\r\n]*")
_OPEN, _CLOSE, _COMMA = b"[],"
_NUMBER = 0
_CLASSES = np.full(256, _NUMBER, np.uint8)
_CLASSES[[_OPEN, _CLOSE, _COMMA]] = 1, 2, 3
_FOLLOWS = np.array(
    # number, [, ], ,
    [
        [True, False, True, True],  # after a number
        [True, True, False, False],  # after [
        [False, False, True, True],  # after ]
        [True, True, False, False],  # after ,
    ]
)


def find_lists(text: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """(start, end) of the nested lists of numbers that begin at `start`; None where they hold anything else."""
    found = _LISTS.match(text, start)
    if found is None:
        return None
    # Behind the lists the match may run on to the next comma, and no further: a name in quotes follows that.
    end = text.rfind(b"]", start, found.end()) + 1
    between = text[end : found.end()].strip(BLANK)
    whole = end > start and between in (b"", b",") and text.count(b"[", start, end) == text.count(b"]", start, end)
    return (start, end) if whole else None


def count_numbers(text: bytes | bytearray, start: int, end: int) -> int:
    """Numbers in the lists between two places, if they are well formed."""
    return text.count(b",", start, end) + 1


def read_lists(text: bytes | bytearray, start: int, end: int) -> NDArray[np.float32]:
    """The array of the lists between two places.

    Raises:
        UserError: ``invalid_json``; ``wrong_shape`` where lists of one level are not equally long.
    """
    values = np.empty(count_numbers(text, start, end), np.float32)
    structure = _Structure()
    place = done = 0
    while start < end:
        stop = end if end - start <= PIECE else text.rfind(b",", start, start + PIECE) + 1
        if stop <= start:
            raise _invalid("no comma in 262144 characters")
        piece = bytes(text[start:stop])
        structure.take(piece)
        numbers = _numbers(piece)
        done = place + len(numbers)
        if done > len(values):
            raise _invalid("a comma too many")
        with np.errstate(over="ignore"):
            values[place:done] = numbers
        start, place = stop, done
    return values[:done].reshape(structure.shape(done))


def _numbers(piece: bytes) -> NDArray[np.float64]:
    """The numbers of a piece, brackets left out."""
    flat = piece.translate(None, b"[]").strip(BLANK)
    try:
        found = pydantic_core.from_json(b"[" + flat.removesuffix(b",") + b"]")
    except ValueError as error:
        raise _invalid(str(error)) from None
    try:
        return np.array(found, np.float64)
    except OverflowError:  # integers beyond float64 are beyond float32 as well
        return np.array([float(str(number)) for number in found])


@dataclass
class _Structure:
    """What the brackets said so far.

    Attributes:
        lengths: how many numbers the innermost lists hold, the lists around them, ..., as far as one has ended.
        depth: of the lists that are open; `axes` of every number.
        numbers: how many there were; `closed`: brackets since the last one.
    """

    lengths: list[int] = field(default_factory=list)
    depth: int = 0
    axes: int = 0
    numbers: int = 0
    last: int = 3

    def take(self, piece: bytes) -> None:
        """The next piece, which ends behind a comma, or with the last bracket."""
        classes = _CLASSES[np.frombuffer(piece.translate(None, BLANK), np.uint8)]
        before = np.concatenate([[self.last], classes[:-1]])
        if not _FOLLOWS[before, classes].all():
            raise _invalid("brackets and commas do not fit together")
        self.last = int(classes[-1])
        depths = self.depth + np.cumsum((classes == 1).astype(np.int32) - (classes == 2), dtype=np.int32)
        self.depth = int(depths[-1])
        commas = np.flatnonzero(classes == 3)
        if not depths[commas].all():
            raise _invalid("the lists end before their last number")
        first_digits = (classes == _NUMBER) & (before != _NUMBER)
        found = depths[first_digits]
        if len(found) == 0:
            return
        self.axes = self.axes or int(found[0])
        if self.axes > MAX_AXES or (found != self.axes).any():
            raise _uneven()
        # Behind number k, before the comma: how many lists ended there.
        ended = self.axes - depths[commas]
        self._check(ended, self.numbers + 1 + np.arange(len(ended)))
        self.numbers += len(commas)

    def _check(self, ended: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """Lists of every level end at multiples of one length. After `counts` numbers so many lists ended."""
        for level in range(self.axes - 1):
            ends = ended > level
            if level == len(self.lengths):
                if not ends.any():
                    return
                self.lengths.append(int(counts[np.argmax(ends)]))
            if (ends != (counts % self.lengths[level] == 0)).any():
                raise _uneven()

    def shape(self, count: int) -> tuple[int, ...]:
        """Of all lists, which hold `count` numbers."""
        if self.depth != 0 or self.last != 2 or count == 0:
            raise _invalid("the lists do not end")
        lengths = [1, *self.lengths, *[count] * (self.axes - len(self.lengths))]
        pairs = list(zip(lengths[1:], lengths[:-1], strict=True))
        if any(longer % shorter for longer, shorter in pairs):
            raise _uneven()
        return tuple(longer // shorter for longer, shorter in reversed(pairs))


def _invalid(reason: str) -> UserError:
    return UserError("invalid_json", "the request is not valid JSON", got=reason)


def _uneven() -> UserError:
    return UserError("wrong_shape", "the lists of the initial condition are not equally long", expected="a full array")
