"""Loading a solver by the name of a built-in one, a folder or the id of a registered model."""

import json
from pathlib import Path
from typing import Literal

from ups_server.errors import UserError
from ups_server.solvers.solver import Solver


def load(model: str | Path, device: str = "auto", body: Literal["trained", "none", "random"] = "trained") -> Solver:
    """The solver of a model: `persistence`, `numerical`, a folder, or the id of a registered model.

    Args:
        device: "auto", "cpu" or "cuda"; the two built-in solvers always run on the CPU.
        body: as a control, the model without its language model ("none") or with a random one ("random").

    Raises:
        UserError: ``unknown_model``, ``invalid_model``, ``no_language_model``.
    """
    from ups_server.solvers.classical import BUILTIN

    if isinstance(model, str) and model in BUILTIN:
        if body != "trained":
            raise UserError("no_language_model", f"{model} has no language model")
        return BUILTIN[model]()
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
