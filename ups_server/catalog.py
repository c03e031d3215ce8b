"""What this installation knows: cards of its families, of models read from their folders, of the two built-in solvers.

Imports no torch. An id is looked up in the listing and never becomes a path.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ups_server import __version__
from ups_server.errors import UserError
from ups_server.objects import SharedFolders
from ups_server.pde import BoundaryCondition, BoundaryKind, Coefficient, Family, families
from ups_server.pde import Field as Quantity
from ups_server.pde.family import RAND
from ups_server.plugins import origin, plugins

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
CARD = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
DOCUMENT_BYTES, DOCUMENT_DEPTH = 16 * 2**20, 32
"""Of one text of a model folder: its size, and how deep its lists and objects may lie in each other."""


class Range(BaseModel):
    """Values of a coefficient a model was trained on; null where there is no limit."""

    model_config = CARD
    low: float | None = None
    high: float | None = None

    def contains(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class SeenStates(BaseModel):
    """What the training states of a family looked like: points per axis; range, mean and spread of each field's values.

    Mean and spread of fields in `relative` are in units of the field's mean over the box of the first state.
    """

    model_config = CARD
    n: int = Field(ge=1, le=2**20)
    min: tuple[float, ...] = ()
    max: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    relative: tuple[str, ...] = ()


class FamilySupport(BaseModel):
    """What a model knows of one family."""

    model_config = CARD
    dt: float = Field(gt=0, description="Time between two states of the model.")
    shortest: float | None = Field(
        default=None, gt=0, description="Of a model of lead times: the shortest time that it goes ahead at once."
    )
    horizon: float | None = Field(
        default=None, gt=0, description="Of a model of lead times: the longest; any time between takes one call."
    )
    coefficients: dict[str, Range] = Field(default_factory=dict, description="Trained range of each coefficient.")
    boundaries: tuple[tuple[tuple[BoundaryKind, BoundaryKind], ...], ...] = Field(
        default=(), description="Boundary conditions it was trained on beside the family's own."
    )
    statistics: SeenStates | None = Field(default=None, description="What its training states looked like.")

    @property
    def points(self) -> int | None:
        """Points per axis it was trained at, where that is known."""
        return None if self.statistics is None else self.statistics.n


class Adaptation(BaseModel):
    """Where an adapted model comes from."""

    model_config = CARD
    parent: str = Field(description="The model it was tuned from.")
    parent_version: str
    family: str
    data_fingerprint: str = Field(description="Of the stored trajectories: equal fingerprints mean equal data.")
    n_trajectories: int = Field(description="Trajectories it was tuned on.")
    start: str = Field(
        default="model", alias="from", description="`lm` or `random`: a new embedder and head around a language model."
    )
    embedder: str | None = Field(default=None, description="Of a fresh start.")
    alignment: str
    alignment_options: dict[str, str] = Field(default_factory=dict)
    tuning: str
    horizon: Literal["step", "final"] = Field(
        default="step", description="`final`: it goes from the first state of a trajectory to the last at once."
    )
    steps: int
    seed: int
    helped: bool | None = Field(
        default=None,
        description="Was it better than its parent on the test trajectories? false: its parent's weights "
        "may have been kept; `scores.kept` says so.",
    )
    job: str | None = Field(default=None, description="The job that made it.")
    file: str | None = Field(default=None, description="The stored file it was tuned on.")
    validation_file: str | None = Field(
        default=None, description="The file that chose the checkpoint and gave the test, where it was another one."
    )
    validation_fingerprint: str | None = Field(default=None, description="Of the trajectories of that file.")


class ModelCard(BaseModel):
    """One model: `config.json`, `scores.json` and `README.md` of its folder, or a built-in solver."""

    model_config = CARD
    id: str
    kind: Literal["learned", "builtin"] = "learned"
    name: str
    version: str = "1"
    description: str = ""
    resolution: int | None = Field(
        default=None, ge=1, le=2**20, description="Points per axis it was trained at; null: any, as the family's."
    )
    base: str | None = Field(default=None, description="The language model of its body, where it has one.")
    adapters_of: str | None = Field(default=None, description="The model whose weights it uses, where it is adapters.")
    families: dict[str, FamilySupport]
    preferred: tuple[str, ...] = Field(
        default=(), description="Families in which it is better than the usual model: requests that name none get it."
    )
    adaptation: Adaptation | None = Field(default=None, description="Of adapted models: where they come from.")
    scores: Any = None
    readme: str | None = Field(default=None, description="The model card, Markdown.")
    source: str = Field(exclude=True, description="What the solver is loaded from: a folder or a built-in id.")
    equation: Any = Field(default=None, exclude=True, description="Of a model tuned to a user's own equation: that.")
    compared: Any = Field(default=None, exclude=True, description="Measured ways to a finer grid, where they were.")

    def support(self, family_id: str) -> FamilySupport:
        """Raises UserError ``family_not_in_model``."""
        try:
            return self.families[family_id]
        except KeyError:
            raise UserError(
                "family_not_in_model",
                f"{self.id} was not trained on {family_id}",
                got=family_id,
                expected=sorted(self.families),
                hint="choose another model; the built-in `numerical` solves every family that this service lists",
            ) from None


BUILTIN = {
    "numerical": "The family's own reference solver: accurate, usually slower than a trained model.",
    "persistence": "Repeats the initial condition: the baseline every model has to beat.",
}

SOLVERS = "ups_server.solvers"
"""Entry points of this group name classes of further solvers (see `ups_server.solvers.registry`)."""


def builtin_solvers() -> dict[str, str]:
    """Solvers that need no trained model, by id, and what they are: those of this package, then those of plug-ins."""
    found = plugins(SOLVERS, frozenset(BUILTIN)).values()
    return BUILTIN | {entry.name: f"Of the package {origin(entry)}." for entry in found}


EQUATION_FILE = "equation.json"
"""Of a model that was tuned to a user's own equation."""
TABLE_FILE = "super_resolution.json"
"""In a model folder: what `benchmarks/superres.py --json` measured of it."""
CARD_FILES = (
    "config.json", "scores.json", "README.md", "adaptation.json", "adapter.json", EQUATION_FILE, TABLE_FILE
)  # fmt: skip
"""Of a model folder, what its card is made from: all that planning a rollout takes of it."""

