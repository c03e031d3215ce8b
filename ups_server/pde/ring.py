"""Fields on the cells of a box with a ring of points around them, one after the other in flat arrays.

A shift along an axis is then a slice, and every operation runs over contiguous memory: at 64^2, where operations cost
little more than their call, that halves the time of a step. Points of the ring lie before and after others in memory
that are no neighbours of theirs: whatever is computed there is meaningless and must be set again.
"""

import numpy as np

from ups_server.pde.family import Array


class Ring:
    """Layout of `count` fields on X x Y cells: flat arrays of count (X + 2) (Y + 2) points.

    Attributes:
        shape: (N, X + 2, Y + 2).
        core: the points that have neighbours in memory: all cells, and points of the ring between them.
    """

    def __init__(self, count: int, n: tuple[int, ...]) -> None:
        self.shape = (count, n[0] + 2, n[1] + 2)
        self._row = n[1] + 2
        self.core = slice(self._row + 1, count * (n[0] + 2) * self._row - self._row - 1)

    def zeros(self) -> Array:
        return np.zeros(int(np.prod(self.shape)))

    def box(self, field: Array) -> Array:
        """The field as (N, X + 2, Y + 2), in the same memory."""
        return field.reshape(self.shape)

    def near(self, field: Array, i: int = 0, j: int = 0) -> Array:
        """What stands `i` points on along x and `j` along y from each point of the core; |i|, |j| <= 1."""
        shift = i * self._row + j
        return field[self.core.start + shift : self.core.stop + shift]
