"""A solver for every family: all is mixed at once, and every field is its mean from the first step on."""

import numpy as np

from ups_server.pde import family
from ups_server.solvers.solver import Frames, Problem


class MixedSession:
    """One rollout; `saved` and `restore` let it go on in another process."""

    def __init__(self, initial: Frames) -> None:
        space = tuple(range(1, initial.ndim - 1))
        self._state: Frames = np.broadcast_to(initial.mean(axis=space, keepdims=True), initial.shape).copy()

    def step(self) -> Frames:
        return self._state

    def saved(self) -> Frames:
        return self._state

    def restore(self, step: int, saved: Frames) -> None:
        self._state = saved


class Mixed:
    name = "mixed"

    def dt(self, family_id: str) -> float:
        return family(family_id).dt

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> MixedSession:
        return MixedSession(initial)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames:
        frames = truth[:, :-1]
        space = tuple(range(2, frames.ndim - 1))
        result: Frames = np.broadcast_to(frames.mean(axis=space, keepdims=True), frames.shape).copy()
        return result
