"""What making a plan of a request takes, found from shapes, before anything is drawn or read. Imports no torch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.catalog import Catalog
from ups_server.errors import UserError
from ups_server.files.storage import FileStorage
from ups_server.rollout.equations import resolve
from ups_server.rollout.plan import equation_of, grid_of
from ups_server.settings import Settings
from ups_server.specs import RolloutRequest

MADE_BYTES = 64
"""Most memory a plan takes per value of a state that is perturbed or interpolated."""


def planning_bytes(
    wanted: RolloutRequest,
    catalog: Catalog,
    settings: Settings,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    files: FileStorage | None = None,
) -> int:
    """Most bytes of memory that `plan` takes with these arguments, found from shapes alone.

    Raises:
        UserError: some of what `plan` does.
    """
    request, _ = resolve(wanted)
    card = catalog.model(request.model or settings.default_model)
    equation = equation_of(request, card)
    initial, given = request.initial_condition, (arrays or {}).get("initial_condition")
    # As float32, and where it is finite; once more for a box that is rescaled.
    each, count = 5 + 4 * (request.grid.extent is not None), 1
    if given is not None:
        values, each = given.size, each + (given.itemsize if given.dtype != np.float32 else 0)
    elif initial is not None and initial.values is not None:
        values = 0  # lists that have been read already
    elif initial is not None and initial.file is not None and files is not None:
        with files.open_store(initial.file) as store:
            values = math.prod(store.grid.n) * len(store.fields)
    else:
        count = (initial and initial.sample and initial.sample.count) or 1
        values = count * math.prod(grid_of(request, equation, card, None).n) * len(equation.fields)
        each = equation.sample_bytes
    finest = count * math.prod(request.output_resolution or (0,)) * len(equation.fields)
    members = 0 if request.ensemble is None else request.ensemble.members + 1
    return values * (each + members * MADE_BYTES) + finest * (members + 1) * MADE_BYTES


def check_planning(size: int, settings: Settings) -> None:
    if size > settings.bodies_memory_bytes:
        raise UserError(
            "too_much_memory",
            "making the initial states of this rollout takes more memory than this service gives to requests",
            got=size,
            expected=f"at most {settings.bodies_memory_bytes} bytes",
            hint="ask for fewer states at a time, or a coarser grid",
        )
