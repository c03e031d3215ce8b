"""The estimate of a training's memory, against what its tensors take: weights, state, activations that are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small_models import SMALL, card, make
from tests.train.test_adapt import adaptation
from ups_server.align import ALIGNMENTS
from ups_server.data.simulate import build_store
from ups_server.data.store import Store
from ups_server.model.checkpoint import save_pretrained
from ups_server.pde import family
from ups_server.train.adapt import PreparedAdaptation
from ups_server.train.loop import StageTrainer
from ups_server.train.memory import BASE_BYTES, LOADED, available_bytes, size
from ups_server.train.tuning import TUNINGS

TOO_MUCH = 2.2
"""Factor by which an estimate may lie above the measurement; below it may not lie."""


@pytest.fixture(scope="module")
def parent(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and activations of megabytes: neither hides the other."""
    known = card("1D Advection Equation").model_copy(update={"fields": ("u",), "symbols": {"beta": "Beta"}})
    shape = {"hidden_channels": 48, "n_layers": 3, "n_modes": 32, "families": {"advection": known}}
    folder = tmp_path_factory.mktemp("models") / "wider"
    save_pretrained(make(SMALL.changed(**shape), language_model), folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "burgers"
    return build_store(family("burgers"), {"nu": 0.1}, 7, 32, 0, folder, frame_dt=0.05, t_final=0.5)


def kept_bytes(step: Callable[[], Any], own: list[Tensor]) -> int:
    """What a step keeps for its backward pass, each storage once, besides the tensors `own`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that its address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def measured_bytes(run: PreparedAdaptation) -> int:
    """The more demanding of the last step of the last stage, and of loading the best model beside this one."""
    model = run.model
    model.config = run.parent.model_copy(update={"families": {run.family: run.windows.card}})
    method = ALIGNMENTS[run.config.stage2.alignment]()
    trainer = StageTrainer(model.train(), [run.windows], run.config, 1, method, run.tuning.select)
    trainer.step = run.config.stage2.steps - 1  # where most steps are unrolled
    own = [*model.parameters(), *model.buffers()]
    kept = kept_bytes(trainer.run_step, own)
    moments = [value for state in trainer.optimiser.state_dict()["state"].values() for value in state.values()]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return max(size([*own, *trainer.average.values(), *moments, *gradients]) + kept, LOADED * size(own))


@pytest.mark.parametrize(
    ("tuning", "alignment"), [*((tuning, "none") for tuning in TUNINGS), ("full", "pare")], ids="-".join
)
def test_the_estimate_holds_and_is_no_mere_fear(
    parent: Path, store: Store, tmp_path: Path, tuning: str, alignment: str
) -> None:
    run, _ = adaptation(parent, store, tmp_path, n_trajectories=4, tuning=tuning, alignment=alignment)
    measured = measured_bytes(run)
    assert measured <= run.bytes - BASE_BYTES <= TOO_MUCH * measured


def test_less_is_asked_for_where_less_is_trained(parent: Path, store: Store, tmp_path: Path) -> None:
    asked = {
        (tuning, alignment): adaptation(
            parent, store, tmp_path / tuning / alignment, n_trajectories=4, tuning=tuning, alignment=alignment
        )[0].bytes
        for tuning in TUNINGS
        for alignment in ("none", "otdd")
    }
    full = asked["full", "none"]
    assert asked["head", "none"] <= asked["layernorm", "none"] <= asked["lora", "none"] < full
    weights = size(adaptation(parent, store, tmp_path / "again", n_trajectories=4)[0].model.parameters())
    assert asked["head", "none"] < full - 2 * weights
    # Before these two, an alignment trains all of the operator.
    assert asked["head", "otdd"] > asked["head", "none"] + 2 * weights
    assert asked["lora", "otdd"] == pytest.approx(asked["lora", "none"], rel=0.05)


def test_what_the_machine_has_left() -> None:
    available = available_bytes("cpu")
    assert available is None or 2**20 < available < 2**50
