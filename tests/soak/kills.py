"""A real service whose processes are killed at random moments, while clients have it compute, store, judge and tune.

    python -m tests.soak.kills --kills 50 --seed 0 --json kills.json

Engine, worker, examiner and the service itself get SIGKILL; the service is started again, the rest it starts by itself.
Clients send asynchronous deterministic rollouts of every family, uploads, evaluations and adaptations, repeat what
breaks off as any client would, and go on until all is done. What must hold: every job and file that was accepted is
there, once, and ends well; rollouts have the bits of an undisturbed run; no valid upload is refused. The program says
where it does not, and then ends with status 1.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import psutil

from tests.small_models import write_language_model, write_parent
from ups_server.catalog import shipped_folder
from ups_server.client import Client
from ups_server.data.simulate import build_store
from ups_server.pde import Grid, families, family
from ups_server.tensors import SAFETENSORS, from_safetensors

MODEL = "ups-mini"
CLIENTS = 4
PAUSE_S = (0.5, 5.0)
"""Between two kills."""
UNDISTURBED = 0.6
"""How often the next kill waits until the service is ready: it has to get somewhere, however slow the machine is."""
EXAMINER_IN_A_ROW = 2
"""Kills of the examiner one after another: a file whose examinations end by signals five times is refused."""
DEADLINE_S = 1800.0
"""For one task of a client."""
PROCESSES = {
    "engine": "ups_server.engine.process",
    "worker": "ups_server.jobs.dispatch",
    "examiner": "ups_server.files.examination_process",
}
SETTINGS = {
    "UPS_DEFAULT_MODEL": MODEL,
    "UPS_DEVICE": "cpu",
    "UPS_THREADS": "1",
    "UPS_WORKER_THREADS": "1",
    "UPS_CHECKPOINT_S": "0",
    "UPS_JOB_LEASE_S": "3",
    "UPS_ENGINE_RESTART_MAX_S": "1",
    # Jobs whose processes keep dying are given up: here it is not the jobs that kill them.
    "UPS_JOB_MAX_CRASHES": "1000",
}


class Service:
    """`ups serve` at one address, however often it is killed."""

    def __init__(self, data_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = int(listening.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self._started: set[psutil.Process] = set()
        self._http = httpx.Client(base_url=self.url, timeout=60.0)
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-m", "ups_server.cli", "serve", "--port", str(self.port)]
        with (self.data_dir / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*words, "--data-dir", str(self.data_dir)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **SETTINGS},
            )

    def alive(self) -> bool:
        return self._answers("/healthz")

    def ready(self) -> bool:
        """Has the engine its model?"""
        return self._answers("/readyz")

    def _answers(self, path: str) -> bool:
        try:
            return self._http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, document: Any = None, **headers: str) -> httpx.Response:
        """Asks until there is an answer that is not "come back later". Raises TimeoutError."""
        deadline = time.monotonic() + DEADLINE_S
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        while time.monotonic() < deadline:
            try:
                answer = self._http.request(method, path, json=document, headers=named)
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code not in (429, 503):
                return answer
            time.sleep(0.2)
        raise TimeoutError(f"{method} {path} had no answer")

    def victims(self) -> dict[str, int]:
        """Process ids by kind of what can be killed now."""
        found = {"api": self._process.pid}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            self._started.add(process)
            try:
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            found |= {kind: process.pid for kind, module in PROCESSES.items() if module in words}
        return found

    def kill(self, kind: str, process_id: int) -> None:
        """Kills one process, and starts the service again where it was that."""
        try:
            os.kill(process_id, signal.SIGKILL)
        except ProcessLookupError:
            return
        if kind == "api":
            self._process.wait()
            self._process = self._start()
            wait_for(self.alive, "the service answers again")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=120)
        self._http.close()

    def orphans(self) -> list[str]:
        """After the end: processes it had started that go on."""
        _, alive = psutil.wait_procs(self._started, timeout=30)
        return [f"process {process.pid}" for process in alive]


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out waiting until {what}")
        time.sleep(0.3)


@contextmanager
def service(data_dir: Path) -> Iterator[Service]:
    running = Service(data_dir)
    try:
        wait_for(running.alive, "the service answers")
        yield running
    finally:
        running.end()


@dataclass
class Findings:
    """What was done, and what should not have happened.

    Attributes:
        kills: by process.
        done: tasks by kind.
        rollouts: by family, those whose bits were compared.
        unequal: by family, those with other bits than undisturbed.
        lost: accepted, and not there or not well ended; `twice`: there more often than asked for.
        refused: valid uploads.
        orphans: processes that outlive the service.
    """

    kills: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    rollouts: Counter[str] = field(default_factory=Counter)
    unequal: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not (self.unequal or self.lost or self.twice or self.refused or self.orphans)

    def document(self) -> dict[str, Any]:
        return {
            "kills": {**self.kills, "all": self.kills.total()},
            "done": dict(self.done),
            "rollouts": {name: {"compared": n, "unequal": self.unequal[name]} for name, n in self.rollouts.items()},
            "lost": self.lost,
            "twice": self.twice,
            "refused": self.refused,
            "orphans": self.orphans,
        }


class Tasks:
    """What clients have done, each a call; bits of undisturbed rollouts are kept to compare with.

    Args:
        folder: for files on their way.
    """

    def __init__(self, running: Service, folder: Path, findings: Findings) -> None:
        self.findings = findings
        self._running, self._folder = running, folder
        self._bits: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._jobs: dict[str, set[str]] = {"rollout": set(), "evaluation": set(), "fine_tuning": set()}
        known = set(json.loads((shipped_folder() / MODEL / "config.json").read_text())["families"])
        self.families = sorted(name for name, entry in families().items() if entry.t_final > 0)
        self._models = {name: MODEL if name in known else "numerical" for name in self.families}
        self._number = 0

    def undisturbed(self) -> None:
        """The bits that are expected."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            found = clients.map(lambda name: self._rolled_out(name, f"undisturbed {name}") or b"", self.families)
            self._bits = dict(zip(self.families, found, strict=True))

    def one(self, number: int) -> None:
        """Task number `number` of an endless row: rollouts of every family, between them the others."""
        others = (self.upload, self.evaluation, self.upload, self.adaptation)
        turn, place = divmod(number, 3)
        if place == 2:
            others[turn % len(others)](number)
        else:
            self.rollout(self.families[(2 * turn + place) % len(self.families)], number)

    def rollout(self, name: str, number: int) -> None:
        bits = self._rolled_out(name, f"rollout {number}")
        with self._lock:
            self.findings.rollouts[name] += 1
            self.findings.unequal[name] += bits != self._bits[name]
            self.findings.unequal = +self.findings.unequal

    def _rolled_out(self, name: str, key: str) -> bytes | None:
        """Times and values of the result, as bytes."""
        entry = family(name)
        document = {
            "model": self._models[name],
            "family": name,
            "initial_condition": {"sample": {"seed": 5, "count": 2}},
            "grid": {"n": [32 if entry.ndim == 1 else 16] * entry.ndim},
            "n_steps": 60 if self._models[name] == MODEL else 20,
            "deterministic": True,
        }
        job = self._finished("rollout", document, key, Prefer="respond-async")
        if job is None:
            return None
        answer = self._running.ask("GET", f"/v1/rollouts/{job['id']}/result", Accept=SAFETENSORS)
        if answer.status_code != 200:
            self._lost(f"result of {job['id']}: {answer.status_code} {answer.text[:200]}")
            return None
        arrays, _ = from_safetensors(answer.content)
        return arrays["times"].tobytes() + arrays["data"].tobytes()

    def evaluation(self, number: int) -> None:
        document = {"file": "stored", "model": "persistence", "trajectories": 4}
        self._finished("evaluation", document, f"evaluation {number}")

    def adaptation(self, number: int) -> None:
        document = {"model": "tiny", "training_file": "stored", "n_trajectories": 4, "max_steps": 30}
        job = self._finished("fine_tuning", document, f"adaptation {number}")
        if job is not None:
            model = job["result"]["model"]
            if self._running.ask("GET", f"/v1/models/{model}").status_code != 200:
                self._lost(f"model {model}")

    def upload(self, number: int) -> None:
        path = self._written(number)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        while True:
            try:
                with Client(self._running.url) as client:
                    record = client.upload(path, wait=False)
                break
            except httpx.TransportError:
                wait_for(self._running.alive, "the service answers")
        address = f"/v1/files/{record['id']}"
        found: dict[str, Any] = {}

        def examined() -> bool:
            found.update(self._running.ask("GET", address).json())
            return found.get("state") not in ("uploading", "validating")

        wait_for(examined, f"{record['id']} is examined")
        if "state" not in found:
            self._lost(f"file {record['id']}: {found}")
        elif found["state"] != "ready" or found["sha256"] != content:
            with self._lock:
                self.findings.refused.append(f"{record['id']}: {found['state']} {found.get('problem')}")
        self._count("upload")

    def _written(self, number: int) -> Path:
        """Six trajectories of advection in PDEBench's layout, other ones for every number."""
        entry, count = family("advection"), 6
        grid, times = Grid((256,), entry.extent), np.arange(101, dtype=np.float64) * entry.frame_dt
        initial = entry.sample_initial(np.random.default_rng(number), count, grid)
        values = entry.solve(initial, times, grid, {"beta": np.full(count, 0.4)})
        path = self._folder / f"{number}_1D_Advection_Sols_beta0.4.hdf5"
        with h5py.File(path, "w") as stored:
            stored["tensor"] = values[..., 0].astype(np.float32)
            stored["x-coordinate"] = grid.axes[0]
            stored["t-coordinate"] = times
        return path

    def _finished(self, kind: str, document: dict[str, Any], key: str, **headers: str) -> dict[str, Any] | None:
        """The job that was made, at its end; None where that is not a good one."""
        path = {"rollout": "/v1/rollouts", "evaluation": "/v1/evaluations", "fine_tuning": "/v1/fine-tuning/jobs"}[kind]
        made = self._running.ask("POST", path, document, Idempotency_Key=key, **headers)
        if made.status_code not in (200, 201, 202):
            self._lost(f"{key}: {made.status_code} {made.text[:300]}")
            return None
        job: dict[str, Any] = made.json()
        with self._lock:
            self._jobs[kind].add(job["id"])

        def ended() -> bool:
            answer = self._running.ask("GET", f"{path}/{job['id']}")
            job.update(answer.json() if answer.status_code == 200 else {"state": "lost", "finished_at": 1})
            return job["finished_at"] is not None

        wait_for(ended, f"{job['id']} has ended")
        self._count(kind)
        if job["state"] != "succeeded":
            self._lost(f"{job['id']} ({key}): {job['state']} {job.get('error')}")
            return None
        return job

    def settled(self) -> None:
        """At the end: what is there is what was asked for, once each."""
        with Client(self._running.url) as client:
            for kind, made in self._jobs.items():
                there: list[str] = []
                while page := client.jobs(kind, 100, there[-1] if there else None):
                    there += [job["id"] for job in page]
                self.findings.lost += [f"{job_id} is gone" for job_id in sorted(made - set(there))]
                self.findings.twice += sorted(set(there) - made)

    def _count(self, kind: str) -> None:
        with self._lock:
            self.findings.done[kind] += 1

    def _lost(self, what: str) -> None:
        with self._lock:
            self.findings.lost.append(what)


