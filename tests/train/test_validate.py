"""What validation measures."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from ups_server.data.simulate import build_store
from ups_server.data.windows import Windows
from ups_server.pde import family
from ups_server.solvers.solver import Frames, Problem
from ups_server.train.validation import Score, score, total

DT = 0.05


@dataclass(frozen=True)
class Biased:
    """Knows the solution and is off by so much, in every step from the truth and in every rollout."""

    truth: Frames
    off: float

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames:
        assert np.array_equal(truth, self.truth)
        return truth[:, 1:] + np.float32(self.off)

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> "Told":
        return Told(self)


class Told:
    def __init__(self, solver: Biased) -> None:
        self._solver, self._step = solver, 0

    def step(self) -> Frames:
        self._step += 1
        return self._solver.truth[:, self._step] + np.float32(2 * self._solver.off)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Burgers' equation so viscous that after one step only the mean is left."""
    folder = tmp_path_factory.mktemp("data") / "burgers"
    store = build_store(family("burgers"), {"nu": 20.0}, 4, 32, 0, folder, frame_dt=DT, t_final=0.2)
    return Windows(store, DT, 32, split=None, augment=False)


def scored(windows: Windows, off: float) -> Score:
    truth = windows.trajectories(windows.rows)
    return score(Biased(truth, off), "burgers", windows, len(windows.rows))  # type: ignore[arg-type]


def test_errors_are_over_the_norm_of_the_whole_trajectory(windows: Windows) -> None:
    truth = windows.trajectories(windows.rows).astype(np.float64)
    size = np.sqrt(np.square(truth).mean((1, 2, 3)))
    assert (np.sqrt(np.square(truth[:, 1:]).mean((1, 2, 3))) / size).min() < 0.9
    found = scored(windows, 0.01)
    expected = (0.01 / size).mean()
    assert found.one_step == pytest.approx(expected, rel=1e-3)
    assert found.rollout == pytest.approx(2 * expected, rel=1e-3)
    still = np.sqrt(np.square(np.diff(truth, axis=1)).mean((1, 2, 3)))
    assert found.persistence == pytest.approx((still / size).mean(), rel=1e-5)


def test_what_is_not_finite_is_the_worst(windows: Windows) -> None:
    good, bad = scored(windows, 0.01), scored(windows, float("inf"))
    assert total({"burgers": good}) < total({"burgers": replace(good, rollout=0.1 + good.rollout)})
    assert total({"burgers": bad}) == float("inf")
