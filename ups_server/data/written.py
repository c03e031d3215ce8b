"""An equation in symbols that a file belongs to: its family, and the coefficients of each trajectory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.pde.equation import EVOLUTION, Formula, recognise
from ups_server.pde.family import Family
from ups_server.pde.grammar import parse_equation


@dataclass(frozen=True)
class Written:
    """Attributes: coefficients: (N, K) in the order of the family's, on its box. forcing: f(x) at the file's own x."""

    family: Family
    coefficients: NDArray[np.float64]
    forcing: Formula | None


def written(text: str, named: Mapping[str, NDArray[np.float64]], count: int, length: float) -> Written:
    """The equations of N trajectories on a periodic box.

    An equation that has a family of its own is of that family where the box is as long as the family's.

    Args:
        named: (N,) values of every coefficient that the text names.
        length: of the box; the coefficients become those of a box of length one.

    Raises:
        UserError: those of `parse_equation` and `Equation.check`.
    """
    equations = [
        parse_equation(text, {name: float(values[row]) for name, values in named.items()}) for row in range(count)
    ]
    for equation in equations:
        equation.check()
    if len({equation.forcing for equation in equations}) > 1:
        raise UserError("invalid_equation", "the forcing of a file is the same for all of its trajectories")
    scaled = [equation.on_unit_box(length) for equation in equations]
    found = [recognise(equation) for equation in scaled]
    own = {each.family for each in found}
    entry = family(own.pop() if len(own) == 1 else EVOLUTION)
    rows = [each.coefficients if entry.id != EVOLUTION else dict(equation.coefficients)
            for each, equation in zip(found, scaled, strict=True)]  # fmt: skip
    table = np.array([[row.get(part.name, 0.0) for part in entry.coefficients] for row in rows])
    return Written(entry, table, equations[0].forcing)
