"""Rollouts that start from a trajectory of an uploaded file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.rows import place_of
from ups_server.errors import UserError
from ups_server.files.storage import FileStorage
from ups_server.pde import Family, Grid
from ups_server.rollout.equations import ResolvedRequest
from ups_server.specs import GridSpec, Placement

Arrays = Mapping[str, NDArray[Any]]


def from_file(
    request: ResolvedRequest, equation: Family, files: FileStorage | None, arrays: Arrays | None
) -> tuple[ResolvedRequest, Arrays]:
    """The request with the first state of a trajectory as its array, at its points.

    Coefficients and boundary condition are those of the file by default.

    Raises:
        UserError: ``unknown_file``, ``wrong_state``, ``unusable_row``, ``row_out_of_range``, ``family_mismatch``,
            ``ambiguous_initial_condition``, ``points_mismatch``, and those of `Family.named`.
    """
    initial = request.initial_condition
    if initial is None or initial.file is None or files is None:
        raise UserError(
            "unknown_file", "there are no uploaded files here", hint="start from values or a sample, or ask a service"
        )
    if arrays:
        raise UserError("ambiguous_initial_condition", "both the request and the binary body give an initial condition")
    with files.open_store(initial.file) as store:
        if store.family != request.family:
            raise UserError(
                "family_mismatch", f"{initial.file} holds another family", got=request.family, expected=store.family
            )
        row = place_of(store, initial.trajectory or 0, initial.file)
        found = {"initial_condition": store.read([row], [0])[0, 0]}
        static = store.read_static([row])
        if static is not None:
            found["static"] = static[0]
        own = dict(zip(store.coefficient_names, store.coefficients[row].tolist(), strict=True))
        grid = placed(request.grid, store.grid)
        boundary = request.boundary or store.boundary.sides
    coefficients = {**own, **equation.named(request.coefficients)}
    own_part = {"initial_condition": None, "coefficients": coefficients, "grid": grid, "boundary": boundary}
    return request.model_copy(update=own_part), found


def placed(asked: GridSpec, own: Grid) -> GridSpec:
    """What a request says of its grid, with the place of the points of a file.

    Raises:
        UserError: ``points_mismatch`` where the request says another place.
    """
    named = {None: own.offset, Placement.CELLS: (Grid.CENTRE,) * own.ndim, Placement.NODES: (0.0,) * own.ndim}
    wanted = asked.offset or named[asked.points]
    if len(wanted) != own.ndim or not np.allclose(wanted, own.offset, atol=1e-6):
        raise UserError("points_mismatch", "the file itself says where its points lie", got=wanted, expected=own.offset)
    return asked.model_copy(update={"points": None, "offset": own.offset})
