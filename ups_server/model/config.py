"""What a checkpoint says about itself: the parts of its architecture, the families it was trained on, their statistics.

Imports no torch: the catalog and the API read it too.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ups_server.catalog import invalid_model, read_document
from ups_server.data.statistics import FamilyStatistics
from ups_server.errors import UserError

CONFIG_FILE = "config.json"


Count = Annotated[int, Field(ge=0, le=2**16)]
"""Far beyond any architecture: a number that is no size at all is refused before memory is asked for."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CoefficientRange(Frozen):
    """The range a coefficient was drawn from in training."""

    low: float
    high: float


class KnownFamily(Frozen):
    """A family as this checkpoint knows it. Everything the model needs, so that no code changes for a new family."""

    dt: float = Field(gt=0)
    name: str
    ndim: int = Field(ge=1, le=3)
    fields: tuple[str, ...]
    slots: tuple[int, ...]
    symbols: dict[str, str] = Field(default_factory=dict)
    """Symbol of each coefficient in the metadata text, in order."""
    static_fields: tuple[str, ...] = ()
    solenoidal: bool = False
    """Is the velocity, in the first slots, free of divergence from the first step on?"""
    parity: tuple[int, ...] = ()
    """The sign each field takes when all axes are mirrored, an exact symmetry; empty where it is none."""
    static_parity: tuple[int, ...] = ()
    odd: bool = False
    """Is -u a solution where u is?"""
    points: Count = 0
    """Points per axis on which a periodic box is stepped at least, where that is more than states were given on in
    training (`statistics.n`): a coarser state is interpolated to so many. The weights are trained on these."""
    coefficients: dict[str, CoefficientRange] = Field(default_factory=dict)
    statistics: FamilyStatistics

    @model_validator(mode="after")
    def _one_figure_a_field(self) -> Self:
        """What is stored of the fields is complete, so that no rollout fails on the way."""
        figures, fields = self.statistics, len(self.fields)
        lists = (figures.fields, figures.mean, figures.std, figures.increment_std, figures.min, figures.max)
        if {len(self.slots), *map(len, lists)} != {fields} or not fields:
            raise ValueError("fields, slots and their statistics differ in number")
        if {len(figures.static_mean), len(figures.static_std)} - {0, len(self.static_fields)}:
            raise ValueError("static fields and their statistics differ in number")
        if len(set(self.slots)) < fields or min(self.slots) < 0:
            raise ValueError("fields share a slot, or have none")
        if min(figures.increment_std) < 0 or min((*figures.std, *figures.static_std)) < 0 or figures.n < 1:
            raise ValueError("spreads and numbers of points are not negative")
        return self


class SuperspaceConfig(Frozen):
    """The state that all families share (`model.superspace`).

    Attributes:
        slots: physical quantities (N).
        max_dimensions: axes of a box at most (d_max).
        static_slots: fields that do not change in time (S).
    """

    slots: int = Field(default=4, ge=1, le=64)
    max_dimensions: int = Field(default=2, ge=1, le=3)
    static_slots: Count = 2


class ConditionerConfig(Frozen):
    """What an operator knows of its equation (`model.conditioning`).

    Attributes:
        size: width of the vector that conditions every Fourier layer.
        metadata: what is given of the equation: its text, its coefficients as numbers, both.
        levels: condition on the levels of fields that are measured relative to their mean.
    """

    size: Count = 128
    metadata: Literal["both", "text", "numbers", "none"] = "both"
    levels: bool = False


class EmbedderConfig(Frozen):
    """The Fourier layers, or those of a baseline (`model.embedder`).

    Attributes:
        hidden_channels: at every point. n_layers: how many.
        n_modes: Fourier modes per axis that a spectral layer keeps (positive ones).
        joint_modes: wave numbers below this are mixed over both axes jointly (0: along each axis only).
        local_width: points of the local convolution beside the spectral one (1 is the plain FNO).
        padding: cells added along a non-periodic axis, as a fraction of n.
        defect: feed, per slot, how far the mean over the grid has moved from the initial state's. Where the integral
            is conserved, this is the part of a front inside a cell, which the samples do not tell.
    """

    hidden_channels: Count = 48
    n_layers: int = Field(default=4, ge=0, le=256)
    n_modes: Count = 40
    joint_modes: Count = 0
    local_width: Count = 3
    padding: float = Field(default=0.25, ge=0, le=4)
    defect: bool = False


