"""What an adaptation is: the trajectories it learns from and is judged by, what was asked for, and its training.

Imports no torch: a request is checked before anything is loaded.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from ups_server.align import ALIGNMENTS, alignment_share, aligns, alone, check_options, mixes
from ups_server.data.horizon import EndStates, Horizon
from ups_server.data.source import summary
from ups_server.data.splits import FewShotSplit, check_agreement, check_disjoint, few_shot_split, held_out_split
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.config import UPSConfig
from ups_server.pde import Family, Grid
from ups_server.specs import invalid_request
from ups_server.train.config import FamilyData, Section, Stage, TrainConfig
from ups_server.train.start import DEFAULT_TUNING, FRESH, Embedder, Start, check_start, fresh_config, with_tuning
from ups_server.train.tuning import TUNINGS

VALIDATIONS, FEWEST_VALIDATIONS = 20, 4
"""Validations in a training of full length, and in a short one."""
STEPS_BETWEEN = 10
"""Steps between two validations where there are enough: a validation takes as long as several of them."""
PATIENCE = 8
"""Validations in succession without a better one before training stops."""
RATE, LOW_RANK_RATE = 1e-3, 3e-4
"""Peak learning rates of weights, and of low-rank adapters, whose product with their scale moves weights faster."""
WARMUP_SHARE, FEWEST_WARMUP = 0.1, 5
"""Part of a stage, and steps at least, in which the rate rises: the first steps of a few trajectories do most harm."""
BODY_RATE = 5e-5
"""Peak learning rate of the language model's weights; what is added to them learns as the operator does."""
WINDOWS = 4
"""Of each of as many trajectories in a batch."""


@dataclass(frozen=True)
class FewShotData:
    """The trajectories of an adaptation.

    Attributes:
        training: the K trajectories are of this store; without a `validation` store, validation and test are too.
        file: what reports call it.
        validation: a quarter of its trajectories chooses the checkpoint, the others are the test.
        validation_file: what reports call that one.
    """

    training: Store
    file: str
    validation: Store | None = None
    validation_file: str | None = None

    @property
    def held_out(self) -> Store:
        """The store that rows of validation and test belong to."""
        return self.training if self.validation is None else self.validation

    @property
    def scored_file(self) -> str:
        """What scores call the data of the test."""
        return self.validation_file or self.file

    def to_last_states(self) -> Self:
        """The same trajectories, of each the first state and the last. Raises UserError ``too_few_frames``."""
        held_out = None if self.validation is None else EndStates.of(self.validation)
        return replace(self, training=EndStates.of(self.training), validation=held_out)

    def split(self, k: int, most_bytes: int | None = None) -> FewShotSplit:
        """Which rows are for training, validation and test; a file of its own for these shares none with the other.

        Args:
            most_bytes: of each file, to read for that.

        Raises:
            UserError: ``too_few_trajectories``, ``validation_file_mismatch``, ``validation_file_overlaps``.
        """
        if self.validation is None:
            return few_shot_split(len(self.training), k)
        check_agreement(self.training, self.validation)
        split = held_out_split(len(self.training), k, len(self.validation))
        check_disjoint(self.training, split.training, self.validation, most_bytes)
        return split

    def fingerprints(self) -> dict[str, str]:
        """Of the data, for what a model says of its origin."""
        found = {"data_fingerprint": self.training.manifest.fingerprint}
        if self.validation is not None:
            found["validation_fingerprint"] = self.validation.manifest.fingerprint
        return found

    def report(self, split: FewShotSplit) -> dict[str, Any]:
        """What a report says of the files: the numbers of the rows trained on, and of those left out, with reasons."""
        rows = self.training.row_numbers
        found: dict[str, Any] = {
            "training_rows": rows.numbers[split.training].tolist(),
            "left_out": summary(rows.left_out),
        }
        if self.validation is not None:
            found["validation_file"] = self.validation_file
            found["validation_left_out"] = summary(self.validation.row_numbers.left_out)
        return found


