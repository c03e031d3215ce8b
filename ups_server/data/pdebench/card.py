"""What PDEBench publishes, one card a family. A new family of a known layout is one more card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NUMBER = r"([0-9]+\.?[0-9]*(?:e-?[0-9]+)?)"
"""As file names spell numbers: 0.001, 1e-08, 1.e-8."""

SINGLE = "single"
GROUPED = "grouped"


@dataclass(frozen=True)
class Card:
    """How the files of one family look.

    Attributes:
        family: its id.
        layout: `SINGLE` (datasets over all trajectories) or `GROUPED` (one group a trajectory).
        file_name: template over coefficient names; also recognises files.
        datasets: SINGLE: one dataset per field, in the family's order.
        attributes: SINGLE: coefficient name -> attribute; every one must be known.
        config_name: GROUPED: the `name` of the YAML configuration.
        config: GROUPED: coefficient name -> key of the configuration.
        constants: GROUPED: what the configuration must say for the family's equation to hold.
        axes: name of the axis of each spatial dimension, in the order of the stored array.
    """

    family: str
    layout: str
    file_name: str
    datasets: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    config_name: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    axes: tuple[str, ...] = ("x",)

    def name_coefficients(self, file_name: str) -> dict[str, float] | None:
        """The coefficients a file name tells, None if the name is not of this family."""
        names = re.findall(r"\{(\w+)\}", self.file_name)
        stem = re.escape(self.file_name.rsplit(".", 1)[0])
        found = re.search(re.sub(r"\\\{\w+\\\}", NUMBER, stem), file_name, re.IGNORECASE)
        return None if found is None else {name: float(found[i]) for i, name in enumerate(names, start=1)}


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
        "diffusion_sorption",
        GROUPED,
        "1D_diff-sorp_NA_NA.h5",
        config_name="1d_diff-sorp",
        constants={"D": 5e-4, "por": 0.29, "rho_s": 2880.0, "k_f": 3.5e-4, "n_f": 0.874, "sol": 1.0},
    ),
)


def card_of(family: str) -> Card | None:
    """The card of a family id, None where PDEBench does not publish it."""
    return next((card for card in CARDS if card.family == family), None)
