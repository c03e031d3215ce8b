"""What PDEBench publishes, one card a family, and how a file's card is found. A new family is one more card.

User, attributes, configuration and name say which family a file of known structure holds, and must agree.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import yaml

from ups_server.data.formats import hdf5
from ups_server.data.formats.description import Stored, by_coefficient, canonical, same_number
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, BoundaryKind
from ups_server.pde.registry import known_families

NUMBER = r"([0-9]+\.?[0-9]*(?:e-?[0-9]+)?)"
"""As file names spell numbers: 0.001, 1e-08, 1.e-8."""

SINGLE = "single"
GROUPED = "grouped"
BATCHED = "batched"


@dataclass(frozen=True)
class Card:
    """How the files of one family look.

    Attributes:
        family: its id.
        layout: `SINGLE` (datasets over all trajectories), `GROUPED` (one group a trajectory) or `BATCHED` (vector
            datasets over a batch).
        file_name: template that also recognises files: `{coefficient}`, `#` for an integer, `[this|that]`.
        datasets: SINGLE: one dataset per field, in the family's order. BATCHED: datasets whose last axes, one after
            the other, are the family's fields.
        static: datasets of the static fields, as `datasets`.
        attributes: SINGLE: coefficient name -> attribute; every one must be known.
        config_name: GROUPED: the `name` of the YAML configuration.
        config: GROUPED, BATCHED: coefficient name -> key of the configuration.
        constants: GROUPED, BATCHED: what the configuration must say for the family's equation to hold.
        axes: name of the axis of each spatial dimension, in the order of the stored array.
        boundaries: word in a file's name or attribute `boundary` -> kind on all sides, where files differ in it.
        steady: one state a trajectory, no times.
    """

    family: str
    layout: str
    file_name: str
    datasets: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    config_name: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    axes: tuple[str, ...] = ("x",)
    boundaries: Mapping[str, BoundaryKind] = field(default_factory=dict)
    steady: bool = False

    @property
    def order(self) -> tuple[int, ...]:
        """Where the axes x, y, z stand among the stored ones."""
        return tuple(self.axes.index(name) for name in sorted(self.axes))

    def name_coefficients(self, file_name: str) -> dict[str, float] | None:
        """The coefficients a file name tells, None if the name is not of this family."""
        names = re.findall(r"\{(\w+)\}", self.file_name)
        pattern = re.escape(self.file_name.rsplit(".", 1)[0])
        pattern = re.sub(r"\\\{\w+\\\}", NUMBER, pattern).replace(r"\#", "[0-9]+")
        pattern = pattern.replace(r"\[", "(?:").replace(r"\]", ")").replace(r"\|", "|")
        found = re.search(pattern, file_name, re.IGNORECASE)
        return None if found is None else {name: float(found[i]) for i, name in enumerate(names, start=1)}

    def boundary(self, equation: Family, file_name: str, attribute: str | None) -> BoundaryCondition:
        """What holds on the sides: the file's attribute or name, else the family's own."""
        if attribute is not None and "/" in attribute:
            return BoundaryCondition.from_text(attribute)
        words = [attribute] if attribute is not None else re.split(r"[_.]", file_name)
        kinds = [self.boundaries[word] for word in words if word in self.boundaries]
        return BoundaryCondition.uniform(kinds[0], equation.ndim) if kinds else equation.boundary

    def boundary_word(self, boundary: BoundaryCondition) -> str | None:
        """How files spell a boundary condition: in PDEBench's word, or by the kinds of all sides.

        None where files of the family do not differ in it.
        """
        if not self.boundaries:
            return None
        kinds = {kind for sides in boundary.sides for kind in sides}
        return next((word for word, kind in self.boundaries.items() if kinds == {kind}), boundary.as_text())


GAS_BOUNDARIES = {"periodic": BoundaryKind.PERIODIC, "trans": BoundaryKind.OUTFLOW}

CARDS: tuple[Card, ...] = (
    Card(
        "advection",
        SINGLE,
        "1D_Advection_Sols_beta{beta}.hdf5",
        datasets=("tensor",),
        attributes={"beta": "beta"},
    ),
    Card(
        "burgers",
        SINGLE,
        "1D_Burgers_Sols_Nu{nu}.hdf5",
        datasets=("tensor",),
        attributes={"nu": "Nu"},
    ),
    Card(
        "diffusion_reaction_1d",
        SINGLE,
        "ReacDiff_Nu{nu}_Rho{rho}.hdf5",
        datasets=("tensor",),
        attributes={"nu": "Nu", "rho": "rho"},
    ),
    Card(
        "compressible_ns_1d",
        SINGLE,
        "1D_CFD_[Rand|Shock]_Eta{eta}_Zeta{zeta}_[periodic|trans]_Train.hdf5",
        datasets=("Vx", "density", "pressure"),
        attributes={"eta": "eta", "zeta": "zeta"},
        boundaries=GAS_BOUNDARIES,
    ),
    Card(
        "compressible_ns_2d",
        SINGLE,
        "2D_CFD_[Rand|Turb]_M{M}_Eta{eta}_Zeta{zeta}_[periodic|trans]_#_Train.hdf5",
        datasets=("Vx", "Vy", "density", "pressure"),
        attributes={"M": "M", "eta": "eta", "zeta": "zeta"},
        axes=("x", "y"),
        boundaries=GAS_BOUNDARIES,
    ),
    Card(
        "compressible_ns_3d",
        SINGLE,
        "3D_CFD_[Rand|Turb]_M{M}_Eta{eta}_Zeta{zeta}_[periodic|trans]_Train.hdf5",
        datasets=("Vx", "Vy", "Vz", "density", "pressure"),
        attributes={"M": "M", "eta": "eta", "zeta": "zeta"},
        axes=("x", "y", "z"),
        boundaries=GAS_BOUNDARIES,
    ),
    Card(
        "darcy",
        SINGLE,
        "2D_DarcyFlow_beta{beta}_Train.hdf5",
        datasets=("tensor",),
        static=("nu",),
        attributes={"beta": "beta"},
        axes=("x", "y"),
        steady=True,
    ),
    Card(
        "diffusion_sorption",
        GROUPED,
        "1D_diff-sorp_NA_NA.h5",
        config_name="1d_diff-sorp",
        constants={"D": 5e-4, "por": 0.29, "rho_s": 2880.0, "k_f": 3.5e-4, "n_f": 0.874, "sol": 1.0},
    ),
    Card(
        "shallow_water",
        GROUPED,
        "2D_rdb_NA_NA.h5",
        config_name="2d_rdb",
        constants={"gravity": 1.0},
        axes=("x", "y"),
    ),
    Card(
        "diffusion_reaction_2d",
        GROUPED,
        "2D_diff-react_NA_NA.h5",
        config_name="2d_diff-react",
        config={"D_u": "Du", "D_v": "Dv", "k": "k"},
        axes=("y", "x"),
    ),
    Card(
        "incompressible_ns_2d",
        BATCHED,
        "ns_incom_inhom_2d_#-#.h5",
        datasets=("velocity", "particles"),
        static=("force",),
        config_name="ns_sim_2d",
        config={"nu": "NU"},
        axes=("x", "y"),
    ),
)


def card_of(family: str) -> Card | None:
    """The card of a family id, None where PDEBench does not publish it."""
    return next((card for card in CARDS if card.family == family), None)


FAMILY = "family"
"""Attribute that files of our own carry: the family's id."""


