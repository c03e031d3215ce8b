"""Plans for tests: a catalog with one model that knows Burgers, and the built-in solvers."""

import json
import math
from pathlib import Path
from typing import Any

from ups_server.catalog import Catalog
from ups_server.engine.local import InProcess
from ups_server.pde import family
from ups_server.rollout.observation import Computed, Observation
from ups_server.rollout.plan import Plan, plan
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames
from ups_server.specs import RolloutRequest


def write_card(data_dir: Path, **statistics: Any) -> Path:
    """The folder of `small`, which nobody runs: it has no weights.

    Burgers with nu in [0.001, 0.5], 32 points, dt 0.05; diffusion-sorption and advection with nothing said.
    """
    folder = data_dir / "models" / "small"
    folder.mkdir(parents=True, exist_ok=True)
    seen = {"n": 32, "min": [-3.0], "max": [3.0], "mean": [0.0], "std": [0.5], **statistics}
    burgers = {"dt": 0.05, "coefficients": {"nu": {"low": 0.001, "high": 0.5}}, "statistics": seen}
    others = {name: {"dt": family(name).dt} for name in ("diffusion_sorption", "advection")}
    document = {"name": "small", "resolution": 32, "families": {"burgers": burgers, **others}}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def planned(data_dir: Path, catalog: Catalog | None = None, **changes: Any) -> Plan:
    """By the models of the data folder alone, or those of a catalog."""
    document = {
        "model": "small",
        "family": "burgers",
        "initial_condition": {"sample": {"seed": 3}},
        "n_steps": 3,
        "diagnostics": True,
        **changes,
    }
    known = Catalog(data_dir, data_dir / "none") if catalog is None else catalog
    return plan(RolloutRequest.from_json(json.dumps(document)), known, Settings())


def observed(todo: Plan) -> tuple[list[Frames], Observation]:
    """The engine's states of every frame, computed in this process, and what is known at the end."""
    observation = Observation(todo, InProcess("cpu"), math.inf)
    return [event.values for event in observation.run() if isinstance(event, Computed)], observation