class ReadingConfig(Frozen):
    """How the language model reads a problem (`model.body`).

    Attributes:
        body: does the LLM body take part? (stage 1 of the conditioned operator runs without it).
        layers: of the LLM that are kept (0: all).
        tokens: state tokens that the body reads (paper: one per channel; else one per patch of the box).
        token_kind: of the conditioned operator: a token per patch of the box, or per FNO channel as in the paper.
        refresh: steps after which the problem is read again from the state reached; 0 reads once, 1 at every step.
        prefix: trained tokens in front of what the body reads, in each of its layers (`model.prefix`); 0 has none.
    """

    body: bool = True
    layers: Count = 0
    tokens: Count = 16
    token_kind: Literal["patch", "channel"] = "patch"
    refresh: int = Field(default=0, ge=0)
    prefix: int = Field(default=0, ge=0, le=256)


class StepConfig(Frozen):
    """What a step is made of (`model.transport`, `constraints`, `symmetry`).

    Attributes:
        propagator: the linear, exactly integrated part (constant-coefficient transport and diffusion).
        transport: carry the state along characteristics of velocities that are linear in the state, corrected by the
            features.
        projection: where the velocity of a family is free of divergence, take its gradient part away before and after
            a step.
        mean_correction: move the mean of every slot back towards the initial state's by a learned share at every step:
            whole where it is conserved, none where it is not.
        averaged: outside of training, average a step over a symmetry of the family, where it has one; training draws
            windows turned by it.
        increment: predict u(t + dt) - u(t) instead of u(t + dt).
        predictor: of the conditioned operator: linear at every point, or the paper's mean over the sequence.
    """

    propagator: bool = True
    transport: bool = False
    projection: bool = False
    mean_correction: bool = False
    averaged: bool = False
    increment: bool = True
    predictor: Literal["local", "mean_pool"] = "local"


PARTS: dict[str, type[Frozen]] = {
    "superspace": SuperspaceConfig,
    "conditioner": ConditionerConfig,
    "embedder": EmbedderConfig,
    "reading": ReadingConfig,
    "step": StepConfig,
}
PLACES = {name: (part, name) for part, fields in PARTS.items() for name in fields.model_fields} | {
    "condition_size": ("conditioner", "size"),
    "body_layers": ("reading", "layers"),
    "retention": ("step", "mean_correction"),
}
"""Where a setting is that is named without its part, as in recipes, and in the checkpoints of earlier versions."""


