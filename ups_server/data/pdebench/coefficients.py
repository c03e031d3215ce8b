"""The coefficients of every trajectory, from a file, its name and the user."""

from collections.abc import Iterable, Mapping

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data import hdf5
from ups_server.data.pdebench.card import Card
from ups_server.data.pdebench.identify import canonical, merge_coefficients, same_number
from ups_server.data.rows import coefficient_faults
from ups_server.errors import UserError
from ups_server.pde.family import Family

Stored = Mapping[str, NDArray[np.float64]]
"""Coefficient -> one number, or one a trajectory."""


def attribute_coefficients(equation: Family, card: Card, attributes: h5py.AttributeManager) -> Stored:
    """What the attributes of a file say. Raises UserError ``coefficient_mismatch``."""
    known = {alias.lower(): c.name for c in equation.coefficients for alias in (c.name, *c.aliases)}
    known |= {attribute.lower(): canonical(equation, name) for name, attribute in card.attributes.items()}
    found = ((name.lower(), column) for name, column in hdf5.numbers(attributes))
    return by_coefficient((known[name], column.ravel()) for name, column in found if name in known and column.size)


def by_coefficient(found: Iterable[tuple[str, NDArray[np.float64]]]) -> Stored:
    """One entry a coefficient: two spellings of it in one file must say the same.

    Raises:
        UserError: ``coefficient_mismatch``.
    """
    stored: dict[str, NDArray[np.float64]] = {}
    for name, column in found:
        before = stored.setdefault(name, column)
        if before.shape != column.shape or not np.allclose(before, column, rtol=1e-5, atol=0, equal_nan=True):
            raise UserError(
                "coefficient_mismatch",
                f"the file says {name} twice, in two spellings, and not the same",
                got=[before.ravel()[:4].tolist(), column.ravel()[:4].tolist()],
            )
    return stored


def coefficient_table(
    equation: Family, required: Iterable[str], count: int, stored: Stored, told: Mapping[str, Mapping[str, float]]
) -> NDArray[np.float64]:
    """(N, K): the file gives one number, or a list of one a trajectory; all voices must agree.

    A list may hold numbers that are not finite or outside the domain: those rows cannot be used.

    Args:
        required: coefficients that must be known; the others default.
        told: who else says so -> coefficients.

    Raises:
        UserError: ``wrong_attribute``, ``coefficient_mismatch``, and those of `merge_coefficients`.
    """
    lists = {name: column for name, column in stored.items() if column.size > 1}
    for name, column in lists.items():
        if len(column) != count:
            raise UserError(
                "wrong_attribute", f"{name} has not one value a trajectory", got=len(column), expected=count
            )
        _check_told(equation, name, column, told)
    voices = {
        who: {key: value for key, value in values.items() if canonical(equation, key, key) not in lists}
        for who, values in told.items()
    }
    # The first number of a list that can be used stands for the others.
    voices["the file"] = {name: _first_usable(equation, name, column) for name, column in stored.items()}
    merged = merge_coefficients(equation, required, voices)
    table = np.tile(np.array(list(merged.values())), (count, 1))
    for name, column in lists.items():
        table[:, list(merged).index(name)] = column
    return table


def _check_told(
    equation: Family, name: str, column: NDArray[np.float64], told: Mapping[str, Mapping[str, float]]
) -> None:
    """Who gives one number for what the file lists must mean each of them."""
    for who, values in told.items():
        for key, value in values.items():
            differs = [row for row, own in enumerate(column.tolist()) if not same_number(own, value)]
            if canonical(equation, key, key) == name and differs:
                raise UserError(
                    "coefficient_mismatch",
                    f"{who} and the file disagree about {name} of trajectory {differs[0]}",
                    got=value,
                    expected=float(column[differs[0]]),
                )


def _first_usable(equation: Family, name: str, column: NDArray[np.float64]) -> float:
    place = [coefficient.name for coefficient in equation.coefficients].index(name)
    table = np.tile([coefficient.default for coefficient in equation.coefficients], (len(column), 1))
    table[:, place] = column
    faults = coefficient_faults(equation, table)
    return float(next((column[row] for row in range(len(column)) if row not in faults), column[0]))
