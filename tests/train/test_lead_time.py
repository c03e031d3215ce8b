"""A run of lead times: it learns, and one that was interrupted is the one that was not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ups_server.data.simulate import CoefficientDraw, Draw, SameAs
from ups_server.model.lead_config import LatentConfig
from ups_server.pde.equation import TERMS
from ups_server.train.config import FamilyData
from ups_server.train.lead_loop import STATE, relative_change
from ups_server.train.lead_release import ranges
from ups_server.train.lead_time import LeadFamily, LeadRun, LeadTraining, Samples, StoreData

SMALL = LatentConfig(ndim=1, patches=16, channels=16, blocks=2, modes=6, groups=4, local=4, condition=16)


def training(steps: int) -> LeadTraining:
    data = FamilyData(
        count=40, resolution=128, frame_dt=0.05, t_final=1.0, coefficients={"beta": CoefficientDraw.fixed(0.5)}
    )
    advection = LeadFamily(
        stores=(StoreData(data=data, n=(64, 128), points=("strided", "cells")),), horizon=0.5, batch=4, validation=2
    )
    return LeadTraining(
        name="small", model=SMALL, families={"advection": advection}, steps=steps, cooldown=0, warmup=4,
        learning_rate=3e-3, validate_minutes=1e9, save_minutes=1e9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lead")


def test_it_learns(tmp_path: Path, data: Path) -> None:
    run = LeadRun(training(80), tmp_path / "run", data)
    before = run.validate()["advection@128"]
    run.train(float("inf"))
    after = run.validate()["advection@128"]
    assert after["skill"][0] < 0.8 * before["skill"][0]
    assert np.isfinite(after["one_step"])


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, data: Path) -> None:
    whole, parts = LeadRun(training(16), tmp_path / "whole", data), tmp_path / "parts"
    whole.train(float("inf"))
    LeadRun(training(16).model_copy(update={"steps": 9}), parts, data).train(float("inf"))
    LeadRun(training(16), parts, data).train(float("inf"))
    one, other = load_file(tmp_path / "whole" / STATE), load_file(parts / STATE)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_loss_is_the_error_over_the_change() -> None:
    before, target = torch.zeros(1, 8, 2), torch.zeros(1, 8, 2)
    target[..., 0] = 2.0
    predicted = target.clone()
    predicted[..., 0] = 1.5
    slots = torch.tensor([[1.0, 0.0]])
    assert float(relative_change(predicted, target, before, slots)) == pytest.approx(0.25, abs=1e-4)
    # A field that fades: what is left of it counts, not what it lost.
    fading = relative_change(0.6 * target, 0.5 * target, target * 2, slots)
    assert float(fading) == pytest.approx(0.2 / (1 + 0.3**2 * 9) ** 0.5, abs=1e-4)
    assert float(relative_change(target, target, before, slots)) == pytest.approx(0.0, abs=1e-4)
    # Of what is far off the logarithm counts, and is still learned from.
    far = (-1e6 * target).requires_grad_()
    loss = relative_change(far, target, before, slots)
    assert float(loss.detach()) == pytest.approx(5 * (1 + np.log(1e6 / 5)), rel=1e-3)
    loss.backward()
    assert far.grad is not None
    assert float(far.grad.abs().max()) > 0


def test_batches_are_the_same_whoever_draws_them(tmp_path: Path, data: Path) -> None:
    run = LeadRun(training(1), tmp_path / "run", data)
    samples = Samples(run.config, run.families)
    here, elsewhere = samples.from_step(3, 0), samples.from_step(3, 2)
    for _ in range(4):
        one, other = next(here), next(elsewhere)
        assert torch.equal(one.states, other.states)
        assert torch.equal(one.leads, other.leads)


def test_bfloat16_is_near_single_precision(tmp_path: Path, data: Path) -> None:
    """As on an accelerator: what is transported stays exact, so that an untrained model is still near no change."""
    run = LeadRun(training(1), tmp_path / "run", data)
    drawn = Samples(run.config, run.families)[0]
    with torch.no_grad():
        single = run.trainer.model(drawn.states[:, 0], drawn.leads[:, 0], drawn.given)
        with torch.autocast("cpu", torch.bfloat16):
            half = run.trainer.model(drawn.states[:, 0], drawn.leads[:, 0], drawn.given).float()
    assert half.isfinite().all()
    change = (single - drawn.states[:, 0]).square().mean().sqrt()
    assert (half - single).square().mean().sqrt() < 0.05 * change + 1e-4


def test_ranges_of_a_card_are_what_was_drawn_from(tmp_path: Path) -> None:
    """Rows reach nearly the ends, and a term in no equation of the data has no range."""
    draws: dict[str, Draw] = {
        "eta": CoefficientDraw(low=0.001, high=0.3, also=(0.0011, 0.29), also_share=0.9),
        "zeta": SameAs(same_as="eta"),
    }
    gas = FamilyData(count=10, resolution=32, frame_dt=0.05, t_final=0.05, coefficients=draws)
    equations = FamilyData(count=60, resolution=64, frame_dt=0.05, t_final=0.05)
    families = {
        name: LeadFamily(stores=(StoreData(data=data, n=(32,)),), horizon=0.05, batch=2, validation=1)
        for name, data in (("compressible_ns_1d", gas), ("evolution_1d", equations))
    }
    run = LeadRun(training(1).model_copy(update={"families": families}), tmp_path / "run", tmp_path / "data")
    of_gas, of_equations = (ranges(entry) for entry in run.families)
    assert {name: (found.low, found.high) for name, found in of_gas.items()} == dict.fromkeys(draws, (0.001, 0.3))
    (store,) = run.families[1].stores
    for name, column in zip(store.coefficient_names, store.coefficients.T, strict=True):
        found, term = of_equations[name], TERMS[name]
        assert found.low <= column.min() <= column.max() <= found.high
        for end in (sign * term.magnitude[1] for sign in term.signs):
            near = np.abs(column - end).min() <= 0.2 * abs(end)
            assert near == (found.low <= end <= found.high), name
    assert (of_equations["cubic"].low, of_equations["cubic"].high) == (0.0, 0.0)
    assert of_equations["transport"].high == TERMS["transport"].magnitude[1]
