"""What a trained model is compared with: baselines and controls, each derived from the recipe of the model itself.

Same families, data, batches and training time; what differs is said by the name. All start from scratch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_server.errors import UserError
from ups_server.train.config import TrainConfig, overridden, parse_changes
from ups_server.train.run import RUNS, train_config

SUPERSPACE = ("resolution", "slots", "max_dimensions", "static_slots")
"""Fields of the recipe's model that another architecture takes over."""

STAGE_1_SHARE = 2 / 3
"""Of a budget of minutes, where the recipe counts both of its stages in steps."""

PAPER_STAGE_1_SHARE = 20 / 120
"""The paper's epochs of stage 1 among those of both stages."""

PAPER_WARMUP_SHARE = 5 / 100


@dataclass(frozen=True)
class Baseline:
    """One entry of `BASELINES`: what it is, and how it changes a recipe, given the minutes of both stages."""

    description: str
    change: Callable[[TrainConfig, "Length"], dict[str, Any]]


@dataclass(frozen=True)
class Length:
    """How long the whole training is: so many minutes, or, where there are none, so many steps."""

    minutes: float
    steps: int

    def part(self, share: float) -> dict[str, Any]:
        """The length of a stage with this share of the whole."""
        return {"minutes": share * self.minutes, "steps": 0 if self.minutes else round(share * self.steps)}


def train_baseline(
    name: str,
    recipe: Path,
    *,
    minutes: float | None = None,
    families: Sequence[str] = (),
    changes: Sequence[str] = (),
    fresh: bool = False,
    device: str | None = None,
    workers: int = 1,
) -> Path:
    """Trains a baseline or control on the data of `recipe`, and returns its model folder.

    Args:
        minutes: wall-clock budget; default as long as the recipe.
        families: only these of the recipe's.
        changes: further changes, such as ``model.n_modes=24``.

    Raises:
        UserError: what `train_recipe` and `baseline_config` raise.
    """
    config = baseline_config(TrainConfig.load(recipe), name, minutes, families)
    config = overridden(config, parse_changes(changes))
    return train_config(config, fresh=fresh, device=device, workers=workers)


def baseline_config(
    recipe: TrainConfig, name: str, minutes: float | None = None, families: Sequence[str] = ()
) -> TrainConfig:
    """The training of a baseline on the data of `recipe`; the model folder is written into the run's own.

    Args:
        minutes: wall-clock of both stages together; default as long as the recipe, in its steps or minutes.
        families: only these of the recipe's; default all (multi-task).

    Raises:
        UserError: ``unknown_baseline``, ``family_not_in_recipe``, ``invalid_config``.
    """
    if name not in BASELINES:
        raise UserError("unknown_baseline", "no such baseline", got=name, expected=sorted(BASELINES))
    unknown = [entry for entry in families if entry not in recipe.families]
    if unknown:
        raise UserError(
            "family_not_in_recipe", f"{recipe.name} has no such family", got=unknown, expected=sorted(recipe.families)
        )
    chosen = {entry: data for entry, data in recipe.families.items() if not families or entry in families}
    run_name = "-".join([recipe.name, name, *families])
    stages = (recipe.stage1, recipe.stage2)
    if minutes is None and len({bool(stage.minutes) for stage in stages if stage.minutes or stage.steps}) > 1:
        raise UserError("invalid_config", "one stage is counted in steps, the other in minutes", hint="give --minutes")
    total = sum(stage.minutes for stage in stages) if minutes is None else minutes
    length = Length(total, sum(stage.steps for stage in stages))
    document = recipe.model_dump() | {
        "name": run_name,
        "families": {entry: data.model_dump() for entry, data in chosen.items()},
        "data_seed": recipe.seed if recipe.data_seed is None else recipe.data_seed,
        "init": None,
        "out": RUNS / run_name / "model",
    }
    return TrainConfig.model_validate(document | BASELINES[name].change(recipe, length))


