"""What the benchmark of trust counts, and the solution it holds answers against."""

import numpy as np
import pytest

from benchmarks.trust import Answer, out_of_bounds, report, solution
from ups_server.pde import Grid, family


@pytest.mark.parametrize("offset", [0.5, 0.0625])
def test_the_solution_is_that_of_the_sample_at_the_points(offset: float) -> None:
    """A wave that is moved: the function of the sample itself, elsewhere."""
    entry, times = family("advection"), np.array([0.0, 0.05, 0.5])
    grid, fine = Grid((128,), entry.extent, (offset,)), Grid((8192,), entry.extent)
    sampled = entry.sample_initial(np.random.default_rng(7), 1, fine)[0, :, 0]
    found = solution(entry, grid, 7, times)
    for frame, elapsed in enumerate(times):
        came_from = np.mod(grid.axes[0] - 0.4 * elapsed, 1.0)
        expected = np.interp(came_from, fine.axes[0], sampled, period=1.0)
        np.testing.assert_allclose(found[frame, :, 0], expected, atol=0.02)


def test_walls_are_refined_by_an_odd_factor() -> None:
    """Cell centres stay among cell centres, which is what the solver of shallow water takes."""
    entry = family("shallow_water")
    grid = Grid((16, 16), entry.extent)
    found = solution(entry, grid, 3, np.array([0.0, 0.02]))
    assert found.shape == (2, 16, 16, 1)
    np.testing.assert_array_equal(found[0], entry.sample_initial(np.random.default_rng(3), 1, grid)[0])


def test_what_is_counted() -> None:
    answers = [
        Answer(1.0, 1.0, {"u": [True, True], "v": [True, False]}, beyond=False),
        Answer(3.0, 2.0, {"u": [True, True], "v": [True, True]}, beyond=True),
        Answer(None, 2.0, {}, beyond=False, remarks=["no expected error: why"]),
        Answer(0.5, 1.0, {"u": [False, True], "v": [True, True]}, beyond=False),
    ]
    found = report(answers, seeds=2, steps=2)
    assert found["true_error_ratio"] == [0.5, 1.0, 1.5]
    assert found["coverage_per_field"] == pytest.approx({"u": 2 / 3, "v": 2 / 3})
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["coverage_per_step"]["v"] == pytest.approx([1.0, 2 / 3])
    assert found["outside_bounds"] == 0.25
    assert (found["with_true_error"], found["with_expected_error"], found["answers"]) == (3, 3, 4)
    assert found["remarks"] == {"no expected error: why": 1}


def test_values_beyond_the_bounds_of_the_equation() -> None:
    entry = family("diffusion_sorption")
    values = np.full((3, 8, 1), 0.1, np.float32)
    assert not out_of_bounds(entry, values)
    values[2, 4] = 1.5
    assert out_of_bounds(entry, values)
