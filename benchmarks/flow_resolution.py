"""How far is the reference scheme of incompressible flow from a converged solution?

Sampled flows run on a fine grid until they are projected and smooth (t = 0.05), and from there on it and on coarser
grids, from the same state: means over the faces and cells of the coarse grid, which stay free of divergence. Errors in
percent of the norm of the fine solution at that time. The scheme is of first order: halving the spacing should halve
them, and the fine solution itself is off by its share.

    python benchmarks/flow_resolution.py [--fine 256] [--count 3]
"""

from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ups_server.pde import family
from ups_server.pde.grid import Array
from ups_server.pde.incompressible import to_centres, to_faces

START = 0.05
COARSE = (32, 64, 128)


def main(
    fine: Annotated[int, typer.Option(help="Cells along an axis of the solution compared with.")] = 256,
    count: Annotated[int, typer.Option(help="Flows.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the flows.")] = 5,
) -> None:
    """Compare grids."""
    flow = family("incompressible_ns_2d")
    rng, grid = np.random.default_rng(seed), flow.default_grid(fine)
    initial, force = flow.sample_initial(rng, count, grid), flow.sample_static(rng, count, grid)
    if force is None:
        raise RuntimeError("the flow has no force")
    nu, times = {"nu": np.full(count, 0.01)}, START + np.array([0.0, 0.05, 0.5])
    truth = flow.solve(initial, np.concatenate([[0.0], times]), grid, nu, force)[:, 1:]
    names = [field.name for field in flow.fields]
    table = Table("cells", "after", *names, title=f"Percent from the solution on {fine}^2 cells, nu = 0.01")
    errors = {}
    for n in (n for n in COARSE if fine % n == 0 and n < fine):
        start = coarsened(truth[:, 0], n)
        ours = flow.solve(start, times, flow.default_grid(n), nu, _coarsened_vector(force, n))
        for frame in (1, 2):
            exact = coarsened(truth[:, frame], n)
            square = ((ours[:, frame] - exact) ** 2).mean(axis=(1, 2)) / (exact**2).mean(axis=(1, 2))
            errors[n, frame] = 100.0 * np.sqrt(square).mean(axis=0)
            table.add_row(f"{n}^2", f"{times[frame] - START:.2f}", *(f"{error:.1f}" for error in errors[n, frame]))
    console = Console()
    console.print(table)
    steps = ", ".join(f"{error:.1f} %" for error in errors[64, 1])
    console.print(f"One step of the family (0.05) at 64^2: {steps} of {', '.join(names)}")


def coarsened(states: Array, n: int) -> Array:
    """States (N, n, n, 3): velocities are mean fluxes through the coarse faces, particles means over the cells."""
    size = states.shape[1] // n
    particles = states[..., 2].reshape(len(states), n, size, n, size).mean(axis=(2, 4))
    return np.concatenate([_coarsened_vector(states[..., :2], n), particles[..., None]], axis=-1)


def _coarsened_vector(vectors: Array, n: int) -> Array:
    size, count = vectors.shape[1] // n, len(vectors)
    u = to_faces(vectors[..., 0], 1)[:, size - 1 :: size]
    v = to_faces(vectors[..., 1], 2)[:, :, size - 1 :: size]
    return to_centres(u.reshape(count, n - 1, n, size).mean(axis=3), v.reshape(count, n, size, n - 1).mean(axis=2))


if __name__ == "__main__":
    typer.run(main)
