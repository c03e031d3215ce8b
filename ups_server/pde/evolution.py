"""The reference solver of evolution equations: many different equations in one batch, each as finely as it needs.

    v' = L v + N(v)    for the Fourier modes v of u

Everything linear, forcing included, is integrated exactly; the non-linear terms advance by ETDRK4, their products
computed on so many more points that they do not alias. Every trajectory is computed at two resolutions, the finer with
twice the points and twice the steps, until both agree; each pair is the previous one doubled.

Where a solution leaves every bound (a quadratic or cubic reaction can blow up in finite time), its later frames are
not a number.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.equation import TERMS
from ups_server.pde.grid import Array, Numbers
from ups_server.pde.integrators import ETDRK4, Spectrum
from ups_server.pde.solution import Exact, Grouped, Rows, Solution, at_times, in_groups

MIN_POINTS, MAX_POINTS = 256, 8192
"""Points of the coarsest and the finest computation."""
AGREEMENT = 2e-4
"""Largest difference between two resolutions, over the largest deviation of the trajectory from zero. The finer one
is then right to about a sixteenth of this: the method is of fourth order."""
COARSER_AGREEMENT = 2e-3
"""The same for what is to train on."""
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
    initial: Array, times: Array, length: float, coefficients: Numbers, forcing: Array | None = None
) -> Array:
    """(N, T, X) at `times`, from `initial` at times[0]; the rest as in `evolution_solution`."""
    return at_times(evolution_solution(initial, length, coefficients, forcing), times)[..., 0]


def evolution_solution(
    initial: Array, length: float, coefficients: Numbers, forcing: Array | None = None, agreement: float = AGREEMENT
) -> Solution:
    """The solution from `initial` (N, X) on a periodic box; its states are (N, X, 1).

    Args:
        coefficients: one array (N,) per term, by name; terms left out are absent.
        forcing: (N, X), what the coefficient of `forcing` multiplies.
        agreement: of two resolutions, see `AGREEMENT`.

    Raises:
        UserError: ``not_resolved``, from `Solution.advance`, where no resolution within reach gives an answer.
    """
    problems = _Problems.of(initial, length, coefficients, forcing)
    easy, hard = np.flatnonzero(problems.exact), np.flatnonzero(~problems.exact)
    # Those with similar steps together.
    groups = in_groups(hard[np.argsort(problems.rate()[hard], kind="stable")], GROUP)

    def begin(rows: Rows) -> Solution:
        chosen = problems.pick(rows)
        return Exact(initial[rows, :, None], chosen.at) if chosen.exact.all() else _Resolved(chosen, agreement)

    return Grouped(initial[..., None], [easy, *groups] if len(easy) else groups, begin)


class _Resolved(Solution):
    """Trajectories at two resolutions each, `doubling` of the coarsest and the next, that agree so far.

    Where they stop agreeing, the finer one becomes the coarser, and one finer still is computed from the start.
    """

    def __init__(self, problems: "_Problems", agreement: float) -> None:
        super().__init__(problems.initial[..., None])
        self._agreement = agreement
        self._problems = problems
        self._doubling = np.zeros(len(self.initial), dtype=np.int64)
        self._size = np.abs(problems.initial).max(axis=1)
        self._runs = [problems.start(_coarsest(problems.n, doubling)[0]) for doubling in (0, 1)]

    def saved(self) -> Array:
        # Of each trajectory its own modes and no more: a row means the same in any company.
        coarse, fine = self._runs
        whole = np.zeros((len(self.initial), 4 + 2 * sum(run.spectrum.shape[1] for run in self._runs)))
        whole[:, :4] = np.stack([self._doubling, self._size, coarse.alive, fine.alive], axis=1)
        for rows, run, modes, place in self._places():
            whole[rows, place] = np.ascontiguousarray(run.spectrum[rows, :modes]).view(np.float64)
        return whole

    def _restore(self, elapsed: float, saved: Array) -> None:
        self._doubling = saved[:, 0].astype(np.int64)
        self._size = saved[:, 1].copy()
        for level, run in enumerate(self._runs):
            run.alive = saved[:, 2 + level].astype(bool)
            run.spectrum = np.zeros((len(saved), self._modes(int(self._doubling.max()), level)), dtype=np.complex128)
        for rows, run, modes, place in self._places():
            run.spectrum[rows, :modes] = np.ascontiguousarray(saved[rows, place]).view(np.complex128)

    def _modes(self, doubling: int, level: int) -> int:
        return _coarsest(self._problems.n, doubling + level)[0] // 2

    def _places(self) -> "Iterator[tuple[Rows, _Run, int, slice]]":
        """Where the modes of some rows, of either resolution, are in what is saved of them."""
        for doubling in np.unique(self._doubling):
            first = 4
            for level, run in enumerate(self._runs):
                modes = self._modes(int(doubling), level)
                yield np.flatnonzero(self._doubling == doubling), run, modes, slice(first, first + 2 * modes)
                first += 2 * modes

    def _advance(self, elapsed: float) -> Array:
        """Raises UserError ``not_resolved``."""
        interval = elapsed - self.elapsed
        states = np.empty_like(self.initial)
        for doubling in np.unique(self._doubling):
            rows = np.flatnonzero(self._doubling == doubling)
            problems = self._problems.pick(rows)
            coarse, fine = (
                run.go(problems, rows, interval, *_coarsest(problems.n, int(doubling) + level))
                for level, run in enumerate(self._runs)
            )
            states[rows, :, 0] = fine
            apart = ~self._agree(rows, coarse, fine)
            while apart.any():
                rows, fine = rows[apart], fine[apart]
                finer = self._refine(rows, elapsed)
                states[rows, :, 0] = finer
                apart, fine = ~self._agree(rows, fine, finer), finer
        return states

    def _agree(self, rows: Rows, coarse: Array, fine: Array) -> NDArray[np.bool_]:
        """(R,): do two solutions (R, X) agree? One that is finite and one that is not do not."""
        same = np.isfinite(coarse) == np.isfinite(fine)
        gap = np.abs(np.nan_to_num(coarse) - np.nan_to_num(fine)).max(axis=1)
        self._size[rows] = np.maximum(self._size[rows], np.abs(np.nan_to_num(fine)).max(axis=1))
        bound = self._agreement * np.maximum(self._size[rows], np.finfo(float).tiny)
        agreed: NDArray[np.bool_] = same.all(axis=1) & (gap <= bound)
        return agreed

    def _refine(self, rows: Rows, elapsed: float) -> Array:
        """States (R, X) of the chosen rows at the next resolution, computed from the start."""
        doubling = int(self._doubling[rows[0]]) + 1
        if doubling == DOUBLINGS:
            raise UserError(
                "not_resolved",
                "the numerical solver found no resolution at which this solution settles",
                got={"states": len(rows), "points": _coarsest(self._problems.n, DOUBLINGS)[0], "time": elapsed},
                hint="raise the coefficient of u_xx or u_xxxx, start from a smoother state, or ask for earlier times",
            )
        self._doubling[rows] = doubling
        coarse, fine = self._runs
        coarse.take(rows, fine.spectrum[rows], fine.alive[rows])
        problems = self._problems.pick(rows)
        points, subdivision = _coarsest(problems.n, doubling + 1)
        begun = problems.start(points)
        found = begun.go(problems, np.arange(len(rows)), elapsed, points, subdivision)
        fine.take(rows, begun.spectrum, begun.alive)
        return found


def _coarsest(n: int, doubling: int) -> tuple[int, int]:
    """(points, subdivision of the step) of an attempt; the points are a multiple of the n given, and at least 2 n."""
    factor = max(2, math.ceil(MIN_POINTS / n))
    most = max(factor, MAX_POINTS // n)
    return n * min(factor * 2**doubling, most), 2**doubling


@dataclass(frozen=True)
class _Problems:
    """Different equations on one grid: initial states (N, X), coefficients (N,) by name, forcing (N, X)."""

    initial: Array
    length: float
    coefficients: dict[str, Array]
    forcing: Array

    @classmethod
    def of(cls, initial: Array, length: float, coefficients: Numbers, forcing: Array | None) -> "_Problems":
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

    def linear(self, modes: int) -> Spectrum:
        """(N, K): what multiplies each mode."""
        wave_number = 2.0 * np.pi / self.length * np.arange(modes, dtype=np.float64)
        return sum(
            (values[:, None] * TERMS[name].linear_symbol(wave_number) for name, values in self.coefficients.items()),
            start=np.zeros((len(self.initial), modes), dtype=np.complex128),
        )

    def nonlinear(self, modes: int) -> Callable[[Spectrum], Spectrum]:
        """All other terms of modes (N, K), forcing included."""
        wave_number = 2.0 * np.pi / self.length * np.arange(modes, dtype=np.float64)
        cubic, quadratic = self.factor(0, 3)[:, None], self.factor(0, 2)[:, None]
        flux = self.factor(1, 2)[:, None] * 1j * wave_number
        source = _low_modes(self.forcing, modes)
        products = (4 if cubic.any() else 3) * modes

        def terms(v: Spectrum) -> Spectrum:
            u = np.fft.irfft(v, n=products, axis=-1, norm="forward")
            square = np.fft.rfft(u * u, axis=-1, norm="forward")[:, :modes]
            total: Spectrum = (flux + quadratic) * square + source
            if cubic.any():
                total += cubic * np.fft.rfft(u**3, axis=-1, norm="forward")[:, :modes]
            return total

        return terms

    def at(self, elapsed: float) -> Array:
        """The states (N, X, 1) of equations that are linear, in one step."""
        points, _ = _coarsest(self.n, 0)
        modes = points // 2
        source = _low_modes(self.forcing, modes)
        v = ETDRK4.prepare(self.linear(modes), elapsed).advance(_low_modes(self.initial, modes), lambda _: source)
        return np.fft.irfft(v, n=points, axis=-1, norm="forward")[:, :: points // self.n, None]

    def start(self, points: int) -> "_Run":
        """The initial states on so many points."""
        return _Run(_low_modes(self.initial, points // 2), np.ones(len(self.initial), dtype=bool))


@dataclass
class _Run:
    """Trajectories at resolutions of their own.

    Attributes:
        spectrum: (N, K) of the finest; of coarser ones, the first modes.
        alive: (N,): have they stayed bounded?
    """

    spectrum: Spectrum
    alive: NDArray[np.bool_]
    _method: tuple[int, tuple[int, ...], ETDRK4] | None = None

    def take(self, rows: Rows, spectrum: Spectrum, alive: NDArray[np.bool_]) -> None:
        """Other modes (R, K') for the chosen rows."""
        if spectrum.shape[1] > self.spectrum.shape[1]:
            self.spectrum = np.pad(self.spectrum, ((0, 0), (0, spectrum.shape[1] - self.spectrum.shape[1])))
        self.spectrum[rows] = 0.0
        self.spectrum[rows, : spectrum.shape[1]] = spectrum
        self.alive[rows] = alive

    def go(self, problems: "_Problems", rows: Rows, interval: float, points: int, subdivision: int) -> Array:
        """States (R, X) of `problems`, which are those of the chosen rows, an interval later.

        Args:
            subdivision: what the step of the first attempt is divided by.
        """
        modes = points // 2
        spectrum, alive = self.spectrum[rows, :modes], self.alive[rows]
        # What is too large from the start has no say in the steps of the others.
        alive &= np.abs(spectrum).sum(axis=1) < UNBOUNDED
        spectrum[~alive] = 0.0
        size = np.abs(np.fft.irfft(spectrum, n=points, axis=-1, norm="forward")).max(axis=1)
        rate = problems.rate(size, _coarsest(problems.n, 0)[0])[alive]
        count = max(1, math.ceil(float(rate.max(initial=0.0)) * interval)) * subdivision
        # Intervals between frames differ by rounding; they share their coefficients.
        method = self._prepared(problems, rows, modes, float(f"{interval / count:.12g}"))
        nonlinear = problems.nonlinear(modes)
        with np.errstate(all="ignore"):
            for _ in range(count):
                if not alive.any():
                    break
                spectrum = method.advance(spectrum, nonlinear)
                alive &= np.abs(spectrum).sum(axis=1) < UNBOUNDED
                spectrum[~alive] = 0.0
        self.spectrum[rows, :modes] = spectrum
        self.alive[rows] = alive
        state = np.fft.irfft(spectrum, n=points, axis=-1, norm="forward")[:, :: points // problems.n]
        return np.where(alive[:, None], state, np.nan)

    def _prepared(self, problems: "_Problems", rows: Rows, modes: int, step: float) -> ETDRK4:
        """The method of the last interval where it is the same, else a new one."""
        key = tuple(rows.tolist())
        if self._method is not None:
            known_modes, known_rows, method = self._method
            if (known_modes, known_rows, method.step) == (modes, key, step):
                return method
        method = ETDRK4.prepare(problems.linear(modes), step)
        self._method = modes, key, method
        return method


def _low_modes(u: Array, modes: int) -> Spectrum:
    """Fourier coefficients 0 to modes - 1 of the trigonometric interpolant of u (N, X), X < 2 modes."""
    given = np.fft.rfft(u, axis=-1, norm="forward")
    if u.shape[-1] % 2 == 0:
        given[:, -1] *= 0.5
    spectrum = np.zeros((len(u), modes), dtype=np.complex128)
    spectrum[:, : given.shape[-1]] = given
    return spectrum