def named_card(file_name: str, claims: Mapping[str, str | None], cards: Iterable[Card]) -> Card | None:
    """The card that somebody names, whatever the structure says; None where nobody does."""
    names = {family for family in claims.values() if family is not None}
    names |= {card.family for card in CARDS if card.name_coefficients(file_name) is not None}
    return next((card for card in cards if card.family in names), None)


@dataclass(frozen=True)
class Choice:
    """The card of a file.

    Attributes:
        guessed_from: what alone suggests it, where nobody says it; None where somebody does.
    """

    card: Card
    guessed_from: str | None = None


def choose_card(
    file_name: str, candidates: list[Card], claims: Mapping[str, str | None], keys: Iterable[str] = ()
) -> Choice:
    """The one card of `candidates` (those that fit the structure) that all evidence points to.

    Args:
        claims: who says so (a phrase for the message) -> family id, None where it says nothing; the first is the user.
        keys: lower-case attribute names; their set decides only where nobody else speaks.

    Raises:
        UserError: ``family_mismatch`` or ``family_unknown``.
    """
    said = {who: family for who, family in claims.items() if family is not None}
    by_name = [card.family for card in CARDS if card.name_coefficients(file_name) is not None]
    if len(by_name) == 1:
        said["the file's name"] = by_name[0]
    if not said:
        matching = [c for c in candidates if c.attributes and {a.lower() for a in c.attributes.values()} == set(keys)]
        if len(matching) == 1:
            return Choice(
                matching[0], f"the attribute{'s' if len(set(keys)) > 1 else ''} {', '.join(sorted(keys))} alone"
            )
        raise UserError(
            "family_unknown",
            f"{file_name} does not say which equation it holds",
            expected=[card.family for card in candidates],
            hint="name the family",
        )
    if len(set(said.values())) > 1:
        raise UserError("family_mismatch", f"{file_name} is said to be of several families", got=said)
    chosen = next(iter(said.values()))
    for card in candidates:
        if card.family == chosen:
            return Choice(card)
    raise UserError(
        "family_mismatch",
        f"{file_name} is not laid out as files of {chosen} are",
        got=chosen,
        expected=[card.family for card in candidates],
    )