class UPSConfig(Frozen):
    """An architecture. The presets below are the points that matter; each field of a part is an axis of the ablation.

    Attributes:
        operator: "conditioned" (the body reads once, a conditioned FNO steps), "paper" and "patch" (the body
            in every step, with the embedder and head of UPS or of ORCA), or a baseline without a language model: "fno",
            "unet".
        resolution: points per axis it is trained at, unless data say otherwise.
    """

    model_type: Literal["ups"] = "ups"
    name: str = "ups-mini"
    version: int = 1
    operator: Literal["conditioned", "paper", "patch", "fno", "unet"] = "conditioned"
    resolution: Count = 128
    superspace: SuperspaceConfig = SuperspaceConfig()
    conditioner: ConditionerConfig = ConditionerConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    reading: ReadingConfig = ReadingConfig()
    step: StepConfig = StepConfig()
    families: dict[str, KnownFamily] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _settings_in_their_parts(cls, document: Any) -> Any:
        """`{"n_modes": 24}` is `{"embedder": {"n_modes": 24}}`."""
        if not isinstance(document, dict):
            return document
        whole = {name: value for name, value in document.items() if name not in PLACES}
        for name, value in document.items():
            if name in PLACES:
                part, setting = PLACES[name]
                given = whole.get(part, {})
                whole[part] = (given.model_dump() if isinstance(given, BaseModel) else dict(given)) | {setting: value}
        return whole

    @model_validator(mode="after")
    def _place_for_its_families(self) -> Self:
        for name, card in self.families.items():
            if not self.has_place_for(card):
                space = self.superspace
                raise ValueError(f"{name} has no place in {space.slots} slots and {space.max_dimensions} dimensions")
        return self

    def has_place_for(self, card: KnownFamily) -> bool:
        """Are there slots and axes for the fields of a family?"""
        return self._has_place(card.ndim, card.slots)

    def _has_place(self, ndim: int, slots: Sequence[int]) -> bool:
        return max(slots) < self.superspace.slots and ndim <= self.superspace.max_dimensions

    def check_place(self, name: str, ndim: int, slots: Sequence[int], static_fields: Sequence[str]) -> None:
        """Raises UserError ``superspace_too_small`` where a family does not fit."""
        space = self.superspace
        if not self._has_place(ndim, slots):
            raise UserError(
                "superspace_too_small",
                f"{name} does not fit this model's superspace",
                got=f"{ndim} dimensions, slots {tuple(slots)}",
                expected=f"at most {space.max_dimensions} dimensions, slots below {space.slots}",
            )
        if len(static_fields) > space.static_slots:
            raise UserError(
                "superspace_too_small",
                f"{name} has more static fields than this model's superspace",
                got=list(static_fields),
                expected=f"at most {space.static_slots}",
            )

    def changed(self, **settings: object) -> Self:
        """With other settings, named with or without their part: ``changed(n_modes=24, name="finer")``."""
        return self.with_settings(settings)

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """As `changed`; of a part, only some may be given. Raises ValidationError."""
        parts = {
            part: {**dict(getattr(self, part)), **given}
            for part in PARTS
            if isinstance(given := settings.get(part), Mapping)
        }
        return type(self).model_validate({**dict(self), **settings, **parts})

    @property
    def has_language_model(self) -> bool:
        """Is there a language model in it? The baselines have none."""
        return self.operator in ("conditioned", "paper", "patch")

    @property
    def through_body(self) -> bool:
        """Does every step lead through the language model?"""
        return self.operator in ("paper", "patch")

    @property
    def state_tokens(self) -> int:
        """l, the tokens that a state becomes."""
        if self.operator == "patch":
            return int(math.ceil(self.resolution / self.patch_stride) ** self.superspace.max_dimensions)
        channels = self.operator == "conditioned" and self.reading.token_kind == "channel"
        return self.embedder.hidden_channels if channels else self.reading.tokens

    @property
    def patch_stride(self) -> int:
        """The smallest stride for which a state has at most `reading.tokens` patches (ORCA, section 3.1)."""
        axes, most = self.superspace.max_dimensions, max(self.reading.tokens, 1)
        return next(k for k in range(1, self.resolution + 1) if math.ceil(self.resolution / k) ** axes <= most)

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(points per axis, dimensions) of the grids its families are trained on; without families, of any."""
        known = {(card.statistics.n, card.ndim) for card in self.families.values()}
        return sorted(known or {(self.resolution, ndim) for ndim in range(1, self.superspace.max_dimensions + 1)})

    def save(self, folder: Path) -> None:
        (folder / CONFIG_FILE).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "UPSConfig":
        """Raises UserError ``invalid_model``; ``not_this_kind`` for models of lead times, which are built otherwise."""
        file = folder / CONFIG_FILE
        document = read_document(file)
        if isinstance(document, dict) and document.get("model_type") == "ups-lead":
            raise UserError(
                "not_this_kind",
                f"{folder.name} is a model of lead times",
                got=folder.name,
                expected="a model that steps, such as ups-mini",
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise invalid_model(file, error) from error


UPS_MINI = UPSConfig(
    version=6,
    conditioner=ConditionerConfig(levels=True),
    embedder=EmbedderConfig(padding=0.125, joint_modes=8, defect=True),
    step=StepConfig(transport=True, projection=True, mean_correction=True, averaged=True),
)
"""The default: read once, step many."""

UPS_PAPER = UPSConfig(
    name="ups-paper",
    operator="paper",
    embedder=EmbedderConfig(hidden_channels=32, n_modes=12, local_width=1, padding=0.0),
    reading=ReadingConfig(tokens=32),
    step=StepConfig(propagator=False, increment=False),
)
"""The paper's: channel tokens, the body in every step, mean-pool predictor, 1-D broadcast to n x n (`UPSPaper`)."""

FNO = UPSConfig(
    name="fno",
    operator="fno",
    embedder=EmbedderConfig(hidden_channels=20, n_modes=12, local_width=1),
    reading=ReadingConfig(body=False),
    step=StepConfig(propagator=False, increment=False),
)
"""The FNO of PDEBench: width 20, 12 modes, 4 layers, the absolute next state."""

UNET = UPSConfig(
    name="unet",
    operator="unet",
    embedder=EmbedderConfig(hidden_channels=32, n_layers=5, padding=0.0),
    reading=ReadingConfig(body=False),
    step=StepConfig(propagator=False, increment=False),
)
"""A U-Net of PDEBench's size: 32 channels at the finest of 5 levels, doubled on the way down; absolute next state."""

PRESETS = {config.name: config for config in (UPS_MINI, UPS_PAPER, FNO, UNET)}
