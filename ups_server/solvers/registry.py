"""Solvers by name: those that need no training, trained models by their folder, or by the id of a registered one.

Other packages add solvers by entry points of the group `ups_server.solvers`: each names a class that follows `Solver`
and is made without arguments. The entry point's name is the id by which requests ask for it.

An engine process keeps those it has loaded in a `ModelCache`.
"""

import json
import math
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from ups_server.catalog import SOLVERS
from ups_server.errors import UserError
from ups_server.plugins import broken_plugin, load_plugin, plugins
from ups_server.solvers.solver import Solver

if TYPE_CHECKING:
    from ups_server.model.config import UPSConfig
    from ups_server.model.lead_config import LeadConfig


def untrained_solvers() -> dict[str, Callable[[], Solver]]:
    """What makes each solver that needs no trained model, by its id."""
    from ups_server.solvers.classical import BUILTIN

    def maker(entry: EntryPoint) -> Callable[[], Solver]:
        return lambda: _made(entry)

    return BUILTIN | {name: maker(entry) for name, entry in plugins(SOLVERS, frozenset(BUILTIN)).items()}


def _made(entry: EntryPoint) -> Solver:
    """Raises UserError ``broken_plugin``."""
    found = load_plugin(entry)
    if not all(hasattr(found, name) for name in ("dt", "session", "one_step")):
        raise broken_plugin(entry, repr(found), "a class with what ups_server.solvers.solver.Solver has")
    try:
        made: Solver = found()
    except Exception as error:
        raise broken_plugin(entry, f"{type(error).__name__}: {error}") from error
    return made


def load(model: str | Path, device: str = "auto", body: Literal["trained", "none", "random"] = "trained") -> Solver:
    """The solver of a model: `persistence`, `numerical`, one of a plug-in, a folder, or a registered id.

    Args:
        device: "auto", "cpu" or "cuda"; solvers that are not trained choose their own.
        body: as a control, the model without its language model ("none") or with a random one ("random").

    Raises:
        UserError: ``unknown_model``, ``invalid_model``, ``no_language_model``, ``broken_plugin``.
    """
    if isinstance(model, str) and (make := untrained_solvers().get(model)) is not None:
        if body != "trained":
            raise UserError("no_language_model", f"{model} has no language model")
        return make()
    folder = model_folder(model)
    if model_type(folder) == "ups-lead":
        from ups_server.solvers.lead import load_lead_solver

        return load_lead_solver(folder, choose_device(device), body)
    from ups_server.solvers.neural import load_neural

    return load_neural(folder, choose_device(device), body)


def model_type(folder: Path) -> str:
    """What kind of model a folder holds, by its config."""
    try:
        return str(json.loads((folder / "config.json").read_text()).get("model_type", "ups"))
    except (OSError, ValueError, AttributeError):
        return "ups"


def check_learned(folder: Path) -> "UPSConfig | LeadConfig":
    """The architecture of the model in a folder. Raises UserError ``not_a_model``. Imports no torch."""
    from ups_server.model.config import UPSConfig
    from ups_server.model.lead_config import LeadConfig

    return LeadConfig.load(folder) if model_type(folder) == "ups-lead" else UPSConfig.load(folder)


def choose_device(wanted: str) -> str:
    """`auto` becomes CUDA where there is one. Imports torch."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def model_folder(model: str | Path) -> Path:
    """The folder of a trained model: itself, or that of a registered id.

    Raises:
        UserError: ``unknown_model``, ``invalid_model``.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return folder
    if isinstance(model, Path) or len(folder.parts) > 1:
        raise UserError(
            "unknown_model", "there is no model in this folder", got=str(model), expected="a folder with config.json"
        )
    from ups_server.catalog import Catalog
    from ups_server.settings import Settings

    return Path(Catalog(Settings.given().data_dir).model(model).source)


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
