"""What a model of lead times says about itself: its operators and the equations it was trained on. No torch here."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ups_server.catalog import invalid_model, read_document
from ups_server.data.statistics import FamilyStatistics
from ups_server.model.config import CONFIG_FILE, CoefficientRange, Frozen
from ups_server.pde import BoundaryKind
from ups_server.pde.equation import TERMS

NUMBERS = ("lead time", "points", "amplitude of waves", "amplitude of density", "share of the flow")
"""What a model is given beside the terms of the equation, by name; 0 where a kind of scales has it not."""


class LatentConfig(Frozen):
    """The latent operator of one dimension count.

    Attributes:
        ndim: axes of the box.
        fields, static: channels of the state and of what does not change in time.
        patches: per axis.
        degree: polynomials per axis in a patch.
        channels: of the lattice. blocks: how many. expansion: of their pointwise layers.
        modes: wave numbers per axis, the positive ones and zero.
        groups: of channels that share a conditional gain.
        local: channels at the points. width: points of their convolution.
        condition: width of the condition vector.
        transport: are there displacements?
    """

    ndim: int
    fields: int = 4
    static: int = 2
    patches: int = 32
    degree: int = 4
    channels: int = 64
    blocks: int = 4
    expansion: int = 2
    modes: int = 8
    groups: int = 8
    local: int = 16
    width: int = 3
    condition: int = 128
    transport: bool = True


class ScalesCard(Frozen):
    """How a family's states are measured.

    Attributes:
        kind: one of `SCALES`.
        level, unit: of "level": by slot, what is subtracted from a field, and what it is then divided by.
        speed: of "level": the characteristic speed.
    """

    kind: Literal["gas", "velocity", "amplitude", "stirred", "level"]
    level: tuple[float, ...] = ()
    unit: tuple[float, ...] = ()
    speed: float = 1.0


class TermCard(Frozen):
    """A term of an equation: the text that says what it does, and its coefficient.

    Attributes:
        coefficient: its name; None where the term has none, or `factor` alone.
        factor: of the coefficient.
        rate: is it one over a time, to be measured in characteristic units?
        optional: is the term absent where its coefficient is zero?
        order: of the derivative that the term is a multiple of; None where it is not linear.
        sign: of that multiple.
        source: is the term a multiple of the first static field?
        carries: is it a multiple of u u_x?
    """

    text: str
    coefficient: str | None = None
    factor: float = 1.0
    rate: bool = True
    optional: bool = False
    order: int | None = None
    sign: float = 1.0
    source: bool = False
    carries: bool = False


class EquationCard(Frozen):
    """An equation as a model of lead times knows it.

    Attributes:
        terms: in any order. scales: of its states.
        conserved: what is restored after a step in a periodic box: every mean, or mass, momentum and energy.
        solenoidal: is the velocity, in the first slots, free of divergence?
        known: what of it a few large steps start from: "gas", in a periodic box (`model.gas_steps`), its second and
            third terms being the viscosities; "flow", between walls (`model.flow_steps`), the second the viscosity;
            "waves", of one field in a periodic box, the terms that are linear, or carry it (`model.wave_steps`).
        carried: are fields carried along displacements?
        extremes: slots whose field stays between its least and greatest value: carried along, without a source.
    """

    terms: tuple[TermCard, ...]
    scales: ScalesCard
    conserved: Literal["nothing", "means", "gas"] = "nothing"
    solenoidal: bool = False
    known: Literal["nothing", "gas", "flow", "waves"] = "nothing"
    carried: bool = False
    extremes: tuple[int, ...] = ()


class LeadCard(Frozen):
    """A family as a model of lead times knows it.

    Attributes:
        dt: the family's step. shortest, horizon: the lead times it was trained on lie between.
        call: the lead time of one call in a rollout: frames between are calls from the same state.
        slots: of the fields, in their order. points: per axis, of the grid that states default to.
        coefficients: trained ranges, of those the model is told.
        boundaries: kinds a side that it was trained on beside the family's own.
        statistics: of the training states, in no use but to say what is unusual.
    """

    dt: float
    shortest: float
    horizon: float
    call: float
    ndim: int
    fields: tuple[str, ...]
    slots: tuple[int, ...]
    static_fields: tuple[str, ...] = ()
    points: int
    coefficients: dict[str, CoefficientRange] = Field(default_factory=dict)
    boundaries: tuple[tuple[tuple[BoundaryKind, BoundaryKind], ...], ...] = ()
    statistics: FamilyStatistics
    equation: EquationCard


class LeadConfig(Frozen):
    """A model folder of lead times.

    Attributes:
        line, plane: its operators in one and two dimensions.
        text_size: width of the features of texts.
        preferred: families in which it is better than the usual model, see `catalog.Catalog.default`.
    """

    model_type: Literal["ups-lead"] = "ups-lead"
    name: str
    version: int = 1
    line: LatentConfig | None = None
    plane: LatentConfig | None = None
    text_size: int
    preferred: tuple[str, ...] = ()
    families: dict[str, LeadCard]

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the operators are told in words."""
        terms = (term.text for card in self.families.values() for term in card.equation.terms)
        return tuple(dict.fromkeys([*NUMBERS, *terms]))

    def save(self, folder: Path) -> None:
        (folder / CONFIG_FILE).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "LeadConfig":
        """Raises UserError ``invalid_model``."""
        file = folder / CONFIG_FILE
        try:
            return cls.model_validate(read_document(file))
        except ValidationError as error:
            raise invalid_model(file, error) from error