Stamps = tuple[tuple[int, int, int] | None, ...]
"""Inode, time of change and size of each of them; None where it is not there."""


def shipped_folder() -> Path:
    """The models that come with the package: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / "_models"
    return inside if inside.is_dir() else PACKAGE.parent / "models"


class Catalog:
    """Lists models; looks into the folders on every call, so that a finished training shows up at once.

    A card is read again where a file of it is another one than before.

    Args:
        shared: where a model that is asked for and not here may come from.
    """

    def __init__(
        self, data_dir: Path | None = None, shipped: Path | None = None, shared: SharedFolders | None = None
    ) -> None:
        self._shared = shared
        self._known: dict[Path, tuple[Stamps, ModelCard | UserError]] = {}
        self._folders = [shipped or shipped_folder()]
        if data_dir is not None:
            self._folders.append(data_dir / "models")

    def models(self) -> list[ModelCard]:
        """All cards, learned models first, each id once; a shipped model wins over one of the data folder."""
        learned = [card for _, card in self._learned() if isinstance(card, ModelCard)]
        return learned + [builtin_card(model_id) for model_id in builtin_solvers()]

    def unreadable(self) -> dict[str, UserError]:
        """What is wrong with the folders that have no card, by their ids: they hide no other."""
        return {model_id: card for model_id, card in self._learned() if isinstance(card, UserError)}

    def model(self, model_id: str) -> ModelCard:
        """The card of that id.

        Raises:
            UserError: ``unknown_model``, ``invalid_model`` where the folder cannot be read.
        """
        if model_id in builtin_solvers():
            return builtin_card(model_id)
        listing = self._listing()
        if model_id not in listing and self._fetch(model_id):
            listing = self._listing()
        if model_id not in listing:
            raise UserError(
                "unknown_model",
                f"there is no model {model_id!r}",
                got=model_id,
                expected=sorted(listing) + list(builtin_solvers()),
            )
        card = self._card(listing[model_id])
        if isinstance(card, UserError):
            raise card.with_traceback(None)  # it is kept, and would grow with every use
        if card.adapters_of is not None and card.adapters_of not in listing:
            self._fetch(card.adapters_of)
        return card

    def synchronise(self) -> None:
        """Has the models that other machines have made, and none that they have deleted."""
        if self._shared is not None:
            self._shared.synchronise("models", _is_model)

    def _listing(self) -> dict[str, Path]:
        return {folder.name: folder for folder in reversed(list(self._model_folders()))}

    def _fetch(self, model_id: str) -> bool:
        return self._shared is not None and self._shared.pull(f"models/{model_id}")

    def default(self, usual: str, family: str | None) -> str:
        """The model of requests that name none: of shipped ones, that which is better at the family than the usual.

        Args: usual: the default model of the settings; one that is not shipped is the default for every family.
        """
        shipped = [card for _, card in self._learned() if isinstance(card, ModelCard) and self._ships(card)]
        if any(card.id == usual for card in shipped):
            return next((card.id for card in shipped if family in card.preferred), usual)
        return usual

    def defaults(self, usual: str) -> dict[str, str]:
        """Family -> `default`, of the families in which that is not the usual model."""
        preferred = sorted({family for card in self.models() for family in card.preferred})
        chosen = {family: self.default(usual, family) for family in preferred}
        return {family: model for family, model in chosen.items() if model != usual}

    def _ships(self, card: ModelCard) -> bool:
        return Path(card.source).parent == self._folders[0].resolve()

    def delete(self, model_id: str) -> None:
        """Removes an adapted model; whoever has loaded it keeps it.

        Raises:
            UserError: ``unknown_model``, ``not_deletable``, ``model_in_use`` by adapters.
        """
        card = self.model(model_id)
        folder = Path(card.source)
        if card.adaptation is None or folder.parent not in [parent.resolve() for parent in self._folders[1:]]:
            raise UserError("not_deletable", f"{model_id} is not an adapted model of this installation", got=model_id)
        users = [other.id for other in self.models() if other.adapters_of == model_id]
        if users:
            raise UserError(
                "model_in_use", f"other models use the weights of {model_id}", got=users, hint="delete them first"
            )
        if self._shared is not None:
            self._shared.remove(f"models/{model_id}")
        gone = folder.with_name(f".{folder.name}.deleted")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)

    def _learned(self) -> list[tuple[str, "ModelCard | UserError"]]:
        """(id, card) in the order of ids."""
        known = builtin_solvers()
        cards = {name: folder for name, folder in self._listing().items() if name not in known}
        return [(model_id, self._card(cards[model_id])) for model_id in sorted(cards)]

    def _card(self, folder: Path) -> ModelCard | UserError:
        """The card, or why there is none, which the log says once."""
        stamps = stamps_of(folder)
        if (known := self._known.get(folder)) is None or known[0] != stamps:
            try:
                self._known[folder] = known = stamps, read_card(folder)
            except UserError as error:
                logger.warning("left out of the catalog: %s", error)
                self._known[folder] = known = stamps, error
        return known[1]

    def _model_folders(self) -> Iterator[Path]:
        for parent in self._folders:
            if parent.is_dir():
                yield from (folder for folder in sorted(parent.iterdir()) if _is_model(folder))


def _is_model(folder: Path) -> bool:
    """A dot begins the names of what is still being written or removed; a name that is no text is no id."""
    return folder.name.isprintable() and folder.name[0] != "." and os.path.isfile(folder / "config.json")


def stamps_of(folder: Path) -> Stamps:
    """What changes with any file of a card."""
    found: list[tuple[int, int, int] | None] = []
    for name in CARD_FILES:
        try:
            stat = os.stat(folder / name)
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def adapted_already(model_id: str, base_id: str) -> UserError:
    """Of adapters that are asked for on top of adapters."""
    return UserError(
        "adapted_already",
        f"{model_id} consists of adapters itself",
        got=model_id,
        expected=f"a model with weights of its own, such as {base_id}",
        hint="tune its base, or tune all of it",
    )


def base_folder(adapters: Path, base_id: str, near: Path | None = None) -> Path:
    """The folder of the model that a folder of adapters belongs to.

    Args:
        near: where it was when they were made; then beside the adapters, then among the shipped models.

    Raises:
        UserError: ``unknown_model``.
    """
    places = [adapters.parent / base_id, shipped_folder() / base_id]
    for place in places if near is None else [near, *places]:
        if (place / "config.json").is_file():
            return place.resolve()
    raise UserError(
        "unknown_model",
        f"{adapters.name} consists of adapters of {base_id}, which is not there",
        got=base_id,
        hint=f"put {base_id} beside {adapters.name}",
    )


def read_text(file: Path) -> str | None:
    """A text of a model folder; None where it is not there.

    Raises:
        UserError: ``invalid_model`` where it is a link out of the folder, or larger than any is, or no text.
    """
    if not os.path.isfile(file):
        return None
    try:
        if not file.resolve().is_relative_to(file.parent.resolve()):
            raise ValueError("it is a link out of the folder")
        with file.open("rb") as stream:
            content = stream.read(DOCUMENT_BYTES + 1)
        if len(content) > DOCUMENT_BYTES:
            raise ValueError(f"it has more than {DOCUMENT_BYTES} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        raise invalid_model(file, error) from error


def read_document(file: Path) -> Any:
    """A JSON file of a model folder, None where it is not there: numbers are finite, and it can be written again.

    Raises:
        UserError: ``invalid_model``.
    """
    text = read_text(file)
    if text is None:
        return None
    try:
        document = json.loads(text)
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        if _depth(document) > DOCUMENT_DEPTH:
            raise ValueError(f"it is more than {DOCUMENT_DEPTH} levels deep")
    except (ValueError, RecursionError) as error:
        raise invalid_model(file, error) from error
    return document


def invalid_model(file: Path, error: Exception) -> UserError:
    """What is wrong with a file of a model folder."""
    return UserError("invalid_model", f"{file.name} of model {file.parent.name} cannot be read", got=str(error)[:1000])


def _depth(document: Any) -> int:
    level, depth = [document], 0
    while level:
        depth += 1
        nested = [entry for entry in level if isinstance(entry, dict | list)]
        level = [value for entry in nested for value in (entry.values() if isinstance(entry, dict) else entry)]
    return depth


def read_card(folder: Path) -> ModelCard:
    """The card of one model folder.

    Raises:
        UserError: ``invalid_model``.
    """
    configuration, scores, readme, adaptation, adapters, equation, table = (folder / name for name in CARD_FILES)
    config, adapted = read_document(configuration), read_document(adapters)
    known = {
        "scores": read_document(scores),
        "readme": read_text(readme),
        "adaptation": read_document(adaptation),
        "equation": read_document(equation),
        "compared": read_document(table),
    }
    try:
        return ModelCard.model_validate(
            {
                **config,
                "id": folder.name,
                "kind": "learned",
                "name": config.get("name", folder.name),
                "version": str(config.get("version", 1)),
                "adapters_of": None if adapted is None else adapted["base"]["id"],
                "source": str(folder.resolve()),
                **known,
            }
        )
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise invalid_model(configuration, error) from error


def builtin_card(model_id: str) -> ModelCard:
    """The card of a built-in solver: every family, at the family's own dt."""
    return ModelCard(
        id=model_id,
        kind="builtin",
        name=model_id,
        version=__version__,
        description=builtin_solvers()[model_id],
        families={
            entry.id: FamilySupport(dt=entry.dt, coefficients={c.name: _domain(c.domain) for c in entry.coefficients})
            for entry in families().values()
        },
        source=model_id,
    )


