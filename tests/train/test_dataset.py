"""Batches of training windows."""

import numpy as np
import pytest
import torch

from tests.small_models import SMALL
from ups_server.data.simulate import SameAs, build_store
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.pde.resampling import coarser, resample
from ups_server.train.config import FamilyData
from ups_server.train.dataset import Batch, FamilyWindows, store_name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "burgers"
    return build_store(family("burgers"), {"nu": 0.01}, 24, 64, 0, folder, frame_dt=0.05, t_final=0.5)


def batch(store: Store, coarse: float = 0.0, points: int = 0) -> Batch:
    data = FamilyData(count=24, resolution=64, trajectories=8, windows=4, coarse=coarse)
    entry = FamilyWindows("burgers", data, store, 64, points=points)
    return entry.batch(np.random.default_rng(0), 2, SMALL, torch.device("cpu"))


def test_a_share_of_windows_begins_from_every_other_point(store: Store) -> None:
    whole, mixed = batch(store), batch(store, 0.5)
    first, seen = whole.frames[:, 0, 0], mixed.frames[:, 0, 0]
    torch.testing.assert_close(seen[:, ::2], first[:, ::2], atol=1e-6, rtol=1e-5)
    changed = (seen != first).any(1)
    assert 8 <= changed.sum() <= 24
    grid = family("burgers").default_grid(64)
    half, _ = coarser(grid, [32])
    expected = resample(first[changed, ::2, None].numpy(), half, grid, family("burgers").boundary)
    np.testing.assert_allclose(seen[changed].numpy(), expected[..., 0], atol=1e-5)


def test_targets_and_what_is_told_stay_as_they_are(store: Store) -> None:
    whole, mixed = batch(store), batch(store, 1.0)
    assert torch.equal(whole.frames[:, 1:], mixed.frames[:, 1:])
    assert torch.equal(whole.context, mixed.context)
    assert (whole.frames[:, 0, 0] != mixed.frames[:, 0, 0]).any(1).all()


def test_a_family_is_trained_on_the_points_it_is_stepped_on(store: Store) -> None:
    given, stepped = batch(store), batch(store, points=128)
    assert stepped.frames.shape == (*given.frames.shape[:-1], 128)
    torch.testing.assert_close(stepped.frames[..., ::2], given.frames, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stepped.context[..., ::2], given.context, atol=1e-5, rtol=1e-5)
    assert (given.conditions.trained, stepped.conditions.trained) == (64, 128)


def test_the_card_says_on_how_many_points_states_are_given_and_stepped(store: Store) -> None:
    data = FamilyData(count=24, resolution=64, coarse=0.5)
    card = FamilyWindows("burgers", data, store, 64).card
    assert (card.statistics.n, card.points) == (32, 64)


WIDE: dict[str, object] = {
    "count": 8,
    "resolution": 16,
    "coefficients": {"eta": {"low": 1e-3, "high": 0.3}, "zeta": {"same_as": "eta"}},
    "kinds": {"rand": 0.7, "shock": 0.3},
    "boundary": [["outflow", "outflow"]],
    "single": True,
}


def test_a_recipe_says_how_wide_data_are_drawn() -> None:
    data = FamilyData.model_validate(WIDE)
    entry = data.equation("compressible_ns_1d")
    assert entry.boundary.as_names() == [["outflow", "outflow"]]
    assert entry.single
    assert data.coefficients["zeta"] == SameAs(same_as="eta")
    changes: list[dict[str, object]] = [{}, {"kinds": {}}, {"boundary": None}, {"single": False}]
    names = {store_name("compressible_ns_1d", FamilyData.model_validate(WIDE | change), 0) for change in changes}
    assert len(names) == 4
    with pytest.raises(UserError) as caught:
        data.equation("burgers")
    assert caught.value.code == "boundary_not_supported"
    with pytest.raises(UserError) as caught:
        FamilyData(count=1, single=True).equation("burgers")
    assert caught.value.code == "single_not_offered"