GAS = (
    TermCard(text="compressible flow of an ideal gas", rate=False),
    TermCard(text="shear viscosity", coefficient="eta"),
    TermCard(text="bulk viscosity", coefficient="zeta"),
)
ANY = tuple(
    TermCard(
        text=f"{name.replace('_', ' ')}: {term.words}",
        coefficient=name,
        optional=True,
        order=term.order if [piece.power for piece in term.pieces] == [1] else None,
        source=name == "forcing",
        carries=name == "self_advection",
    )
    for name, term in TERMS.items()
)
"""Every term an equation in symbols may have; the sign and size of its coefficient say the rest."""
INVERSE_PI = 0.3183098861837907

EQUATIONS: dict[str, EquationCard] = {
    "advection": EquationCard(
        terms=(TermCard(text="transport to the right at constant speed", coefficient="beta", order=1, sign=-1.0),),
        scales=ScalesCard(kind="amplitude"),
        conserved="means",
        known="waves",
    ),
    "burgers": EquationCard(
        terms=(
            TermCard(text="transport of the quantity by itself", rate=False),
            TermCard(text="diffusion", coefficient="nu", factor=INVERSE_PI, order=2),
        ),
        scales=ScalesCard(kind="velocity"),
        conserved="means",
        known="waves",
        carried=True,
    ),
    "diffusion_sorption": EquationCard(
        terms=(TermCard(text="diffusion, held back by sorption to the ground", factor=5e-4),),
        scales=ScalesCard(kind="level", level=(0.25, 0, 0, 0), unit=(0.25, 1, 1, 1), speed=0.002),
    ),
    "compressible_ns_1d": EquationCard(terms=GAS, scales=ScalesCard(kind="gas"), conserved="gas", known="gas"),
    "compressible_ns_2d": EquationCard(terms=GAS, scales=ScalesCard(kind="gas"), conserved="gas", known="gas"),
    "shallow_water": EquationCard(
        terms=(TermCard(text="shallow water over a flat bed, driven by gravity", factor=0.2),),
        scales=ScalesCard(kind="level", level=(1.0, 0, 0, 0), unit=(0.15, 1, 1, 1), speed=1.0),
    ),
    "evolution_1d": EquationCard(
        terms=ANY,
        scales=ScalesCard(kind="level", level=(0.0, 0, 0, 0), unit=(1.0, 1, 1, 1)),
        known="waves",
    ),
    "incompressible_ns_2d": EquationCard(
        terms=(
            TermCard(text="incompressible flow that carries particles", rate=False),
            TermCard(text="shear viscosity", coefficient="nu"),
            TermCard(text="a force on the particles", rate=False),
        ),
        scales=ScalesCard(kind="stirred"),
        solenoidal=True,
        known="flow",
        extremes=(2,),
    ),
}
"""By family."""
