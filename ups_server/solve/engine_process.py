"""The engine process: owns the device, advances every rollout one step in turn.

Started as ``python -m ups_server.solve.engine_process FD DEVICE THREADS LOG_LEVEL`` with one end of a socket pair;
ends when the other end closes. A thread reads messages, the main thread computes and sends.
"""

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ups_server.errors import UserError
from ups_server.solve import engine_protocol as protocol
from ups_server.solve.engine import RolloutSpec
from ups_server.solve.solver import Frames, Session, Solver

logger = logging.getLogger("ups_server.engine")

ALIVE_S = 1.0
"""While it computes, the process shows a sign of life this often, even where no frame is due for many steps."""

Send = Callable[[dict[str, Any], Sequence[Frames]], None]


@dataclass
class ActiveRollout:
    """A rollout between two steps. `window` is how many more frames its reader can take."""

    id: int
    session: Session
    n_steps: int
    save_every: int
    window: int
    step: int = 0


class Scheduler:
    """Advances all rollouts in turn, one step each; they join and leave between any two steps."""

    def __init__(self, load: Callable[[str], Solver], send: Send) -> None:
        self._load = load
        self._send = send
        self._solvers: dict[str, Solver] = {}
        self._rollouts: dict[int, ActiveRollout] = {}

    @property
    def idle(self) -> bool:
        """Is there nothing to compute until the next message?"""
        return all(rollout.window == 0 for rollout in self._rollouts.values())

    def handle(self, header: dict[str, Any], arrays: list[Frames]) -> None:
        """Takes in one message."""
        match header["op"]:
            case "load":
                self._preload(header["model"])
            case "rollout":
                self._guarded(header["id"], lambda: self._join(header, arrays))
            case "more" if header["id"] in self._rollouts:
                self._rollouts[header["id"]].window += header["frames"]
            case "cancel":
                self._rollouts.pop(header["id"], None)

    def step_all(self) -> None:
        """One step of every rollout whose reader has room for a frame."""
        for rollout in [rollout for rollout in self._rollouts.values() if rollout.window > 0]:
            self._guarded(rollout.id, lambda rollout=rollout: self._advance(rollout))  # type: ignore[misc]

    def _solver(self, model: str) -> Solver:
        if model not in self._solvers:
            self._solvers[model] = self._load(model)
            self._send({"op": "loaded", "model": model}, ())
        return self._solvers[model]

    def _preload(self, model: str) -> None:
        try:
            self._solver(model)
        except Exception as error:
            logger.exception("model %s cannot be loaded", model)
            self._send({"op": "load_failed", "model": model, "reason": str(error)}, ())

    def _join(self, header: dict[str, Any], arrays: list[Frames]) -> None:
        spec = RolloutSpec.from_json(header["spec"])
        session = self._solver(spec.model).session(spec.problem, *arrays)
        self._rollouts[header["id"]] = ActiveRollout(
            header["id"], session, spec.n_steps, spec.save_every, header["window"]
        )
        self._send({"op": "started", "id": header["id"]}, ())

    def _advance(self, rollout: ActiveRollout) -> None:
        values = rollout.session.step()
        rollout.step += 1
        finite = np.isfinite(values)
        if not finite.all():
            self._leave(rollout, blow_up(rollout, ~finite))
        elif rollout.step % rollout.save_every == 0:
            rollout.window -= 1
            self._send({"op": "frame", "id": rollout.id, "step": rollout.step}, (values,))
        if rollout.step == rollout.n_steps and rollout.id in self._rollouts:
            self._leave(rollout, {"op": "end", "id": rollout.id})

    def _leave(self, rollout: ActiveRollout, message: dict[str, Any]) -> None:
        del self._rollouts[rollout.id]
        self._send(message, ())

    def _guarded(self, rollout_id: int, action: Callable[[], None]) -> None:
        """Runs one request's part: whatever it raises ends that request alone."""
        try:
            action()
        except UserError as error:
            self._fail(rollout_id, protocol.problem_as_json(error))
        except ConnectionError:
            raise
        except Exception as error:
            logger.exception("rollout %d failed", rollout_id)
            self._fail(rollout_id, {"code": "internal_error", "message": f"{type(error).__name__}: {error}"})

    def _fail(self, rollout_id: int, problem: dict[str, Any]) -> None:
        self._rollouts.pop(rollout_id, None)
        self._send({"op": "problem", "id": rollout_id, "problem": problem}, ())


def blow_up(rollout: ActiveRollout, bad: np.ndarray) -> dict[str, Any]:
    """The message that says where values (B, X..., C) stopped being finite."""
    fields = np.flatnonzero(bad.any(axis=tuple(range(bad.ndim - 1))))
    states = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    return {
        "op": "blow_up",
        "id": rollout.id,
        "step": rollout.step,
        "fields": fields.tolist(),
        "states": states.tolist(),
    }


def read_messages(connection: socket.socket, inbox: "queue.SimpleQueue[protocol.Message]") -> None:
    """Feeds the inbox; ends the process at once when the other end is gone, whatever is being computed."""
    while (message := protocol.receive(connection)) is not None:
        inbox.put(message)
    logger.info("the API process is gone; the engine ends")
    os._exit(0)


def run(connection: socket.socket, device: str, threads: int) -> None:
    """Serves messages until the connection closes."""
    import torch

    from ups_server.solve.solver import choose_device, load

    torch.set_num_threads(threads)
    device = choose_device(device)
    inbox: queue.SimpleQueue[protocol.Message] = queue.SimpleQueue()
    threading.Thread(target=read_messages, args=(connection, inbox), daemon=True).start()

    last_sent = time.monotonic()

    def send(header: dict[str, Any], arrays: Sequence[Frames]) -> None:
        nonlocal last_sent
        last_sent = time.monotonic()
        connection.sendall(protocol.encode(header, arrays))

    scheduler = Scheduler(lambda model: load(model, device=device), send)
    send({"op": "ready", "device": device}, ())
    with np.errstate(all="ignore"), torch.inference_mode():
        while True:
            while scheduler.idle or not inbox.empty():
                scheduler.handle(*inbox.get())
            scheduler.step_all()
            if time.monotonic() - last_sent > ALIVE_S:
                send({"op": "alive"}, ())


def main() -> None:
    descriptor, device, threads, log_level = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API's; this process ends when the connection does
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s engine: %(message)s")
    try:
        run(socket.socket(fileno=int(descriptor)), device, int(threads))
    except ConnectionError:
        logger.info("the API process is gone; the engine ends")


if __name__ == "__main__":
    main()
