"""`ups serve` as a process of its own, as users start it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.api.conftest import DEADLINE_S, wait_until


@dataclass(frozen=True)
class Serving:
    url: str
    process: subprocess.Popen[str]

    def resident(self) -> int:
        """Bytes of the service and of every process it started."""
        root = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Serving]:
    """Serves from a data folder on a free port until the block ends; settings without their prefix."""
    with started(folder, settings) as found:
        yield found


@contextmanager
def started(
    folder: Path, settings: Mapping[str, str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[Serving]:
    """As `serving`; with more variables of the environment, and a log."""
    chosen = {f"UPS_{name}": value for name, value in settings.items()}
    with open(log or os.devnull, "w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "ups_server.cli", "serve", "--port", "0", "--data-dir", str(folder)],
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            env={**os.environ, **chosen, **(environment or {})},
        )
    assert process.stdout is not None
    try:
        url = re.findall(r"http://[\d.]+:\d+", process.stdout.readline())[0]
        threading.Thread(target=process.stdout.read, daemon=True).start()
        wait_until(lambda: ready(url), "the service is ready")
        yield Serving(url, process)
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


def ready(url: str) -> bool:
    """Does the engine answer?"""
    try:
        return httpx.get(f"{url}/readyz", timeout=DEADLINE_S).status_code == 200
    except httpx.TransportError:
        return False
