"""What a second Ray worker is worth: eight adaptations by one of them, and by two, as `ups serve` would have them run.

A cluster of this machine: a head that runs nothing, and nodes of one core each. Both sides begin when every worker has
made an adaptation and so has PyTorch and its data in memory.

* ray_2_over_1_seconds: time of two over that of one (bar 0.7, on two cores that nobody else uses).

    python benchmarks/ray_workers.py [--adaptations 8] [--json OUT]
"""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ups_server.data.simulate import build_store
from ups_server.jobs.database import open_database
from ups_server.jobs.spec import FineTuningSpec, JobState
from ups_server.jobs.store import JobStore
from ups_server.pde import family
from ups_server.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
SPEC = FineTuningSpec(model="ups-mini", training_file="reaction", n_trajectories=4, max_steps=8)


class RayCluster:
    """Nodes of a Ray cluster on loopback, behind a token; the head runs nothing."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        # Workers as nice as everybody else: Ray's own are starved on a machine that is busy.
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
        }
        self._session = tempfile.TemporaryDirectory(prefix="ray-")  # paths of sockets have to be short
        self.nodes: list[subprocess.Popen[bytes]] = []
        head = ("--head", "--port", str(port), "--temp-dir", self._session.name, "--include-dashboard=0")
        self._start(*head, "--num-cpus", "0")

    def add_node(self) -> None:
        """One of one core."""
        self._start("--address", self.address, "--num-cpus", "1")

    def _start(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address", "127.0.0.1"]
        process = subprocess.Popen(
            [*command, "--object-store-memory", str(100 * 2**20), *options],
            cwd=REPOSITORY,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.nodes.append(process)
        assert process.stdout is not None
        while b"runtime started" not in (line := process.stdout.readline()):
            if not line:
                raise RuntimeError("a node of Ray did not start")
        threading.Thread(target=process.stdout.read, daemon=True).start()

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """All of its processes, Ray's own among them."""
        if node.poll() is None:
            kill_tree(node.pid)
        node.wait(timeout=60)

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
            assert node.stdout is not None
            node.stdout.close()
        self._session.cleanup()


def kill_tree(process_id: int) -> None:
    """A process and all that it has started."""
    root = psutil.Process(process_id)
    for process in [root, *root.children(recursive=True)]:
        process.kill()


@contextmanager
def dispatching(settings: Settings, cluster: RayCluster) -> Iterator[None]:
    """The process that `ups serve` starts for jobs."""
    with subprocess.Popen(
        [sys.executable, "-m", "ups_server.jobs.dispatch", "benchmark"],
        stdin=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, **cluster.environment},
    ) as process:
        assert process.stdin is not None
        process.stdin.write(settings.clear_json().encode() + b"\n")
        process.stdin.flush()
        yield
        process.stdin.close()


def run(store: JobStore, count: int) -> float:
    """Seconds that so many adaptations take."""
    jobs = [store.create(SPEC)[0].id for _ in range(count)]
    began = time.perf_counter()
    while not all(store.get(job).final for job in jobs):
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    for job in map(store.get, jobs):
        if job.state is not JobState.SUCCEEDED or job.attempt != 1:
            raise RuntimeError(f"{job.id}: {job.state.value} at attempt {job.attempt}, {job.error}")
    return seconds


def measure(adaptations: int) -> dict[str, Any]:
    """Both sides, one after the other."""
    found: dict[str, Any] = {"adaptations": adaptations, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder, cluster = Path(name), RayCluster()
        build_store(family("diffusion_reaction_1d"), {}, 7, 128, 0, folder / "files" / "reaction" / "store")
        database = open_database(folder)
        store = JobStore(database)
        try:
            for workers in (1, 2):
                cluster.add_node()
                settings = Settings(
                    data_dir=folder, device="cpu", worker_threads=1, job_poll_s=0.05, executor="ray",
                    executor_jobs=workers, ray_address=cluster.address,
                )  # fmt: skip
                with dispatching(settings, cluster):
                    run(store, workers)  # each then has what it needs in memory
                    found[f"seconds_{workers}"] = round(run(store, adaptations), 2)
        finally:
            cluster.close()
            database.close()
    return {**found, "ray_2_over_1_seconds": round(found["seconds_2"] / found["seconds_1"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adaptations", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = measure(options.adaptations)
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