def _domain(domain: tuple[float, float]) -> Range:
    low, high = (value if math.isfinite(value) else None for value in domain)
    return Range(low=low, high=high)


class FieldCard(BaseModel):
    """A physical quantity."""

    name: str
    unit: str
    description: str
    positive: bool


class CoefficientCard(BaseModel):
    """A number in the equation. `low` and `high` bound its physical domain; null: no bound."""

    name: str
    symbol: str
    description: str
    unit: str
    default: float
    low: float | None
    low_included: bool
    high: float | None


class InitialKindCard(BaseModel):
    """A distribution of initial states."""

    model_config = ConfigDict(title="InitialKind")
    name: str
    description: str
    boundaries: list[list[list[str]]] = Field(description="The boundary conditions it is made for.")


class FamilyCard(BaseModel):
    """A PDE family."""

    model_config = ConfigDict(title="Family")
    id: str
    name: str
    equation: str
    dimensions: int
    fields: list[FieldCard]
    static_fields: list[FieldCard]
    coefficients: list[CoefficientCard]
    boundary: list[list[str]]
    boundaries: list[list[list[str]]] = Field(description="All that its numerical solver offers.")
    initial_kinds: list[InitialKindCard] = Field(description="Distributions that initial states are drawn from.")
    extent: list[tuple[float, float]]
    n: int
    dt: float
    t_final: float
    time_unit: str
    length_unit: str
    conserved: list[str]
    declared: bool = Field(default=False, description="An equation of a user's file; only models tuned to it solve it.")


