"""Equations that nobody trained on: rollouts of a model from nothing but their terms, beside the reference solver's.

Each equation is one of `evolution_1d`'s sets that training never sees, with coefficients of its own, from a state of
its own, 20 steps of dt on 128 points. Besides, equations with the term that training never sees at all, and three
families told by their terms, with their usual coefficients, their own states and their own solvers. Arms:

- model: as it is served;
- no text: the features of all texts are zero; numbers and exact linear terms are there as always (`--body none`);
- random body: they are those of a language model with random weights (`--body random`);
- other text: every term is told by the text of another one;
- no equation: nothing of it arrives, not even its numbers;
- persistence: the initial state.

    python -m benchmarks.equations MODEL [-n 192] --json OUT
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups_server.errors import UserError
from ups_server.model.lead_config import NUMBERS
from ups_server.pde import family
from ups_server.pde.bounds import SLACK, exceeds, measured
from ups_server.pde.equation import TERMS
from ups_server.pde.families.evolution_1d import UNSEEN_TERM, Set, all_sets, draw_coefficients, held_out_sets
from ups_server.pde.metrics import error_moments, nrmse_trajectory
from ups_server.solvers.lead import LeadSolver, load_lead_solver
from ups_server.solvers.solver import Problem

SEED = 9_300_001
FAMILY = family("evolution_1d")
STEPS = 20
FAMILIES = ("advection", "burgers", "diffusion_reaction_1d")
FEWER = 4
"""Times fewer equations with the unseen term: many of them blow up, and are drawn again."""
RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Equations:
    """N problems, one equation each, and their solutions.

    Attributes:
        coefficients: (N,) by term. truth: (N, T + 1, X, 1). static: (N, X, 1).
    """

    coefficients: dict[str, Array]
    truth: Array
    static: Array

    @classmethod
    def drawn(cls, sets: Sequence[Set], count: int, seed: int) -> "Equations":
        """`count` problems that the reference solver resolves, the sets by turns."""
        rng = np.random.default_rng(seed)
        parts: list[tuple[dict[str, float], Array, Array]] = []
        grid = FAMILY.default_grid()
        times = np.arange(STEPS + 1, dtype=np.float64) * FAMILY.dt
        while len(parts) < count:
            own = draw_coefficients(rng, sets[len(parts) % len(sets)])
            rows = {name: np.array([own.get(name, 0.0)]) for name in TERMS}
            initial = FAMILY.fit_initial(FAMILY.sample_initial(rng, 1, grid), rows)
            static = FAMILY.sample_static(rng, 1, grid)
            assert static is not None
            try:
                solution = FAMILY.solve(initial, times, grid, rows, static=static)
            except UserError:
                continue
            if np.isfinite(solution).all():
                parts.append((own, solution[0], static[0]))
        return cls(
            {name: np.array([own.get(name, 0.0) for own, _, _ in parts]) for name in TERMS},
            np.stack([truth for _, truth, _ in parts]),
            np.stack([static for _, _, static in parts]),
        )

    @classmethod
    def kept(cls, folder: Path | None, name: str, sets: Sequence[Set], count: int) -> "Equations":
        """`drawn`, once and for all where there is a folder to keep them in."""
        file = None if folder is None else folder / f"{name}-{count}.npz"
        if file is None or not file.exists():
            found = cls.drawn(sets, count, SEED)
            if file is not None:
                numbers = np.stack(list(found.coefficients.values()))
                np.savez(file, truth=found.truth, static=found.static, coefficients=numbers)
            return found
        with np.load(file) as stored:
            return cls(dict(zip(TERMS, stored["coefficients"], strict=True)), stored["truth"], stored["static"])

    def rollout(self, solver: LeadSolver, known: bool = True) -> Array:
        """(N, T, X, 1) of a model; it is told nothing of the equations where they are not `known`."""
        told = {name: values.tolist() if known else [0.0] * len(values) for name, values in self.coefficients.items()}
        problem = Problem(FAMILY.id, told, FAMILY.default_grid(), FAMILY.boundary, FAMILY.dt)
        initial, static = (part.astype(np.float32) for part in (self.truth[:, 0], self.static))
        session = solver.session(problem, initial, static)
        return np.stack([session.step() for _ in range(STEPS)], axis=1).astype(np.float64)

    def scores(self, found: Array) -> dict[str, Any]:
        """nRMSE over the trajectory: its quartiles, the median's interval of 95 % by resampling, and what is finite.

        None where that part of the rollouts is not finite.
        """
        finite = np.isfinite(found).all(axis=(1, 2, 3))
        errors = nrmse_trajectory(error_moments(np.nan_to_num(found, posinf=0.0, neginf=0.0), self.truth[:, 1:]))
        errors = np.where(finite, errors, np.inf)
        rng = np.random.default_rng(0)
        medians = np.quantile(rng.choice(errors, (RESAMPLES, len(errors))), 0.5, axis=1, method="nearest")
        low, high = np.quantile(medians, [0.025, 0.975], method="nearest")
        quartiles = np.quantile(errors, [0.25, 0.5, 0.75, 0.9], method="nearest")
        names = ("lower_quartile", "median", "upper_quartile", "ninth_decile", "low", "high")
        inside = finite & ~self._beyond(found)
        return {
            **{name: float(value) if math.isfinite(value) else None
               for name, value in zip(names, [*quartiles, low, high], strict=True)},
            "finite": float(finite.mean()), "finite_and_inside_bounds": float(inside.mean()),
        }  # fmt: skip

    def _beyond(self, found: Array) -> NDArray[np.bool_]:
        """(N,): does a state leave the physical bounds of its equation?"""
        beyond = np.zeros(len(found), dtype=bool)
        for bound in FAMILY.bounds(self.truth[:, 0], self.coefficients, self.static):
            direction = -1.0 if bound.measure == "least" else 1.0
            limit = bound.limit + direction * SLACK * bound.scale
            for step in range(STEPS):
                beyond |= exceeds(bound.measure, measured(bound.measure, found[:, step, ..., bound.field]), limit)
        return beyond


def kinds(count: int) -> list[tuple[str, list[Set], int]]:
    """The sets of terms that training never sees by name, and how many equations of each kind are drawn."""
    unseen_term = [names for names in all_sets() if UNSEEN_TERM in names]
    return [
        ("unseen_combinations", sorted(held_out_sets(), key=sorted), count),
        (f"unseen_term_{UNSEEN_TERM}", unseen_term, count // FEWER),
    ]


def of_family(family_id: str, count: int, seed: int = SEED) -> Equations:
    """Problems of a family with its default coefficients, as equations of terms; its own solver is the truth."""
    own, rng = family(family_id), np.random.default_rng(seed)
    grid = FAMILY.default_grid()
    numbers = {entry.name: np.full(count, entry.default) for entry in own.coefficients}
    initial = own.sample_initial(rng, count, grid)
    times = np.arange(STEPS + 1, dtype=np.float64) * FAMILY.dt
    truth = own.solve(initial, times, grid, numbers)
    match family_id:
        case "advection":
            values = {"transport": -numbers["beta"]}
        case "burgers":
            values = {"self_advection": np.full(count, -1.0), "diffusion": numbers["nu"] / math.pi}
        case _:
            values = {"diffusion": numbers["nu"], "logistic": numbers["rho"]}
    coefficients = {name: values.get(name, np.zeros(count)) for name in TERMS}
    return Equations(coefficients, truth, np.zeros_like(initial))


def with_texts(model: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> LeadSolver:
    """The model with other features of the texts of terms."""
    solver = load_lead_solver(model)
    own = {text: feature for text, feature in solver.system.features.items() if text not in NUMBERS}
    solver.system.features = solver.system.features | change(own)
    return solver


def exchanged(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(features, [*list(features.values())[1:], next(iter(features.values()))], strict=True))


def measured_on(problems: Equations, model: Path) -> dict[str, Any]:
    plain = load_lead_solver(model)
    began = time.perf_counter()
    own = problems.rollout(plain)
    seconds = (time.perf_counter() - began) / len(own)
    arms = {
        "model": own,
        "no_text": problems.rollout(load_lead_solver(model, body="none")),
        "random_body": problems.rollout(load_lead_solver(model, body="random")),
        "other_text": problems.rollout(with_texts(model, exchanged)),
        "no_equation": problems.rollout(plain, known=False),
        "persistence": np.repeat(problems.truth[:, :1], STEPS, axis=1),
    }
    return {
        "equations": len(own),
        "seconds_a_rollout": seconds,
        **{name: problems.scores(rows) for name, rows in arms.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", "--count", type=int, default=192, help="equations of unseen sets of trained terms")
    parser.add_argument("--kept", type=Path, help="folder in which the problems are kept for another time")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"model": given.model.name, "seed": SEED, "steps": STEPS, "points": FAMILY.n}
    drawn = {name: (sets, count) for name, sets, count in kinds(given.count)}
    for name in (*drawn, *FAMILIES):
        own = (
            of_family(name, given.count // FEWER)
            if name in FAMILIES
            else Equations.kept(given.kept, name, *drawn[name])
        )
        found[name] = measured_on(own, given.model)
        for arm, scores in found[name].items():
            print(name, arm, scores, flush=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
