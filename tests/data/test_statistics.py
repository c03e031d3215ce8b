from pathlib import Path

import numpy as np
import pytest

from ups_server.data.simulate import CoefficientDraw, build_store
from ups_server.data.splits import Split, split_rows
from ups_server.data.statistics import INCREMENT_FLOOR, Moments, compute, scales
from ups_server.errors import UserError
from ups_server.pde.family import Family


def test_streamed_moments_equal_direct_ones() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1e3, 1.0, size=(1000, 2)).astype(np.float32)
    moments = Moments(2)
    for part in np.split(values, [1, 10, 400]):
        moments.add(part)
    assert np.allclose(moments.mean, values.mean(0, dtype=np.float64), rtol=1e-7)
    assert np.allclose(moments.std, values.std(0, dtype=np.float64), rtol=1e-5)
    assert np.array_equal(moments.low, values.min(0))


def test_several_stores_jointly_over_training_rows_only(wave: Family, tmp_path: Path) -> None:
    draw = {"c": CoefficientDraw(low=0.1, high=2.0)}
    stores = [build_store(wave, draw, 20, 64, seed, tmp_path / str(seed)) for seed in (1, 2)]
    found = compute(stores, 0.2, 16)
    rows = split_rows(20, Split.TRAIN)
    values = np.concatenate([store.read(rows)[:, :, ::4] for store in stores]).astype(np.float64)
    increments = values[:, 4:] - values[:, :-4]
    assert found.trajectories == 2 * len(rows)
    assert np.allclose(found.mean, values.mean((0, 1, 2)))
    assert np.allclose(found.std, values.std((0, 1, 2)))
    assert np.allclose(found.increment_std, np.sqrt((increments**2).mean((0, 1, 2))))
    assert np.allclose(found.min, values.min((0, 1, 2)))
    columns = np.concatenate([store.coefficients[rows] for store in stores])
    assert found.coefficient_low["c"] == columns[:, 0].min()
    assert found.coefficient_high["g"] == 1.0


def test_increments_have_a_floor(wave: Family, tmp_path: Path) -> None:
    found = compute(build_store(wave, {"c": 1e-9}, 10, 16, 1, tmp_path / "s"), 0.1, 16)
    assert np.allclose(found.increment_std, INCREMENT_FLOOR * np.array(found.std))


def test_static_fields_have_statistics(relaxation: Family, tmp_path: Path) -> None:
    found = compute(build_store(relaxation, {}, 10, 16, 1, tmp_path / "s"), 0.1, 16)
    assert abs(found.static_std[0] - 1.0) < 0.1


def test_families_are_not_mixed(wave: Family, relaxation: Family, tmp_path: Path) -> None:
    stores = [build_store(family, {}, 5, 16, 1, tmp_path / family.id) for family in (wave, relaxation)]
    with pytest.raises(UserError) as caught:
        compute(stores, 0.1, 16)
    assert caught.value.code == "mixed_families"


def test_constant_fields_can_be_divided_by() -> None:
    """One that is zero, one that is constant but for rounding, one that varies little about zero."""
    moments = Moments(3)
    noise = np.random.default_rng(0).normal(size=1000)
    moments.add(np.stack([np.zeros(1000), 300.0 + 1e-5 * noise, 1e-9 * noise], axis=-1))
    found = scales(moments)
    assert found[0] == 1.0
    assert found[1] == pytest.approx(300.0, rel=1e-6)
    assert found[2] == pytest.approx(1e-9, rel=0.1)