def family_card(entry: Family, declared: bool = False) -> FamilyCard:
    return FamilyCard(
        id=entry.id,
        name=entry.name,
        equation=entry.equation,
        dimensions=entry.ndim,
        fields=[_field_card(field) for field in entry.fields],
        static_fields=[_field_card(field) for field in entry.static_fields],
        coefficients=[_coefficient_card(coefficient) for coefficient in entry.coefficients],
        boundary=entry.boundary.as_names(),
        boundaries=_names(entry.boundaries),
        initial_kinds=[
            InitialKindCard(name=RAND, description="the family's usual one", boundaries=_names(entry.boundaries)),
            *(
                InitialKindCard(name=kind.name, description=kind.description, boundaries=_names(kind.boundaries))
                for kind in entry.kinds
            ),
        ],
        extent=list(entry.extent),
        n=entry.n,
        dt=entry.dt,
        t_final=entry.t_final,
        time_unit=entry.time_unit,
        length_unit=entry.length_unit,
        conserved=list(entry.conserved),
        declared=declared,
    )


def _field_card(field: Quantity) -> FieldCard:
    return FieldCard(name=field.name, unit=field.unit, description=field.description, positive=field.positive)


def _coefficient_card(coefficient: Coefficient) -> CoefficientCard:
    low, high = (bound if math.isfinite(bound) else None for bound in coefficient.domain)
    return CoefficientCard(
        name=coefficient.name,
        symbol=coefficient.symbol,
        description=coefficient.description,
        unit=coefficient.unit,
        default=coefficient.default,
        low=low,
        low_included=low is not None and not coefficient.low_open,
        high=high,
    )


def _names(boundaries: Sequence[BoundaryCondition]) -> list[list[list[str]]]:
    return [boundary.as_names() for boundary in boundaries]
