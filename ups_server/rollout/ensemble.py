"""Ensembles: how far a rollout moves when its initial state does. Members are rows of one rollout, beside the control.

A perturbation of a field is ``amplitude * spread * r(x)``: `spread` is the root mean square deviation of the field from
its mean over the box, r a smooth random function of mean square 1, a sum of waves of up to `CYCLES` cycles per box with
falling normal amplitudes; its mean is 0 where no side prescribes a value. Positive fields are multiplied by
``exp(amplitude * spread * r / mean)``. Along a periodic axis the waves are Fourier's; where a side prescribes the value
they vanish there, elsewhere they have no slope. The same seed perturbs by the same function on every grid. Perturbed
velocities are not made divergence-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ups_server.errors import UserError
from ups_server.pde import BoundaryKind, Family, Grid
from ups_server.pde.grid import Array
from ups_server.solvers.solver import Frames
from ups_server.specs import EnsembleAnswer, EnsembleSpec, Flag

CYCLES = 8
DECAY = 4.0
"""Wave numbers in cycles per box: the highest, and where amplitudes have fallen by exp(-1/2)."""
PINNED = (BoundaryKind.DIRICHLET, BoundaryKind.NO_SLIP)


@dataclass(frozen=True)
class Ensemble:
    """Turns states of control and members into statistics of them."""

    spec: EnsembleSpec

    @property
    def statistics(self) -> list[str]:
        """Names of the rows of the answer."""
        return ["control", "mean", "spread", *(f"quantile {level:g}" for level in self.spec.quantiles)]

    def summary(self, flags: Sequence[Flag]) -> EnsembleAnswer:
        """Args: flags, of which those of ended states name the members that the statistics leave out from there."""
        ended = {state for flag in flags if flag.code == "blow_up" for state in flag.model_dump()["states"] if state}
        return EnsembleAnswer(
            members=self.spec.members,
            seed=self.spec.seed,
            amplitude=self.spec.amplitude,
            statistics=self.statistics,
            ended=sorted(ended),
        )

    def in_words(self, states: Sequence[int]) -> str:
        """Some of control and members, by their numbers."""
        members = [state for state in states if state]
        named = f"{len(members)} members" if len(members) > 1 else f"member {members[0]}" if members else ""
        return " and ".join(filter(None, ["the control" if 0 in states else "", named]))

    def reduce(self, states: Frames) -> Frames:
        """Control and members (1 + M, X..., C) -> statistics (S, X..., C): of the members, beside the control.

        Members that have ended are left out; a statistic of too few is NaN.
        """
        members = states[1:].astype(np.float64)
        members = members[np.isfinite(members).all(axis=tuple(range(1, members.ndim)))]
        found = np.full((len(self.statistics), *states.shape[1:]), np.nan)
        found[0] = states[0]
        if len(members):
            found[1], found[3:] = members.mean(0), np.quantile(members, self.spec.quantiles, axis=0)
        if len(members) > 1:
            found[2] = members.std(0, ddof=1)
        return found.astype(np.float32)


def perturbed(initial: Frames, spec: EnsembleSpec, equation: Family, grid: Grid) -> Frames:
    """The state (1, X..., C) and its perturbations, (1 + M, X..., C).

    Raises:
        UserError: ``wrong_shape`` for several states, ``state_too_large`` where a member would not be finite.
    """
    if len(initial) != 1:
        raise UserError("wrong_shape", "an ensemble perturbs one state", got=len(initial), expected=1)
    state = initial.astype(np.float64)
    space = tuple(range(1, state.ndim - 1))
    mean, spread = state.mean(space, keepdims=True), state.std(space, keepdims=True)
    size = spec.amplitude * np.where(spread > 0.0, spread, np.abs(mean))
    shift = size * random_functions(np.random.default_rng(spec.seed), spec.members, equation, grid)
    positive = np.array([field.positive for field in equation.fields]) & (mean > 0.0)
    safe = np.where(positive, mean, 1.0)
    with np.errstate(all="ignore"):
        members = np.where(positive, state * np.exp(np.where(positive, shift, 0.0) / safe), state + shift)
        found = np.concatenate([initial, members.astype(np.float32)])
    if not np.isfinite(found).all():
        raise UserError(
            "state_too_large",
            "perturbed, this state is beyond the largest number of 32 bits",
            got=f"max |u| = {np.abs(state).max():.3g}",
            expected="at most 3.4e+38 after the perturbation",
            hint="use a smaller amplitude, or other units",
        )
    return found


def random_functions(rng: np.random.Generator, count: int, equation: Family, grid: Grid) -> Array:
    """(M, X..., C) of mean square 1 each, and of mean 0 where no side prescribes a value."""
    waves = [
        _waves((points - low) / (high - low), sides)
        for points, (low, high), sides in zip(grid.axes, grid.extent, equation.boundary.sides, strict=True)
    ]
    modes = tuple(len(wave) for wave, _ in waves)
    functions = rng.standard_normal((count, len(equation.fields), *modes))
    for wave, cycles in waves:
        falling = np.exp(-0.5 * (cycles / DECAY) ** 2)
        # The axis of these modes is the first of those left; its points become the last axis.
        functions = np.tensordot(functions, falling[:, None] * wave, axes=(2, 0))
    space = tuple(range(2, functions.ndim))
    if not any(side in PINNED for sides in equation.boundary.sides for side in sides):
        functions -= functions.mean(space, keepdims=True)
    functions /= np.sqrt(np.square(functions).mean(space, keepdims=True))
    return np.moveaxis(functions, 1, -1)


def _waves(x: Array, sides: tuple[BoundaryKind, BoundaryKind]) -> tuple[Array, Array]:
    """Waves (K, X) at points x from 0 to 1, and the cycles per box (K,) of each."""
    if sides[0] is BoundaryKind.PERIODIC:
        whole = np.arange(CYCLES + 1.0)
        phases = 2.0 * np.pi * whole[:, None] * x
        return np.concatenate([np.cos(phases), np.sin(phases[1:])]), np.concatenate([whole, whole[1:]])
    low, high = (side in PINNED for side in sides)
    half = np.arange(2.0 * CYCLES) + (0.0 if low == high else 0.5) + (1.0 if low and high else 0.0)
    phases = np.pi * half[:, None] * x
    return np.sin(phases) if low else np.cos(phases), half / 2.0
