"""Models of lead times as solvers: frames between anchors are calls from them, whoever shares the calls."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ups_server.data.statistics import FamilyStatistics
from ups_server.errors import UserError
from ups_server.model.body import load_tokenizer, pretrained_body, text_features
from ups_server.model.checkpoint import load_lead, save_lead
from ups_server.model.lead import LeadModel, LeadSystem, Problems
from ups_server.model.lead_config import EQUATIONS, LatentConfig, LeadCard, LeadConfig
from ups_server.pde import Grid, family
from ups_server.solvers.lead import LeadBatch, LeadSession, LeadSolver
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames, Problem

LINE = LatentConfig(ndim=1, patches=16, channels=16, blocks=1, modes=6, groups=4, local=4, condition=16)


def card(family_id: str, call: float) -> LeadCard:
    entry = family(family_id)
    names = tuple(field.name for field in entry.fields)
    ones = (1.0,) * len(names)
    statistics = FamilyStatistics(
        family=family_id, fields=names, dt=entry.dt, n=64, trajectories=1, mean=ones, std=ones, increment_std=ones,
        min=ones, max=ones,
    )  # fmt: skip
    return LeadCard(
        dt=entry.dt, shortest=entry.dt / 5, horizon=20 * entry.dt, call=call, ndim=entry.ndim, fields=names,
        slots=tuple(field.slot for field in entry.fields), points=64, statistics=statistics,
        equation=EQUATIONS[family_id],
    )  # fmt: skip


@pytest.fixture(scope="module")
def system(language_model: Path) -> LeadSystem:
    reader = pretrained_body(language_model).eval()
    size = reader.config.hidden_size
    torch.manual_seed(0)
    model = LeadModel(LINE, size).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    config = LeadConfig(
        name="small", line=LINE, text_size=size,
        families={"burgers": card("burgers", 0.2), "advection": card("advection", 0.1)},
    )  # fmt: skip
    texts = text_features(reader, load_tokenizer(language_model), list(config.texts))
    return LeadSystem(config, {1: model}, texts)


def problem(family_id: str = "burgers", dt: float = 0.05, n: int = 64) -> Problem:
    entry = family(family_id)
    return Problem(family_id, entry.complete(None), Grid((n,), entry.extent), entry.boundary, dt)


def states(count: int = 2, n: int = 64, family_id: str = "burgers") -> Frames:
    entry = family(family_id)
    drawn = entry.sample_initial(np.random.default_rng(1), count, Grid((n,), entry.extent))
    return drawn.astype(np.float32)


def test_frames_between_anchors_are_calls_from_the_anchor(system: LeadSystem) -> None:
    solver, start = LeadSolver(system), states()
    session = solver.session(problem(), start)
    rollout = [session.step() for _ in range(6)]
    for step in (1, 2, 3, 4):
        direct = solver.session(problem(dt=0.05 * step), start).step()
        np.testing.assert_allclose(rollout[step - 1], direct, rtol=1e-4, atol=1e-5)
    again = solver.session(problem(), rollout[3])
    np.testing.assert_allclose(rollout[4], again.step(), rtol=1e-4, atol=1e-5)


def test_what_nobody_wants_is_not_computed(system: LeadSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = list[int](), LeadModel.forward

    def counted(self: LeadModel, state: Tensor, lead: Tensor, given: Problems) -> Tensor:
        calls.append(len(state))
        return forward(self, state, lead, given)

    monkeypatch.setattr(LeadModel, "forward", counted)
    session = LeadSolver(system).session(problem(), states())
    batch = LeadBatch([session])
    for step in range(1, 9):
        (frame,) = batch.launch([step == 8])()
        assert (frame is None) == (step != 8)
    assert calls == [2, 2]  # 8 steps are two calls of 4, of both states


def test_rollouts_of_other_families_and_steps_share_calls(system: LeadSystem) -> None:
    solver = LeadSolver(system)
    kinds = [("burgers", 0.05), ("advection", 0.02), ("burgers", 0.1)]

    def begun() -> list[LeadSession]:
        return [solver.session(problem(name, dt), states(family_id=name)) for name, dt in kinds]

    alone = [[session.step() for _ in range(5)] for session in begun()]
    together = begun()
    assert len({session.bucket for session in together}) == 1
    batch = together[0].batch(together)
    for step in range(5):
        for number, frame in enumerate(batch.launch([True] * 3)()):
            assert frame is not None
            np.testing.assert_allclose(frame, alone[number][step], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", range(1, 7))
def test_going_on_from_a_saved_place_gives_the_same_bits(system: LeadSystem, kept: int) -> None:
    solver, start = LeadSolver(system), states()
    whole = solver.session(problem(), start)
    frames = [whole.step() for _ in range(7)]
    first = solver.session(problem(), start)
    batch = LeadBatch([first])
    for _ in range(kept):
        batch.launch([True])()
    (saved,) = batch.saved([True])()
    assert saved is not None
    other = solver.session(problem(), start)
    other.restore(kept, saved)
    for step in range(kept, 7):
        np.testing.assert_array_equal(other.step(), frames[step])


def test_points_that_do_not_fill_the_patches_are_interpolated(system: LeadSystem) -> None:
    session = LeadSolver(system).session(problem(n=50), states(n=50))
    assert session.grid.n == (64,)
    assert session.step().shape == (2, 50, 1)


@pytest.mark.parametrize("dt", [0.001, 1.2])
def test_times_it_was_not_trained_on_are_refused(system: LeadSystem, dt: float) -> None:
    with pytest.raises(UserError) as caught:
        LeadSolver(system).session(problem(dt=dt), states())
    assert caught.value.code == "dt_mismatch"


def test_a_folder_gives_the_model_back(system: LeadSystem, tmp_path: Path) -> None:
    save_lead(system, tmp_path / "small")
    again = load(tmp_path / "small", "cpu")
    assert isinstance(again, LeadSolver)
    assert again.system.config == system.config
    start = states()
    before, after = (solver.session(problem(), start).step() for solver in (LeadSolver(system), again))
    # Half precision of the weights, eight bits of the language model.
    assert np.abs(after - before).max() < 0.02 * np.abs(before - start).max()
    with pytest.raises(UserError) as caught:
        load_lead(tmp_path)
    assert caught.value.code == "not_a_model"
