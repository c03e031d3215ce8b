"""What a training run is: data, model, two stages. One YAML file, checked before anything starts, and its variants."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ups_server.data.simulate import Draw
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Family, family


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FamilyData(Section):
    """The trajectories of one family and its share of a batch.

    Attributes:
        count: trajectories to generate, all splits together.
        frame_dt: spacing of the stored frames; default the family's.
        t_final: time of the last frame; default the family's.
        coefficients: how each coefficient is drawn per trajectory.
        kinds: shares of the kinds of initial states; default the family's usual one alone.
        boundary: [low, high] kind per axis; default the family's.
        single: solve in single precision, where the family's solver offers it.
        seed: of its data; default the run's.
        n: points per axis to train at; default the model's resolution.
        trajectories, windows: per training step, `windows` windows of each of `trajectories` trajectories.
        every: takes part in every so many-th step.
        early: exponent of the distribution of window starts, U(0, 1) ** early of the trajectory; above 1 prefers its
            beginning, where a decaying solution changes most.
        unroll: steps unrolled at most, whatever the stage says.
        coarse: share of the windows that begin from every other point, interpolated to the others: as states are given
            to a model that steps on a finer grid than they are known on (`KnownFamily.points`).
        validation: trajectories of the validation split that are scored.
    """

    count: int = Field(gt=0)
    resolution: int = 1024
    frame_dt: float | None = None
    t_final: float | None = None
    coefficients: dict[str, Draw] = Field(default_factory=dict)
    kinds: dict[str, float] = Field(default_factory=dict)
    boundary: tuple[tuple[BoundaryKind, BoundaryKind], ...] | None = None
    single: bool = False
    seed: int | None = None
    n: int | None = None
    trajectories: int = 8
    windows: int = 2
    every: int = Field(default=1, gt=0)
    early: float = Field(default=1.0, gt=0)
    unroll: int = Field(default=8, gt=0)
    coarse: float = Field(default=0.0, ge=0, le=1)
    validation: int = 32

    def equation(self, family_id: str) -> Family:
        """The family as its data are solved.

        Raises:
            UserError: ``unknown_family``, ``boundary_not_supported``, ``single_not_offered``.
        """
        entry = family(family_id)
        if self.boundary is not None:
            entry = entry.under(BoundaryCondition(self.boundary))
        return entry.in_single() if self.single else entry


class Stage(Section):
    """One stage of training.

    Attributes:
        steps: optimiser steps.
        minutes: instead of steps, wall-clock minutes of training steps, for comparisons at equal cost; validation is
            not counted, nor, on a CPU, the time that others have the core. The learning rate and the unrolling then
            follow the time that has passed, and the weights depend on the machine: such a run resumes, but is not
            reproduced bit by bit. Neither leaves the stage out.
        body: does the LLM body take part? It is trained where its learning rate is positive, else frozen.
        alignment: the adaptation method whose loss is added to the task loss, by name.
        alignment_options: of the method, see `align.Offered`.
        task_weight: of the task loss in a stage that aligns; 0 trains by the alignment alone.
        optimiser: "adamw", or "adam", whose weight decay is a part of the gradient.
        schedule: of the learning rates after warm-up, down to zero; "steps" falls to a fifth after each third,
            "constant" stays.
        warmup: steps in which they rise. warmup_share: instead, the part of the stage in which they do.
        noise: standard deviation of Gaussian noise on the input, in units of the family's increment.
        unroll: (fraction, steps) pairs: from that fraction of the stage on, so many steps are rolled out.
    """

    steps: int = Field(default=0, ge=0)
    minutes: float = Field(default=0.0, ge=0)
    learning_rate: float = 1e-3
    body_learning_rate: float = 5e-5
    body: bool = False
    alignment: str = "none"
    alignment_weight: float = 1.0
    alignment_options: dict[str, str] = Field(default_factory=dict)
    task_weight: float = Field(default=1.0, ge=0)
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "linear", "steps", "constant"] = "cosine"
    warmup: int = 200
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.98)
    noise: float = 0.0
    unroll: tuple[tuple[float, int], ...] = ((0.0, 1),)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps and self.minutes:
            raise ValueError("a stage is so many steps or so many minutes long, not both")
        return self


class TrainConfig(Section):
    """A training run.

    Attributes:
        preset: "ups-mini", "ups-paper", "fno" or "unet"; `model` overrides single fields of it.
        seed: of the initial weights, the batches and the data.
        data_seed: of the data, where several runs share them; default `seed`.
        random_body: a control: the language model's weights are random, but for its word embeddings.
        out: the model folder to write, relative to the configuration file.
        init: a model folder to start from, relative to the configuration file: its weights, and its statistics of
            families that are trained on here too; default the pretrained language model and a new operator.
        deltas: what is trained become deltas of its family, beside the weights of `init`, which stay as they are: of
            one family, without its language model. (`own` in older recipes.)
        language_model: folder of the Hugging Face encoder to start from; default the pinned package.
        reference_text: what alignments match states to, relative to the configuration file: a file of sentences, one a
            line, or a folder of such files, one a subject; default our own sentences (`align.text`).
        ema: decay of the averaged weights that are validated and shipped; 0 has no average.
        clip: norm that gradients are cut to; 0 does not.
        accumulate: parts that a batch is computed in, one after the other: the same step in less memory.
        keep: the model that validates best, or the last one that was validated, which is the end of a complete run.
    """

    name: str
    preset: str = "ups-mini"
    model: dict[str, object] = Field(default_factory=dict)
    seed: int = 0
    data_seed: int | None = None
    random_body: bool = False
    families: dict[str, FamilyData]
    stage1: Stage
    stage2: Stage
    reference_text: Path | None = None
    ema: float = Field(default=0.999, ge=0, lt=1)
    keep: Literal["best", "last"] = "best"
    clip: float = Field(default=1.0, ge=0)
    accumulate: int = Field(default=1, gt=0)
    validate_every: int = 1000
    save_minutes: float = 3.0
    init: Path | None = None
    deltas: bool = Field(default=False, validation_alias=AliasChoices("deltas", "own"))
    language_model: Path | None = None
    out: Path = Path(".")

    @model_validator(mode="after")
    def _deltas_of_one_family(self) -> Self:
        if self.deltas and (self.init is None or len(self.families) != 1 or self.stage1.body or self.stage2.body):
            raise ValueError("weights of a family's own are those of one family, beside `init`, its body left out")
        return self

    @model_validator(mode="after")
    def _in_parts(self) -> Self:
        if self.accumulate > 1 and any(stage.alignment != "none" for stage in (self.stage1, self.stage2)):
            raise ValueError("an alignment sees a batch at once: it cannot be computed in parts (`accumulate`)")
        return self

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Raises UserError ``invalid_config``."""
        try:
            config = cls.model_validate(yaml.safe_load(path.read_text()))
        except (ValidationError, yaml.YAMLError, OSError) as error:
            raise UserError("invalid_config", f"{path.name} is no training configuration: {error}") from error
        here = {
            name: (path.parent / value).resolve()
            for name in ("out", "init", "reference_text")
            if (value := getattr(config, name)) is not None
        }
        return config.model_copy(update=here)


def overridden(config: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """`config` with e.g. ``{"stage1.noise": 0.01, "model.n_modes": 24}`` in place of what it says.

    Raises:
        UserError: ``invalid_config``.
    """
    document = config.model_dump()
    for path, value in changes.items():
        _put(document, path, value)
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        raise UserError("invalid_config", f"{config.name} cannot be changed so: {error}", got=dict(changes)) from error


def parse_changes(entries: Sequence[str]) -> dict[str, object]:
    """`["model.n_modes=24"]` to `{"model.n_modes": 24}`; values are YAML.

    Raises:
        UserError: ``invalid_config``.
    """
    changes: dict[str, object] = {}
    for entry in entries:
        path, separator, text = entry.partition("=")
        if not separator or not path.strip():
            raise UserError("invalid_config", "a change is given as PATH=VALUE", got=entry, expected="model.n_modes=24")
        changes[path.strip()] = yaml.safe_load(text)
    return changes


def _put(document: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        inner = document.get(name)
        if not isinstance(inner, dict):
            raise UserError("invalid_config", "no such part of a training configuration", got=path)
        document = inner
    document[last] = value
