"""Solvers by name: those that need no training, trained models by their folder, or by the id of a registered one.

Other packages add solvers by entry points of the group `ups_server.solvers`: each names a class that follows `Solver`
and is made without arguments. The entry point's name is the id by which requests ask for it.
"""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

from ups_server.catalog import SOLVERS
from ups_server.errors import UserError
from ups_server.plugins import broken_plugin, load_plugin, plugins
from ups_server.solvers.solver import Solver


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
        if body != "trained":
            raise UserError("no_language_model", f"{folder.name} is not controlled without its language model yet")
        from ups_server.solvers.lead import load_lead_solver

        return load_lead_solver(folder, choose_device(device))
    from ups_server.solvers.neural import load_neural

    return load_neural(folder, choose_device(device), body)


def model_type(folder: Path) -> str:
    """What kind of model a folder holds, by its config."""
    try:
        return str(json.loads((folder / "config.json").read_text()).get("model_type", "ups"))
    except (OSError, ValueError, AttributeError):
        return "ups"


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