def _without_language_model(preset: str) -> Callable[[TrainConfig, Length], dict[str, Any]]:
    """One stage, with the noise, unrolling and learning rates of the recipe's first."""

    def change(recipe: TrainConfig, length: Length) -> dict[str, Any]:
        stage = recipe.stage1.model_dump() | length.part(1.0) | {"alignment": "none", "body": False}
        return {"preset": preset, "model": _superspace(recipe), "stage1": stage, "stage2": {}}

    return change


def _paper(recipe: TrainConfig, length: Length) -> dict[str, Any]:
    """One-step training in two stages with the paper's settings, as its reference code has them: Adam, no averaging and
    no clipping; the first 5 of the 100 epochs of stage 2 warm up, then the rate falls linearly.
    """
    shared: dict[str, Any] = {"body": True, "optimiser": "adam", "betas": (0.9, 0.98), "weight_decay": 1e-5}
    stage1 = {"learning_rate": 5e-4, "body_learning_rate": 0.0, "alignment": "mmd", "schedule": "constant", "warmup": 0}
    stage2 = {"learning_rate": 5e-5, "body_learning_rate": 5e-5, "schedule": "linear"}
    stage2 |= {"warmup_share": PAPER_WARMUP_SHARE}
    stage1, stage2 = shared | stage1, shared | stage2
    return {
        "preset": "ups-paper",
        "ema": 0.0,
        "clip": 0.0,
        "model": _superspace(recipe),
        "stage1": stage1 | length.part(PAPER_STAGE_1_SHARE),
        "stage2": stage2 | length.part(1 - PAPER_STAGE_1_SHARE),
    }


def _control(
    *, model: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, run: dict[str, Any] | None = None
) -> Callable[[TrainConfig, Length], dict[str, Any]]:
    """The recipe itself with these changes of its model, of both stages and of the run."""

    def change(recipe: TrainConfig, length: Length) -> dict[str, Any]:
        first, second = recipe.stage1.model_dump(), recipe.stage2.model_dump()
        if length.minutes:
            share = _stage_1_share(recipe)
            first, second = first | length.part(share), second | length.part(1 - share)
        return {
            "model": {**recipe.model, "name": recipe.name, **(model or {})},
            "stage1": first | (stage or {}),
            "stage2": second | (stage or {}),
            **(run or {}),
        }

    return change


def _superspace(recipe: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in recipe.model.items() if name in SUPERSPACE}


def _stage_1_share(recipe: TrainConfig) -> float:
    """Of a budget: as the recipe divides its own minutes; all to one stage where it has no other."""
    first, second = recipe.stage1, recipe.stage2
    if first.minutes or second.minutes:
        return first.minutes / (first.minutes + second.minutes)
    if not (first.steps and second.steps):
        return 1.0 if first.steps else 0.0
    return STAGE_1_SHARE


BASELINES: dict[str, Baseline] = {
    "fno": Baseline("neuraloperator's FNO, PDEBench's size", _without_language_model("fno")),
    "unet": Baseline("a convolutional U-Net of PDEBench's size", _without_language_model("unet")),
    "ups-paper": Baseline("the published architecture and training, with the same language model", _paper),
    "from-scratch": Baseline("the recipe itself, without the weights that it starts from", _control()),
    "no-body": Baseline(
        "the recipe without its language model and without alignment",
        _control(model={"body": False}, stage={"body": False, "alignment": "none"}),
    ),
    "random-body": Baseline(
        "the recipe around a language model of random weights", _control(run={"random_body": True})
    ),
    "no-metadata": Baseline(
        "the recipe with the equation's name and coefficients withheld, as text and as numbers",
        _control(model={"metadata": "none"}),
    ),
    "no-alignment": Baseline("the recipe without the alignment of stage 1", _control(stage={"alignment": "none"})),
}
"""Baselines and controls by name."""
