"""What an adaptation of a model of lead times learns from: checked before anything is loaded. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from ups_server.data.store import Store
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.model.config import CoefficientRange
from ups_server.model.lead_config import LatentConfig, LeadCard, LeadConfig
from ups_server.pde import Grid, family
from ups_server.train.few_shot import AdaptationSettings, check_points

TUNINGS_OF_LEAD_TIMES = ("operator", "full")
"""All weights: the language model is not among them, since its features are kept in its place."""
SLACK = 1 + 1e-9


@dataclass(frozen=True)
class LeadData:
    """How the trajectories of a store are learned.

    Attributes:
        card: the family as the tuned model will know it.
        shape: of the operator.
        n: points along the first axis. dt: the step that is scored.
    """

    card: LeadCard
    shape: LatentConfig
    n: int
    dt: float


def check_lead(config: LeadConfig, settings: AdaptationSettings, store: Store) -> LeadData:
    """What is asked for fits model and trajectories.

    Raises:
        UserError: ``family_not_in_model``, ``family_mismatch``, ``alignment_not_offered``, ``tuning_not_offered``,
            ``horizon_not_offered``, ``points_not_supported``, ``dt_mismatch``, ``resolution_not_supported``.
    """
    card = config.families.get(store.family)
    if card is None:
        raise UserError(
            "family_not_in_model",
            f"{config.name} knows no {store.family}, and a model of lead times is tuned to what it knows",
            got=store.family,
            expected=sorted(config.families),
            hint="adapt ups-mini, which learns new families",
        )
    if (card.fields, card.static_fields) != (store.fields, store.static_fields):
        raise UserError(
            "family_mismatch",
            f"{config.name} was trained on other fields of {store.family}",
            got=[*store.fields, *store.static_fields],
            expected=[*card.fields, *card.static_fields],
        )
    check_lead_methods(config, settings)
    check_points(store.grid)
    shape = config.line if card.ndim == 1 else config.plane
    if shape is None:
        raise TypeError("a model has an operator of every family's dimensions")
    return LeadData(with_coefficients(card, store), shape, points(card, shape, store.grid), step(config, card, store))


def check_lead_methods(config: LeadConfig, settings: AdaptationSettings) -> None:
    """Raises UserError ``alignment_not_offered``, ``tuning_not_offered``, ``horizon_not_offered``."""
    for what, wanted, offered in (
        ("alignment", settings.alignment, ("none",)),
        ("tuning", settings.tuning, TUNINGS_OF_LEAD_TIMES),
    ):
        if wanted not in offered:
            raise UserError(
                f"{what}_not_offered",
                f"{config.name} is a model of lead times, which keeps the features of the language model in its place",
                got=wanted,
                expected=list(offered),
            )
    if settings.horizon != "step":
        raise UserError(
            "horizon_not_offered",
            f"{config.name} goes ahead by any time of its range at once: what it learns is not one of them",
            got=settings.horizon,
            expected="step",
            hint="`ups evaluate --horizon final` scores it so",
        )


def step(config: LeadConfig, card: LeadCard, store: Store) -> float:
    """The family's dt where the frames allow it, else the step of the file, which the model then learns.

    Raises:
        UserError: ``dt_mismatch``.
    """
    spacing = float(store.times[-1] - store.times[0]) / max(1, len(store.times) - 1)
    found: UserError | None = None
    for dt in (family(store.family).dt, spacing):
        try:
            frame_stride(store.times, dt)
        except UserError as error:
            found = error
            continue
        if card.shortest <= dt * SLACK and dt <= card.horizon * SLACK:
            return dt
    if found is not None and "equally spaced" in found.message:
        raise found
    raise UserError(
        "dt_mismatch",
        f"{config.name} goes ahead by other times at once",
        got=spacing,
        expected=f"frames {card.shortest:g} to {card.horizon:g} apart, or whole parts of {family(store.family).dt:g}",
    )


def points(card: LeadCard, shape: LatentConfig, grid: Grid) -> int:
    """The most points along the first axis that are no more than the model's, else the fewest there are.

    Raises:
        UserError: ``resolution_not_supported``.
    """
    fitting = [n for n in subsampled(grid) if all(m % shape.patches == 0 for m in grid.subsample(grid.stride_to(n)).n)]
    if not fitting:
        raise UserError(
            "resolution_not_supported",
            f"states are learned on multiples of {shape.patches} points an axis",
            got=list(grid.n),
            expected=f"multiples of {shape.patches}",
            hint="interpolate the file: `ups data convert --resolution`, or `onto` in its mapping",
        )
    usual = [n for n in fitting if n <= card.points]
    return max(usual) if usual else min(fitting)


def subsampled(grid: Grid) -> Iterator[int]:
    """Points along the first axis: of the grid and, by halves, of what is left of it."""
    stride = 1
    while all(n % stride == 0 for n in grid.n):
        yield grid.n[0] // stride
        stride *= 2


def with_coefficients(card: LeadCard, store: Store) -> LeadCard:
    """The card, its ranges wide enough for the trajectories."""
    ranges = dict(card.coefficients)
    for name, column in zip(store.coefficient_names, store.coefficients.T, strict=True):
        ends = [float(column.min()), float(column.max())]
        if (known := ranges.get(name)) is not None:
            ends += [known.low, known.high]
        ranges[name] = CoefficientRange(low=min(ends), high=max(ends))
    return card.model_copy(update={"coefficients": ranges})
