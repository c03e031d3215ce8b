"""The scheduler of the engine process: turns, windows, cancellation, failures that stay with their request."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ups_server.engine.engine import RolloutSpec
from ups_server.engine.scheduler import Scheduler, StepLimits
from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.solvers.classical import Numerical
from ups_server.solvers.limits import Ended, StateLimit
from ups_server.solvers.registry import ModelCache
from ups_server.solvers.solver import Frames, Problem, Session, Solver


class Counting:
    """Adds one in every step; goes wrong at step `bad`: `nan`, or `raise`."""

    name = "counting"

    def __init__(self, mode: str, bad: int) -> None:
        self.mode, self.bad = mode, bad

    def dt(self, family: str) -> float:
        return 1.0

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        if self.mode == "refuse":
            raise UserError("dt_mismatch", "no", got=problem.dt, expected=[1.0])
        return CountingSession(self, initial)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        return None


class CountingSession:
    def __init__(self, solver: Counting, initial: Frames) -> None:
        self.solver, self.state, self.steps = solver, initial.copy(), 0

    def step(self) -> Frames:
        self.steps += 1
        self.state = self.state + 1
        if self.steps == self.solver.bad:
            if self.solver.mode == "raise":
                raise RuntimeError("broken")
            self.state[1, 2, 0] = np.nan
        return self.state


SOLVERS: Mapping[str, Callable[[], Solver]] = {
    "good": lambda: Counting("good", -1),
    "nan": lambda: Counting("nan", 3),
    "raise": lambda: Counting("raise", 2),
    "refuse": lambda: Counting("refuse", 0),
    "numerical": Numerical,
}


def load(model: str) -> Solver:
    if model not in SOLVERS:
        raise UserError("unknown_model", "no such model")
    return SOLVERS[model]()


class Wire:
    """A scheduler and what it sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], list[Frames]]] = []
        solvers = ModelCache(load, 1, lambda model, here: self.send({"op": "loaded", "model": model}, ()))
        self.scheduler = Scheduler(solvers, self.send, StepLimits(rows=4, memory=1))

    def send(self, header: dict[str, Any], arrays: Sequence[Frames]) -> None:
        self.sent.append((header, [array.copy() for array in arrays]))

    def start(
        self, rollout_id: int, model: str, n_steps: int, save_every: int = 1, window: int = 100,
        limits: tuple[StateLimit, ...] = (), initial: Frames | None = None,
    ) -> None:  # fmt: skip
        burgers = family("burgers")
        problem = Problem("burgers", {"nu": 0.1}, Grid((8,), burgers.extent), burgers.boundary, 0.05)
        spec = RolloutSpec(model, problem, n_steps, save_every, limits=limits)
        header = {"op": "rollout", "id": rollout_id, "spec": spec.as_json(), "window": window}
        self.scheduler.handle(header, [np.zeros((2, 8, 1), dtype=np.float32) if initial is None else initial])

    def ops(self, rollout_id: int) -> list[str]:
        return [header["op"] for header, _ in self.sent if header.get("id") == rollout_id]

    def frames(self, rollout_id: int) -> list[int]:
        return [header["step"] for header, _ in self.sent if header["op"] == "frame" and header["id"] == rollout_id]

    def run(self) -> None:
        while self.scheduler.step():
            pass


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_every_kept_step_is_a_frame(wire: Wire) -> None:
    wire.start(1, "good", n_steps=6, save_every=2)
    wire.run()
    assert wire.ops(1) == ["started", "frame", "frame", "frame", "end"]
    assert wire.frames(1) == [2, 4, 6]
    values = [arrays[0][0, 0, 0] for header, arrays in wire.sent if header["op"] == "frame"]
    assert values == [2, 4, 6]


def test_rollouts_take_turns_and_join_at_any_step(wire: Wire) -> None:
    wire.start(1, "good", n_steps=4)
    wire.scheduler.step()
    wire.start(2, "good", n_steps=2)
    wire.run()
    order = [(header["id"], header["step"]) for header, _ in wire.sent if header["op"] == "frame"]
    # The newcomer goes first.
    assert order == [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (1, 4)]


def test_a_slow_reader_pauses_its_rollout_only(wire: Wire) -> None:
    wire.start(1, "good", n_steps=5, window=2)
    wire.start(2, "good", n_steps=4)
    wire.run()
    assert wire.frames(1) == [1, 2]
    assert wire.frames(2) == [1, 2, 3, 4]
    wire.scheduler.handle({"op": "more", "id": 1, "frames": 10}, [])
    wire.run()
    assert wire.frames(1) == [1, 2, 3, 4, 5]


