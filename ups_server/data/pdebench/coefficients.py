"""The coefficients of every trajectory, from the attributes of a file, its name and the user."""

from collections.abc import Iterable, Mapping

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data import hdf5
from ups_server.data.pdebench.card import Card
from ups_server.data.pdebench.identify import canonical, merge_coefficients
from ups_server.errors import UserError
from ups_server.pde.family import Family


def coefficient_table(
    equation: Family,
    card: Card,
    required: Iterable[str],
    count: int,
    attributes: h5py.AttributeManager,
    told: Mapping[str, Mapping[str, float]],
) -> NDArray[np.float64]:
    """(N, K): attributes are one number, or a list of one a trajectory; all voices must agree.

    Args:
        required: coefficients without a default.
        told: who else says so -> coefficients.

    Raises:
        UserError: ``wrong_attribute`` and those of `merge_coefficients`.
    """
    known = {alias.lower(): c.name for c in equation.coefficients for alias in (c.name, *c.aliases)}
    known |= {attribute.lower(): canonical(equation, name) for name, attribute in card.attributes.items()}
    found = {known[key]: v.ravel() for key, v in hdf5.numbers(attributes).items() if key in known and v.size}
    lists = {name: value for name, value in found.items() if value.size > 1}
    voices = {
        who: {key: value for key, value in values.items() if not lists or canonical(equation, key) not in lists}
        for who, values in told.items()
    }
    # The first row stands for the others in the comparison.
    voices["the attributes"] = {name: float(value[0]) for name, value in found.items()}
    merged = merge_coefficients(equation, required, voices)
    table = np.tile(np.array(list(merged.values())), (count, 1))
    for name, column in lists.items():
        if len(column) != count:
            raise UserError(
                "wrong_attribute", f"{name} has not one value a trajectory", got=len(column), expected=count
            )
        for value in (column.min(), column.max()):
            equation.complete({name: float(value)})
        table[:, list(merged).index(name)] = column
    return table