class AdaptationSettings(Section):
    """What is asked for; the rest follows from it.

    Attributes:
        start: what is adapted, see `train.start`; `from` in requests.
        embedder, body_layers: of a fresh start.
        alignment_options: see `align.Offered`.
        horizon: what is learned: a step, or to go from the first state to the last at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    n_trajectories: int = Field(ge=1)
    start: Start = Field(default="model", alias="from")
    embedder: Embedder | None = None
    body_layers: int | None = Field(default=None, ge=1, le=256)
    alignment: str = "none"
    alignment_options: dict[str, str] = Field(default_factory=dict)
    tuning: str
    horizon: Horizon = "step"
    max_steps: int | None = Field(default=None, ge=1, le=10**6)
    max_seconds: FiniteFloat | None = Field(default=None, gt=0)
    learning_rate: FiniteFloat | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @classmethod
    def asked(cls, **wanted: Any) -> Self:
        """What a user asks for. Raises UserError ``invalid_request``."""
        try:
            return cls.model_validate(wanted)
        except ValidationError as error:
            raise invalid_request(error) from None

    @model_validator(mode="before")
    @classmethod
    def _tuning_of_the_start(cls, document: Any) -> Any:
        return with_tuning(document)

    @property
    def fresh(self) -> bool:
        return self.start in FRESH

    def config_of(self, name: str, entry: Family, grid: Grid) -> UPSConfig:
        """The architecture of a fresh start for a family."""
        slots, static = [field.slot for field in entry.fields], len(entry.static_fields)
        return fresh_config(name, self.embedder or "fno", grid.n[0], entry.ndim, slots, static, self.body_layers)

    def document(self) -> dict[str, Any]:
        """As JSON; what was added later only where it is not the default, so that older ones compare equal."""
        later = {"start", "embedder", "body_layers", "alignment_options", "horizon"}
        return self.model_dump(mode="json", exclude=later) | self.model_dump(
            mode="json", include=later, exclude_defaults=True, by_alias=True
        )

    def check(self) -> None:
        """Raises UserError as `check_methods`, `check_options` and `check_start`."""
        check_methods(self.alignment, self.tuning)
        check_options(self.alignment, self.alignment_options)
        check_start(self.start, self.alignment, self.tuning, self.embedder, self.body_layers)

    @property
    def steps(self) -> int:
        """More trajectories allow more steps before they are known by heart."""
        return self.max_steps or min(4000, 400 + 20 * self.n_trajectories)

    @property
    def validate_every(self) -> int:
        return math.ceil(self.steps / min(VALIDATIONS, max(FEWEST_VALIDATIONS, self.steps // STEPS_BETWEEN)))


def check_points(grid: Grid) -> None:
    """Raises UserError ``points_not_supported`` where both ends of an axis are points."""
    if any(grid.closed):
        raise UserError(
            "points_not_supported",
            "models learn on cells of a bounded axis, whose ends are no points of it",
            got="nodes with both ends",
            hint="in the file's mapping, `onto` interpolates the values to cells",
        )


def check_methods(alignment: str, tuning: str) -> None:
    """Raises UserError ``alignment_not_offered`` or ``tuning_not_offered``; the registries decide."""
    for what, wanted, offered in (("alignment", alignment, ALIGNMENTS), ("tuning", tuning, TUNINGS)):
        if wanted not in offered:
            raise UserError(
                f"{what}_not_offered", f"this {what} is not installed here", got=wanted, expected=sorted(offered)
            )


def check_language_model(config: UPSConfig, alignment: str, tuning: str = DEFAULT_TUNING) -> None:
    """Raises UserError ``no_language_model`` where a method needs one that is not there, or does not take part."""
    if (aligns(alignment) and not config.has_language_model) or (mixes(alignment) and not config.reading.body):
        raise UserError(
            "no_language_model", f"{config.name} has no language model for {alignment}", hint="choose `none`"
        )
    if tuning == "prefix" and not config.reading.body:
        raise UserError(
            "no_language_model", f"{config.name} has no language model for a prefix", hint="choose another tuning"
        )


def recipe(settings: AdaptationSettings, name: str, family: str, validation: int, body: bool = True) -> TrainConfig:
    """Two stages, the first without steps where nothing is aligned in it; the body is trained in the second only.

    After a fresh start a step is not unrolled, as in the papers, nor is one to the last state; where the paper of the
    alignment has it so, stage 1 is by the alignment alone.

    Args:
        body: does the language model take part?
    """
    aligned = math.ceil(alignment_share(settings.alignment) * settings.steps)
    by_itself = settings.fresh and alone(settings.alignment)
    rate = settings.learning_rate or (LOW_RANK_RATE if settings.tuning == "lora" else RATE)
    body_rate = min(BODY_RATE, rate) if settings.tuning == "full" else rate
    tuned = settings.steps - aligned
    final = settings.horizon == "final"
    data = FamilyData(
        count=settings.n_trajectories + validation,
        trajectories=min(WINDOWS**2 if final else WINDOWS, settings.n_trajectories),
        windows=1 if final else WINDOWS,  # of one trajectory all would be the same
        validation=validation,
    )
    return TrainConfig(
        name=name,
        seed=settings.seed,
        families={family: data},
        stage1=Stage(
            steps=aligned,
            learning_rate=rate,
            body=body,
            body_learning_rate=0.0,
            alignment=settings.alignment if aligned else "none",
            alignment_options=settings.alignment_options if aligned else {},
            task_weight=0.0 if aligned and by_itself else 1.0,
            schedule="steps" if by_itself or settings.alignment == "otdd" else "cosine",
            warmup=warmup(aligned),
        ),
        stage2=Stage(
            steps=tuned,
            learning_rate=rate,
            body=body,
            body_learning_rate=body_rate if TUNINGS[settings.tuning]().body else 0.0,
            alignment=settings.alignment if mixes(settings.alignment) else "none",
            alignment_options=settings.alignment_options if mixes(settings.alignment) else {},
            warmup=warmup(tuned),
            unroll=((0.0, 1),) if settings.fresh or final else ((0.0, 1), (0.5, 2)),
        ),
        ema=0.99,
        validate_every=settings.validate_every,
    )


def warmup(steps: int) -> int:
    """Steps of a stage of so many in which the learning rate rises."""
    return max(FEWEST_WARMUP, round(WARMUP_SHARE * steps))