def family_of(card: Card) -> Family:
    """The family of a card, solved here or only described.

    Raises:
        UserError: ``unknown_family``: PDEBench publishes it, this installation does not know it.
    """
    if card.family not in known_families():
        raise UserError("unknown_family", f"{card.family} is not among the families known here", got=card.family)
    return known_families()[card.family]


CONFIG = "config"
MAX_CONFIG_CHARACTERS = 65536


def read_config(group: h5py.Group) -> dict[str, Any]:
    """The configuration of a group, empty where it has none.

    Raises:
        UserError: ``wrong_attribute`` where it is no YAML mapping.
    """
    content = hdf5.text(group.attrs, CONFIG)
    if content is None:
        return {}
    try:
        config = yaml.safe_load(content[:MAX_CONFIG_CHARACTERS])
    except yaml.YAMLError as error:
        raise UserError("wrong_attribute", f"the configuration of group {group.name} is not YAML") from error
    if not isinstance(config, dict) or not isinstance(config.get("sim", {}), dict):
        raise UserError("wrong_attribute", f"the configuration of group {group.name} is no mapping")
    return config


def config_coefficients(settings: Mapping[str, Any], card: Card, where: str) -> dict[str, float]:
    """The coefficients that a configuration tells.

    Raises:
        UserError: ``coefficient_mismatch`` where it describes another equation, ``wrong_attribute``.
    """
    for key, expected in card.constants.items():
        if key in settings and not same_number(_number(settings, key), expected):
            raise UserError(
                "coefficient_mismatch",
                f"{where} solves another equation: {key} is fixed in {card.family}",
                got=settings[key],
                expected=expected,
            )
    return {name: _number(settings, key) for name, key in card.config.items() if key in settings}


def _number(settings: Mapping[str, Any], key: str) -> float:
    try:
        return float(settings[key])
    except (TypeError, ValueError):
        raise UserError("wrong_attribute", f"{key} in the configuration is no number", got=settings[key]) from None


def attribute_coefficients(equation: Family, card: Card, attributes: h5py.AttributeManager) -> Stored:
    """What the attributes of a file say. Raises UserError ``coefficient_mismatch``."""
    known = {alias.lower(): c.name for c in equation.coefficients for alias in (c.name, *c.aliases)}
    known |= {attribute.lower(): canonical(equation, name) for name, attribute in card.attributes.items()}
    found = ((name.lower(), column) for name, column in hdf5.numbers(attributes))
    return by_coefficient((known[name], column.ravel()) for name, column in found if name in known and column.size)
