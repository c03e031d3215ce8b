"""The engine process: owns the device, advances every rollout.

Started as ``python -m ups_server.engine.process FD OPTIONS`` with one end of a socket pair and `ProcessOptions`
as JSON; ends when the other end closes. A thread reads messages, the main thread computes and sends.
"""

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.engine import protocol
from ups_server.engine.scheduler import Interruption, Scheduler, StepLimits
from ups_server.processes import configure_logs, keep_freed_memory
from ups_server.settings import EngineDevice, LogFormat, Settings
from ups_server.solvers.registry import ModelCache, choose_device, load
from ups_server.solvers.solver import Frames
from ups_server.tracing import OpenSpans, configure_traces

logger = logging.getLogger("ups_server.engine")

ALIVE_S = 1.0
"""While it computes, the process shows a sign of life this often, even where no frame is due for many steps."""


@dataclass(frozen=True)
class ProcessOptions:
    """How an engine process works.

    Attributes:
        learned: it runs trained models, and needs torch; the other kind runs the built-in solvers on the CPU.
        longest_step_s: a step of a built-in solver that takes longer is ended.
        cores: that it is kept on; none: any.
    """

    learned: bool
    device: str
    threads: int
    log_level: str
    log_format: LogFormat
    max_batch_rows: int
    step_memory_bytes: int
    models_memory_bytes: int
    longest_step_s: float | None = None
    cores: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, settings: Settings, learned: bool, longest_step_s: float | None = None, device: EngineDevice | None = None
    ) -> "ProcessOptions":
        """Args: device: of several engines, the one of this."""
        wanted = settings.device if device is None else device.torch_name
        cores = () if device is None else device.cores
        return cls(
            learned,
            wanted if learned else "cpu",
            len(cores) or max(1, settings.threads // max(1, len(settings.devices))),
            settings.log_level,
            settings.log_format,
            settings.max_batch_rows,
            settings.step_memory_bytes,
            settings.models_memory_bytes,
            longest_step_s,
            cores,
        )

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def read_messages(
    connection: socket.socket, inbox: "queue.SimpleQueue[protocol.Message]", interruption: Interruption | None
) -> None:
    """Feeds the inbox; ends the process at once when the other end is gone, whatever is being computed."""
    while (message := protocol.receive(connection)) is not None:
        if message[0]["op"] == "cancel" and interruption is not None:
            interruption.cancel(message[0]["id"])
        inbox.put(message)
    logger.info("the API process is gone; the engine ends")
    os._exit(0)


def keep_on(cores: Sequence[int]) -> None:
    """Keeps every thread of this process on these cores, those that libraries started when they were imported too."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def span_attributes(spec: dict[str, Any], options: ProcessOptions) -> dict[str, Any]:
    """What the span of a rollout says of it."""
    return {
        "ups.model": Path(spec["model"]).name,
        "ups.family": spec["problem"]["family"],
        "ups.n_steps": spec["n_steps"],
        "ups.device": options.device,
    }


def run(connection: socket.socket, options: ProcessOptions) -> None:
    """Serves messages until the connection closes."""
    device = choose_device(options.device)
    inbox: queue.SimpleQueue[protocol.Message] = queue.SimpleQueue()
    interruption = None if options.learned else Interruption(options.longest_step_s)
    threading.Thread(target=read_messages, args=(connection, inbox, interruption), daemon=True).start()
    last_sent = time.monotonic()
    outbox: list[bytes] = []
    spans = OpenSpans()

    def send(header: dict[str, Any], arrays: Sequence[Frames]) -> None:
        if header["op"] in ("end", "problem"):
            spans.end(header["id"], header["problem"]["code"] if "problem" in header else None)
        outbox.append(protocol.encode(header, arrays))

    def received() -> protocol.Message:
        header, arrays = inbox.get()
        if header["op"] == "rollout":
            spans.begin(header["id"], "rollout", header.get("trace", {}), span_attributes(header["spec"], options))
        elif header["op"] == "cancel":
            spans.end(header["id"], "cancelled")
        return header, arrays

    def post() -> None:
        """What a turn has to say goes in one piece: the frames of a batch wake the other end once."""
        nonlocal last_sent
        if outbox:
            last_sent = time.monotonic()
            connection.sendall(b"".join(outbox))
            outbox.clear()

    def changed(model: str, here: bool) -> None:
        send({"op": "loaded" if here else "unloaded", "model": model}, ())

    solvers = ModelCache(lambda model: load(model, device=device), options.models_memory_bytes, changed)
    limits = StepLimits(options.max_batch_rows, options.step_memory_bytes, ahead=int(device.startswith("cuda")))
    scheduler = Scheduler(solvers, send, limits, interruption)
    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))
        if options.learned:
            import torch

            keep_freed_memory()
            torch.set_num_threads(options.threads)
            stack.enter_context(torch.inference_mode())
        else:
            # Before it says that it is ready: from then on it is killed without a sign of life.
            import ups_server.solvers.classical  # noqa: F401
        send({"op": "ready", "device": device}, ())
        busy, reported = False, 0
        while True:
            post()
            while not busy or not inbox.empty():
                scheduler.handle(*received())
                busy = True
            busy = scheduler.step()
            if time.monotonic() - last_sent > ALIVE_S or (not busy and scheduler.work.steps > reported):
                reported = scheduler.work.steps
                send({"op": "alive", "work": asdict(scheduler.work)}, ())


def main() -> None:
    descriptor, document = sys.argv[1:]
    options = ProcessOptions(**json.loads(document))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API's; this process ends when the connection does
    configure_logs(options.log_level, options.log_format, "engine")
    configure_traces("engine")
    if options.cores:
        keep_on(options.cores)
    try:
        run(socket.socket(fileno=int(descriptor)), options)
    except ConnectionError:
        logger.info("the API process is gone; the engine ends")


if __name__ == "__main__":
    main()
