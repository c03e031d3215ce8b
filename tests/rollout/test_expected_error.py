"""Expected errors: where a calibration fits, and the words where it does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import planned, write_card
from ups_server.catalog import Catalog
from ups_server.evaluation.envelope import Coverage, FamilyEnvelope, ModelEnvelopes
from ups_server.pde import BoundaryCondition, BoundaryKind, family
from ups_server.rollout.diagnostics import expected_error
from ups_server.specs import ExpectedError, InitialConditionSpec, SampleSpec

BOUNDS = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """A data folder whose model has envelopes of four steps: of Burgers at 32 points, with nu from 0.01 to 0.1, and of
    diffusion-sorption at two places of 32 points; those of advection are withheld."""
    burgers = FamilyEnvelope(
        family="burgers", coefficients={"nu": (0.01, 0.1)}, boundary=(("periodic", "periodic"),), dt=0.05, n=32,
        offset=(None,), level=0.9, bounds={"u": BOUNDS}, spread={"u": 2.0}, calibration=40, test=20,
        coverage={"u": Coverage.of(18, 20)},
    )  # fmt: skip
    places = tuple(
        burgers.model_copy(
            update={
                "family": "diffusion_sorption", "coefficients": {}, "boundary": (("dirichlet", "cauchy"),),
                "dt": 25.0, "offset": (place,),
                "bounds": {"u": tuple(factor * bound for bound in BOUNDS)},
            }
        )
        for place, factor in ((0.5, 1.0), (0.0625, 0.1))
    )  # fmt: skip
    ModelEnvelopes(
        command="measured",
        families={"burgers": (burgers,), "diffusion_sorption": places},
        withheld={"advection": "its waves were not solved"},
    ).save(write_card(tmp_path))
    return tmp_path


def expected(data_dir: Path, **changes: Any) -> ExpectedError:
    todo = planned(data_dir, **{"coefficients": {"nu": 0.02}, **changes})
    return expected_error(todo, todo.n_frames)


def test_bounds_are_those_of_the_frames_in_physical_units(calibrated: Path) -> None:
    found = expected(calibrated, n_steps=4, save_every=2)
    assert found.available
    assert found.reason is None
    assert found.level == 0.9
    assert found.bounds["u"] == pytest.approx([0.0, 2 * 0.2, 2 * 0.4])
    assert found.coverage["u"]["share"] == pytest.approx(0.9)
    assert found.valid_for["steps"] == 4
    batched = expected(calibrated, initial_condition={"sample": {"count": 3}})
    assert np.shape(batched.bounds["u"]) == (3, 4)


def test_the_calibration_is_that_of_the_points(calibrated: Path) -> None:
    """Along a periodic axis no place is special; along a bounded one each has a calibration of its own, or none."""
    for grid in ({}, {"points": "nodes"}, {"offset": [0.0625]}):
        assert expected(calibrated, grid=grid).bounds["u"] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    bounded: dict[str, Any] = {"family": "diffusion_sorption", "coefficients": {}}
    for offset, factor in ((0.5, 1.0), (0.0625, 0.1)):
        found = expected(calibrated, **bounded, grid={"n": [32], "offset": [offset]})
        assert found.bounds["u"] == pytest.approx([0.0, 0.2 * factor, 0.4 * factor, 0.6 * factor])
        assert found.valid_for["offset"] == [offset]
    found = expected(calibrated, **bounded, grid={"n": [32], "offset": [0.25]})
    assert not found.available
    assert "points at 0.25 of their cells" in str(found.reason)


def test_another_box_scales_the_bounds(calibrated: Path) -> None:
    found = expected(calibrated, coefficients={"nu": 0.08}, grid={"extent": [[0.0, 2.0]]})
    assert found.bounds["u"][1] == pytest.approx(2 * 2 * 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"n": [64]}}, "64 points instead of 32"),
        ({"coefficients": {"nu": 0.3}}, "nu = 0.3 instead of 0.01 to 0.1"),
        ({"model": "persistence"}, "no trained model"),
        ({"n_steps": 5}, "5 steps of dt = 0.05 instead of at most 4"),
        ({"n_steps": 4, "save_every": 2, "dt": 0.1}, "8 steps of dt = 0.05 instead of at most 4"),
        ({"family": "advection", "coefficients": {}}, "its waves were not solved"),
    ],
)
def test_outside_of_the_calibration_it_says_so(calibrated: Path, changes: dict[str, Any], words: str) -> None:
    found = expected(calibrated, **changes)
    assert not found.available
    assert found.bounds == {}
    assert words in str(found.reason)


def test_other_sides_are_not_covered(calibrated: Path) -> None:
    todo = planned(calibrated, coefficients={"nu": 0.02})
    open_sides = BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 1)
    spec = replace(todo.spec, problem=replace(todo.spec.problem, boundary=open_sides))
    assert "another boundary" in str(expected_error(replace(todo, spec=spec), 4).reason)


def test_other_kinds_of_initial_states_are_not_covered(calibrated: Path) -> None:
    todo = planned(calibrated, coefficients={"nu": 0.02})
    other = InitialConditionSpec(sample=SampleSpec(seed=3, kind="shock"))
    request = todo.request.model_copy(update={"initial_condition": other})
    assert "kind shock instead of rand" in str(expected_error(replace(todo, request=request), 4).reason)


def test_given_states_are_a_caveat(calibrated: Path) -> None:
    found = expected(calibrated, initial_condition={"values": [0.5] * 32})
    assert found.available
    assert "as far as" in str(found.reason)


def test_a_model_without_a_calibration_says_so(tmp_path: Path) -> None:
    write_card(tmp_path)
    found = expected(tmp_path)
    assert not found.available
    assert "no calibration for burgers" in str(found.reason)


@pytest.mark.parametrize("name", ["advection", "burgers", "diffusion_sorption", "compressible_ns_1d", "shallow_water"])
def test_the_shipped_model_is_calibrated_where_it_is_asked(name: str, tmp_path: Path) -> None:
    """Cell centres and PDEBench's grid strided, which the answer states: both have bounds, or neither and the reason.
    One step more than was calibrated has none."""
    equation, catalog = family(name), Catalog(tmp_path)
    envelopes = ModelEnvelopes.load(Path(catalog.model("ups-mini").source))
    assert envelopes is not None
    assert (name in envelopes.families) != (name in envelopes.withheld)
    known = envelopes.families.get(name, ())
    for offset in (0.5, 0.5 * 128 / equation.n):
        asked: dict[str, Any] = {"model": "ups-mini", "family": name, "grid": {"offset": [offset] * equation.ndim}}
        todo = planned(tmp_path, catalog, **asked)
        assert todo.header().document()["grid"]["offset"] == [offset] * equation.ndim
        found = expected_error(todo, todo.n_frames)
        assert found.available is bool(known)
        assert found.reason is None if known else envelopes.withheld[name] in str(found.reason)
        beyond = planned(tmp_path, catalog, **asked, n_steps=1 + max((entry.steps for entry in known), default=5))
        assert not expected_error(beyond, beyond.n_frames).available