def test_cancel(wire: Wire) -> None:
    wire.start(1, "good", n_steps=5)
    wire.scheduler.step()
    wire.scheduler.handle({"op": "cancel", "id": 1}, [])
    assert not wire.scheduler.step()
    assert wire.ops(1) == ["started", "frame"]
    wire.scheduler.handle({"op": "cancel", "id": 1}, [])
    wire.scheduler.handle({"op": "more", "id": 1, "frames": 1}, [])


def test_what_is_not_finite_ends_its_state_and_no_other(wire: Wire) -> None:
    wire.start(1, "nan", n_steps=5)
    wire.run()
    assert wire.ops(1) == ["started", "frame", "frame", "ended", "frame", "frame", "frame", "end"]
    (ended,) = (Ended.from_json(header["states_ended"]) for header, _ in wire.sent if header["op"] == "ended")
    assert ended == Ended(3, (0,), (1,))
    frames = np.stack([arrays[0] for header, arrays in wire.sent if header["op"] == "frame"])
    np.testing.assert_array_equal(frames[:, 0, 0, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(frames[:, 1, 0, 0], [1, 2, np.nan, np.nan, np.nan])


def test_what_a_solver_refuses_ends_its_state_with_the_reason(wire: Wire) -> None:
    waves = np.sin(2.0 * np.pi * np.arange(8) / 8)[None, :, None] * np.array([1.0, 1e12, 0.5])[:, None, None]
    wire.start(1, "numerical", n_steps=2, initial=waves.astype(np.float32))
    wire.start(2, "numerical", n_steps=2, initial=waves[1:2].astype(np.float32))
    wire.run()
    assert wire.ops(1) == ["started", "ended", "frame", "frame", "end"]
    (ended,) = (Ended.from_json(header["states_ended"]) for header, _ in wire.sent if header["op"] == "ended")
    reason = "stopped being finite: the shocks of this state are too thin for the reference solver"
    assert ended == Ended(1, (0,), (1,), words=reason)
    problems = [(header["id"], header["problem"]["code"]) for header, _ in wire.sent if header["op"] == "problem"]
    assert problems == [(2, "viscosity_too_small")], "nothing is left of it"


def test_once_all_states_have_ended_the_rollout_has(wire: Wire) -> None:
    """One leaves its limit after two steps, one is not finite after three; nothing is computed or sent after that."""
    limits = (StateLimit(0, "greatest", (1.5, 9.0), "outside_bounds", "at most so much"),)
    wire.start(1, "nan", n_steps=50, limits=limits)
    wire.run()
    assert wire.ops(1) == ["started", "frame", "ended", "frame", "ended", "end"]
    first, second = (Ended.from_json(header["states_ended"]) for header, _ in wire.sent if header["op"] == "ended")
    assert first == Ended(2, (0,), (0,), "outside_bounds", "at most so much", 2.0, 1.5)
    assert second == Ended(3, (0,), (1,))
    assert wire.scheduler.work.steps == 3


def test_limits_hold_between_the_frames_that_are_kept(wire: Wire) -> None:
    limits = (
        StateLimit(0, "least", (-1.0,), "outside_bounds", "a"),
        StateLimit(0, "mean", (2.5,), "outside_bounds", "b"),
    )
    wire.start(1, "good", n_steps=8, save_every=4, limits=limits)
    wire.run()
    assert wire.ops(1) == ["started", "ended", "end"]
    (ended,) = (Ended.from_json(header["states_ended"]) for header, _ in wire.sent if header["op"] == "ended")
    assert ended == Ended(3, (0,), (0, 1), "outside_bounds", "b", 3.0, 2.5)


def test_a_failure_stays_with_its_request(wire: Wire) -> None:
    wire.start(1, "raise", n_steps=5)
    wire.start(2, "good", n_steps=3)
    wire.start(3, "refuse", n_steps=3)
    wire.start(4, "absent", n_steps=3)
    wire.run()
    assert wire.ops(1) == ["started", "frame", "problem"]
    assert wire.ops(2) == ["started", "frame", "frame", "frame", "end"]
    problems = {header["id"]: header["problem"]["code"] for header, _ in wire.sent if header["op"] == "problem"}
    assert problems == {1: "internal_error", 3: "dt_mismatch", 4: "unknown_model"}


def test_preload_says_what_happened(wire: Wire) -> None:
    wire.scheduler.handle({"op": "load", "model": "good"}, [])
    wire.scheduler.handle({"op": "load", "model": "absent"}, [])
    assert [(header["op"], header["model"]) for header, _ in wire.sent] == [
        ("loaded", "good"),
        ("load_failed", "absent"),
    ]
