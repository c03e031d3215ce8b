"""Loaded models under a memory budget: the least recently used leave first."""

import math
from collections.abc import Callable, Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ups_server.errors import UserError
from ups_server.solvers.solver import Solver

FLOAT = 4


class ModelCache:
    """The solvers an engine process holds.

    Args:
        load: makes a solver from what `RolloutSpec.model` says.
        budget: bytes all of them may take.
        size: estimated bytes of one, before it is loaded.
        changed: called with the name of each model that came (True) or left (False).
    """

    def __init__(
        self,
        load: Callable[[str], Solver],
        budget: int,
        changed: Callable[[str, bool], None],
        size: Callable[[str], int] | None = None,
    ) -> None:
        self._load, self._budget, self._changed = load, budget, changed
        self._size = size or stored_bytes
        self._solvers: dict[str, tuple[Solver, int]] = {}

    def get(self, model: str, in_use: Collection[str] = ()) -> Solver:
        """The solver, loaded where it is not; models `in_use` stay.

        Raises:
            UserError: ``model_too_large``; ``queue_full`` while models in use leave no room; what `load` raises.
        """
        if model not in self._solvers:
            size = self._size(model)
            self._make_room(model, size, in_use)
            self._solvers[model] = self._load(model), size
            self._changed(model, True)
        # The last in the dictionary is the one used last.
        self._solvers[model] = self._solvers.pop(model)
        return self._solvers[model][0]

    def _make_room(self, model: str, size: int, in_use: Collection[str]) -> None:
        if size > self._budget:
            raise UserError(
                "model_too_large",
                "the model takes more memory than the engine may give to models",
                got=size,
                expected=f"at most {self._budget} bytes",
                hint="raise UPS_MODELS_MEMORY_BYTES",
            )
        unused = [name for name in self._solvers if name not in in_use]
        while self._taken() + size > self._budget:
            if not unused:
                raise UserError(
                    "queue_full",
                    "the models in use leave no memory for another one",
                    got=Path(model).name,
                    expected=f"at most {self._budget} bytes of models",
                    hint="ask again later",
                )
            left = unused.pop(0)
            del self._solvers[left]
            self._changed(left, False)

    def _taken(self) -> int:
        return sum(size for _, size in self._solvers.values())


def stored_bytes(model: str) -> int:
    """Of a model folder: every number that is stored, in whatever precision, takes four bytes. Else none."""
    return sum(FLOAT * stored_numbers(file) for file in Path(model).glob("*.safetensors"))


def stored_numbers(file: Path) -> int:
    """Raises UserError ``not_a_model`` where the file is damaged."""
    try:
        with safe_open(file, framework="np") as handle:
            return sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError("not_a_model", f"the weights in {file.parent.name} cannot be read", got=str(error)) from error
