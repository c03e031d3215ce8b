"""What a model is told of an equation: a set of terms, in any order, alone or in a batch."""

import torch

from ups_server.model.lead import Problems, TermSet, problems
from ups_server.model.lead_config import EQUATIONS
from ups_server.pde import Grid, family
from ups_server.pde.equation import TERMS

TEXT = 12
EQUATION = EQUATIONS["evolution_1d"]


def given(rows: list[dict[str, float]]) -> Problems:
    torch.manual_seed(2)
    features = {term.text: torch.randn(TEXT) for term in EQUATION.terms}
    columns = {name: torch.tensor([row.get(name, 0.0) for row in rows]) for name in TERMS}
    state = torch.zeros(len(rows), 16, 4)
    return problems(
        EQUATION, features, columns, (0,), family("evolution_1d").boundary, Grid((16,), ((0.0, 1.0),)), state
    )


def reader() -> TermSet:
    torch.manual_seed(0)
    return TermSet(TEXT, 16).eval()


ROWS = [
    {"self_advection": -1.0, "diffusion": 0.01, "logistic": 2.0},
    {"transport": 0.5},
    {"bistable": 3.0, "diffusion": 0.002},
]


@torch.no_grad()
def test_the_order_of_terms_is_nothing() -> None:
    told, order = given(ROWS), torch.randperm(len(TERMS), generator=torch.Generator().manual_seed(1))
    read = reader()
    torch.testing.assert_close(
        read(told.names[:, order], told.values[:, order], told.present[:, order]),
        read(told.names, told.values, told.present),
    )


@torch.no_grad()
def test_a_batch_is_its_equations_and_absent_terms_say_nothing() -> None:
    read, told = reader(), given(ROWS)
    together = read(told.names, told.values, told.present)
    for index, row in enumerate(ROWS):
        there = torch.tensor([name in row for name in TERMS])
        assert torch.equal(told.present[index].bool(), there)
        alone = read(
            told.names[index : index + 1, there], told.values[index : index + 1, there], torch.ones(1, len(row))
        )
        torch.testing.assert_close(alone[0], together[index])


@torch.no_grad()
def test_sign_size_and_text_of_a_term_are_told() -> None:
    told = given([{"diffusion": 0.01}, {"diffusion": -0.01}, {"diffusion": 0.02}, {"dispersion": 0.01}])
    found = reader()(told.names, told.values, told.present)
    gaps = torch.cdist(found, found) + 10 * torch.eye(len(found))
    assert gaps.min() > 1e-3
