"""Weights of a family's own: they change that family and no other, and come back from disk as they were."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small_models import SMALL, card, make
from ups_server.errors import UserError
from ups_server.model.checkpoint import WEIGHTS_FILE, TrainedModel, from_pretrained, save_pretrained
from ups_server.model.deltas import Delta, deltas_between, row_length
from ups_server.model.operator import Operator
from ups_server.pde import Grid, family
from ups_server.solvers.neural import UPSSession, UPSSolver, ZeroShotSolver
from ups_server.solvers.registry import stored_bytes
from ups_server.solvers.solver import Frames, Problem, rollout

MOVED = ("embedder.layers.0.spectral.weights.0", "predictor.bias", "transport.of_features.weight")
FAMILIES = {
    "burgers": card(),
    "advection": card("1D Advection Equation").model_copy(update={"symbols": {"beta": "Beta"}}),
}


def moved(model: Operator, amount: float = 0.3) -> Operator:
    torch.manual_seed(5)
    with torch.no_grad():
        for name in MOVED:
            parameter = model.get_parameter(name)
            parameter.add_(amount * torch.randn_like(parameter))
    return model


@pytest.fixture
def model(language_model: Path) -> TrainedModel:
    """Burgers has weights of its own, advection has not."""
    config = SMALL.changed(families=FAMILIES)
    shared = make(config, language_model)
    return TrainedModel(shared, {"burgers": deltas_between(shared, moved(make(config, language_model)))})


def rolled(model: TrainedModel | Operator, name: str, steps: int = 4) -> Frames:
    return np.stack(list(rollout(session(UPSSolver(model), name), steps)))


def session(solver: UPSSolver, name: str) -> UPSSession:
    equation, values = family(name), {"burgers": {"nu": 0.02}, "advection": {"beta": 0.4}}[name]
    grid = Grid((32,), equation.extent)
    x = np.sin(2 * np.pi * grid.axes[0])[None, :, None].astype(np.float32)
    return solver.session(Problem(name, values, grid, equation.boundary, 0.05), x)


@pytest.mark.parametrize("levels", [torch.int8, torch.int16])
@pytest.mark.parametrize("shape", [(), (7,), (5, 40), (4, 3, 2, 3), (3, 5, 48, 2, 48)])
def test_a_deviation_is_kept_to_a_half_level_of_its_row(shape: tuple[int, ...], levels: torch.dtype) -> None:
    torch.manual_seed(0)
    shared, difference = torch.randn(shape), torch.randn(shape) * 0.01
    kept = Delta.of(shared, shared + difference, levels)
    error = (kept.added_to(shared) - shared - difference).abs().reshape(-1, row_length(torch.Size(shape)))
    largest = difference.abs().reshape(error.shape).amax(-1, keepdim=True)
    assert (error <= 0.51 * largest / torch.iinfo(levels).max + 1e-6).all()
    again = Delta.of(shared, kept.added_to(shared), levels)
    assert (again.levels.int() - kept.levels.int()).abs().max() <= 1
    torch.testing.assert_close(again.scale, kept.scale, rtol=1e-3, atol=1e-8)


def test_rows_that_hardly_deviate_are_left_out() -> None:
    shared = torch.ones(6, 80)
    trained = shared * (1 - 1e-5)
    trained[4, 3] = 1.5
    shared[0], trained[0] = 0.0, 1e-7
    kept = Delta.of(shared, trained, torch.int16)
    assert kept.rows.tolist() == [0, 4]
    assert torch.equal(kept.added_to(shared)[[1, 2, 3, 5]], shared[[1, 2, 3, 5]])
    torch.testing.assert_close(kept.added_to(shared)[4, 3], trained[4, 3])


def test_only_what_deviates_is_kept(model: TrainedModel) -> None:
    assert set(model.deltas["burgers"]) == set(MOVED)


def test_a_family_has_its_own_and_shares_the_rest(model: TrainedModel, language_model: Path) -> None:
    assert model.of_family("advection") is model
    burgers = model.of_family("burgers").operator
    for (name, shared), (_, own) in zip(model.operator.named_parameters(), burgers.named_parameters(), strict=True):
        assert (shared.data_ptr() == own.data_ptr()) == (name not in MOVED), name
    trained = moved(make(model.config, language_model))
    np.testing.assert_allclose(rolled(model, "burgers"), rolled(trained, "burgers"), atol=2e-3)
    plain = make(model.config, language_model)
    np.testing.assert_array_equal(rolled(model, "advection"), rolled(plain, "advection"))
    assert np.abs(rolled(model, "burgers") - rolled(plain, "burgers")).max() > 1e-2


def test_they_do_not_share_a_step_with_other_weights(model: TrainedModel) -> None:
    solver = UPSSolver(model)
    own, shared = session(solver, "burgers"), session(solver, "advection")
    assert own.bucket != shared.bucket
    assert own.bucket == session(solver, "burgers").bucket


def test_a_family_that_is_not_known_has_the_shared_weights(model: TrainedModel) -> None:
    equation = family("burgers")
    problem = Problem("burgers", {"nu": 0.02}, Grid((32,), equation.extent), equation.boundary, equation.dt)
    x = np.sin(2 * np.pi * problem.grid.axes[0])[None, :, None].astype(np.float32)
    asked = ZeroShotSolver(model).session(problem, x).step()
    model.deltas = {}
    np.testing.assert_array_equal(asked, ZeroShotSolver(model).session(problem, x).step())


def test_they_come_back_from_disk(model: TrainedModel, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    for name, kept in model.deltas["burgers"].items():
        for part in ("rows", "levels", "scale"):
            assert torch.equal(getattr(loaded.deltas["burgers"][name], part), getattr(kept, part))
    once = rolled(loaded, "burgers")
    save_pretrained(loaded, tmp_path / "again")
    np.testing.assert_array_equal(once, rolled(from_pretrained(tmp_path / "again"), "burgers"))


def test_a_model_keeps_only_those_of_its_families(model: TrainedModel, tmp_path: Path) -> None:
    model.config = model.config.changed(families={"advection": FAMILIES["advection"]})
    save_pretrained(model, tmp_path)
    assert from_pretrained(tmp_path).deltas == {}


@pytest.mark.parametrize("fault", ["family", "parameter", "rows", "levels", "scale"])
def test_what_does_not_fit_is_no_model(model: TrainedModel, tmp_path: Path, fault: str) -> None:
    save_pretrained(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    rows, levels, scale = (f"own.burgers.{part}.transport.of_features.weight" for part in ("rows", "levels", "scale"))
    if fault in ("family", "parameter"):
        old, new = ("burgers", "heat") if fault == "family" else ("of_features", "of_nothing")
        for key in (rows, levels, scale):
            tensors[key.replace(old, new)] = tensors.pop(key)
    elif fault == "rows":
        tensors[rows] = tensors[rows] + 10_000
    elif fault == "levels":
        tensors[levels] = tensors[levels][:, :1].clone()
    else:
        del tensors[scale]
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(UserError) as caught:
        from_pretrained(tmp_path)
    assert caught.value.code == "not_a_model"


def test_the_estimate_of_its_memory_counts_every_number(model: TrainedModel, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path)
    numbers = sum(parameter.numel() for parameter in model.operator.parameters())
    own = sum(kept.levels.numel() for kept in model.deltas["burgers"].values())
    assert 4 * (numbers + own) <= stored_bytes(str(tmp_path)) <= 1.1 * 4 * (numbers + own)
    assert stored_bytes("classical") == 0