def soak(kills: int, seed: int, folder: Path) -> Findings:
    """Clients and kills until there were so many; clients until a rollout of every family; then every task ends."""
    findings, rng = Findings(), random.Random(seed)
    data_dir, sent = folder / "data", folder / "sent"
    sent.mkdir(parents=True)
    language = folder / "language"
    language.mkdir()
    write_parent(data_dir / "models" / "tiny", write_language_model(language))
    stored = data_dir / "files" / "stored" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 7, 32, seed, stored, frame_dt=0.05, t_final=0.5)
    with service(data_dir) as running:
        tasks = Tasks(running, sent, findings)
        tasks.undisturbed()
        over, numbers, lock = threading.Event(), iter(range(10**6)), threading.Lock()

        def client() -> None:
            while not over.is_set():
                with lock:
                    number = next(numbers)
                try:
                    tasks.one(number)
                except Exception as error:
                    findings.lost.append(f"task {number}: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        in_a_row = 0
        while findings.kills.total() < kills:
            if rng.random() < UNDISTURBED:
                wait_for(running.ready, "the engine has its model again")
            time.sleep(rng.uniform(*PAUSE_S))
            victims = running.victims()
            if in_a_row >= EXAMINER_IN_A_ROW:
                victims.pop("examiner", None)
            kind = rng.choice(sorted(victims))
            in_a_row = in_a_row + 1 if kind == "examiner" else 0 if kind == "api" else in_a_row
            running.kill(kind, victims[kind])
            findings.kills[kind] += 1
        wait_for(lambda: len(findings.rollouts) == len(tasks.families), "a rollout of every family has ended")
        over.set()
        for thread in threads:
            thread.join()
        tasks.settled()
    findings.orphans = running.orphans()
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="Keeps data and log there, for a look at what went wrong.")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        findings = soak(options.kills, options.seed, options.folder or Path(folder))
    document = {"seed": options.seed, "seconds": round(time.monotonic() - began), **findings.document()}
    text = json.dumps(document, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    sys.exit(0 if findings.fine else 1)


if __name__ == "__main__":
    main()
