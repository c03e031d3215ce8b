"""The reference solver of evolution equations: many different equations in one batch, each as finely as it needs.

    v' = L v + N(v)    for the Fourier modes v of u

Everything linear, forcing included, is integrated exactly; the non-linear terms advance by ETDRK4, their products
computed on so many more points that they do not alias. Every trajectory is computed at two resolutions, the finer with
twice the points and twice the steps, until both agree; each pair is the previous one doubled.

Where a solution leaves every bound (a quadratic or cubic reaction can blow up in finite time), its later frames are
not a number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.etdrk4 import ETDRK4, Spectrum
from ups_server.pde.evolution.terms import TERMS

Array = NDArray[np.float64]

MIN_POINTS, MAX_POINTS = 256, 8192
"""Points of the coarsest and the finest computation."""
AGREEMENT = 2e-4
"""Largest difference between two resolutions, over the largest deviation of the trajectory from zero. The finer one
is then right to about a sixteenth of this: the method is of fourth order."""
COURANT = 2.0
"""Largest k_max |c u| step of the first attempt."""
REACTION = 0.125
"""Largest rate of the reactions times the step of the first attempt."""
DOUBLINGS = 7
"""Of the resolution, at most."""
UNBOUNDED = 1e4
"""Times the size of a state of order one: beyond it a solution counts as blown up."""
GROUP = 32
"""Trajectories advanced together."""


def solve_evolution(
    initial: Array, times: Array, length: float, coefficients: Mapping[str, Array], forcing: Array | None = None
) -> Array:
    """The solution (N, T, X) at `times` from `initial` (N, X) at times[0], on a periodic box.

    Args:
        coefficients: one array (N,) per term, by name; terms left out are absent.
        forcing: (N, X), what the coefficient of `forcing` multiplies.

    Raises:
        UserError: ``not_resolved`` where no resolution within reach gives an answer.
    """
    problems = _Problems.of(initial, length, coefficients, forcing)
    solution = np.empty((len(initial), len(times), initial.shape[1]))
    easy = problems.exact
    if easy.any():
        solution[easy] = problems.pick(np.flatnonzero(easy)).run(times, *_coarsest(initial.shape[1], 0))
    pending = np.flatnonzero(~easy)
    coarse = _attempt(problems, pending, times, 0)
    for doubling in range(1, DOUBLINGS + 1):
        if not len(pending):
            break
        fine = _attempt(problems, pending, times, doubling)
        agreed = _agree(coarse, fine)
        solution[pending[agreed]] = fine[agreed]
        pending, coarse = pending[~agreed], fine[~agreed]
    if len(pending):
        raise UserError(
            "not_resolved",
            "the numerical solver found no resolution at which this solution settles",
            got={"states": pending.tolist(), "points": _coarsest(initial.shape[1], DOUBLINGS)[0]},
            hint="raise the coefficient of u_xx or u_xxxx, start from a smoother state, or ask for earlier times",
        )
    return solution


def _coarsest(n: int, doubling: int) -> tuple[int, int]:
    """(points, subdivision of the step) of an attempt; the points are a multiple of the n given, and at least 2 n."""
    factor = max(2, math.ceil(MIN_POINTS / n))
    most = max(factor, MAX_POINTS // n)
    return n * min(factor * 2**doubling, most), 2**doubling


def _attempt(problems: "_Problems", rows: NDArray[np.int64], times: Array, doubling: int) -> Array:
    """(R, T, X): the chosen rows, those with similar steps together."""
    solution = np.empty((len(rows), len(times), problems.n))
    order = np.argsort(problems.rate()[rows]) if len(rows) else rows
    for start in range(0, len(rows), GROUP):
        chosen = order[start : start + GROUP]
        solution[chosen] = problems.pick(rows[chosen]).run(times, *_coarsest(problems.n, doubling))
    return solution


def _agree(coarse: Array, fine: Array) -> NDArray[np.bool_]:
    """(R,): do two solutions (R, T, X) agree? One that is finite and one that is not do not."""
    same = np.isfinite(coarse) == np.isfinite(fine)
    gap = np.abs(np.nan_to_num(coarse) - np.nan_to_num(fine)).max(axis=(1, 2))
    size = np.abs(np.nan_to_num(fine)).max(axis=(1, 2))
    agreed: NDArray[np.bool_] = same.all(axis=(1, 2)) & (gap <= AGREEMENT * np.maximum(size, np.finfo(float).tiny))
    return agreed


@dataclass(frozen=True)
class _Problems:
    """Different equations on one grid: initial states (N, X), coefficients (N,) by name, forcing (N, X)."""

    initial: Array
    length: float
    coefficients: dict[str, Array]
    forcing: Array

    @classmethod
    def of(cls, initial: Array, length: float, coefficients: Mapping[str, Array], forcing: Array | None) -> "_Problems":
        given = {name: np.asarray(values, dtype=np.float64) for name, values in coefficients.items()}
        strength = given.pop("forcing", np.zeros(len(initial)))
        field = np.zeros_like(initial) if forcing is None else strength[:, None] * forcing
        return cls(initial, length, {name: values for name, values in given.items() if values.any()}, field)

    @property
    def n(self) -> int:
        return len(self.initial[0])

    def pick(self, rows: NDArray[np.int64]) -> "_Problems":
        chosen = {name: values[rows] for name, values in self.coefficients.items()}
        return _Problems(self.initial[rows], self.length, chosen, self.forcing[rows])

    def factor(self, derivative: int, power: int) -> Array:
        """(N,): what multiplies ``d^derivative/dx^derivative (u^power)``."""
        total = np.zeros(len(self.initial))
        for name, values in self.coefficients.items():
            for piece in TERMS[name].pieces:
                if (piece.derivative, piece.power) == (derivative, power):
                    total = total + piece.factor * values
        return total

    @property
    def exact(self) -> NDArray[np.bool_]:
        """(N,): is all of it linear, so that one step reaches any time?"""
        curved = [values != 0.0 for name, values in self.coefficients.items() if not TERMS[name].linear]
        return ~np.any(curved, axis=0) if curved else np.ones(len(self.initial), dtype=bool)

    def rate(self, span: Array | None = None, points: int = MIN_POINTS) -> Array:
        """(N,): the rate of the non-linear terms, in steps of the first attempt; `span` (N,) is the largest abs(u)."""
        size = np.abs(self.initial).max(axis=1) if span is None else span
        shortest = np.pi * points / self.length
        advection = 2.0 * np.abs(self.factor(1, 2)) * size * shortest / COURANT
        reaction = 2.0 * np.abs(self.factor(0, 2)) * size + 3.0 * np.abs(self.factor(0, 3)) * size**2
        return advection + reaction / REACTION

    def run(self, times: Array, points: int, subdivision: int) -> Array:
        """(N, T, X) on `points` points, with the step of the first attempt divided by `subdivision`."""
        modes = points // 2
        wave_number = 2.0 * np.pi / self.length * np.arange(modes, dtype=np.float64)
        linear = sum(
            (values[:, None] * TERMS[name].linear_symbol(wave_number) for name, values in self.coefficients.items()),
            start=np.zeros((len(self.initial), modes), dtype=np.complex128),
        )
        cubic = self.factor(0, 3)[:, None]
        quadratic, flux = self.factor(0, 2)[:, None], self.factor(1, 2)[:, None] * 1j * wave_number
        source = _low_modes(self.forcing, modes)
        products = (4 if cubic.any() else 3) * modes
        curved = not self.exact.all()

        def nonlinear(v: Spectrum) -> Spectrum:
            if not curved:
                return source
            u = np.fft.irfft(v, n=products, axis=-1, norm="forward")
            square = np.fft.rfft(u * u, axis=-1, norm="forward")[:, :modes]
            total: Spectrum = (flux + quadratic) * square + source
            if cubic.any():
                total += cubic * np.fft.rfft(u**3, axis=-1, norm="forward")[:, :modes]
            return total

        spectrum, stride = _low_modes(self.initial, modes), points // self.n
        solution = np.empty((len(self.initial), len(times), self.n))
        solution[:, 0] = self.initial
        alive = np.ones(len(self.initial), dtype=bool)
        method = ETDRK4.prepare(linear, 0.0)
        coarsest = _coarsest(self.n, 0)[0]
        for frame, interval in enumerate(np.diff(times), start=1):
            size = np.abs(np.fft.irfft(spectrum, n=points, axis=-1, norm="forward")).max(axis=1)
            needed = float(np.max(self.rate(size, coarsest)[alive], initial=0.0)) * interval if curved else 0.0
            count = max(1, math.ceil(needed)) * (subdivision if curved else 1)
            if not math.isclose(interval / count, method.step, rel_tol=1e-9):
                method = ETDRK4.prepare(linear, interval / count)
            with np.errstate(all="ignore"):
                for _ in range(count):
                    spectrum = method.advance(spectrum, nonlinear)
                    alive &= np.abs(spectrum).sum(axis=1) < UNBOUNDED
                    spectrum[~alive] = 0.0
            state = np.fft.irfft(spectrum, n=points, axis=-1, norm="forward")[:, ::stride]
            solution[:, frame] = np.where(alive[:, None], state, np.nan)
        return solution


def _low_modes(u: Array, modes: int) -> Spectrum:
    """Fourier coefficients 0 to modes - 1 of the trigonometric interpolant of u (N, X), X < 2 modes."""
    given = np.fft.rfft(u, axis=-1, norm="forward")
    if u.shape[-1] % 2 == 0:
        given[:, -1] *= 0.5
    spectrum = np.zeros((len(u), modes), dtype=np.complex128)
    spectrum[:, : given.shape[-1]] = given
    return spectrum
