"""What every executor keeps to, by one job that is cancelled and resumed, loses its worker, then its node.

In the end it has the weights of a job that nobody disturbed, and every step was made known once, in order. What each
run kills is in `kill_worker` and `kill_node` of its fleet.
"""

import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.ray_workers import RayCluster, kill_tree
from tests.api.conftest import wait_until
from tests.jobs.test_fine_tuning import steps, weights, without_time
from tests.small_models import write_parent
from ups_server.data.simulate import build_store
from ups_server.errors import UserError
from ups_server.jobs.attempt import AttemptId
from ups_server.jobs.database import Database, open_database
from ups_server.jobs.dispatch import Dispatcher
from ups_server.jobs.executors import NEEDED, check_executor, executor_of
from ups_server.jobs.executors.base import Executor
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import EvaluationSpec, FineTuningSpec, Job, JobState
from ups_server.jobs.store import JobStore
from ups_server.pde import family
from ups_server.settings import Settings

SPEC = FineTuningSpec(model="tiny", training_file="burgers", n_trajectories=4, max_steps=40, suffix="test")
LEASE_S = 10.0
"""Longer than importing PyTorch keeps a heartbeat back on a busy machine."""


@pytest.fixture(scope="module")
def data_dir(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executors")
    write_parent(folder / "models" / "tiny", language_model)
    store = folder / "files" / "burgers" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 7, 32, 0, store, frame_dt=0.05, t_final=0.5)
    return folder


@pytest.fixture
def store(data_dir: Path) -> Iterator[JobStore]:
    """Of the fleets."""
    opened = open_database(data_dir)
    yield JobStore(opened)
    opened.close()


@pytest.fixture
def empty(database: Database) -> JobStore:
    return JobStore(database)


class Fleet(ABC):
    """Processes that dispatch jobs of one table to one executor, and the means to kill what runs them."""

    def __init__(self, data_dir: Path, repository: Path) -> None:
        self._data_dir, self._repository = data_dir, repository
        self._dispatchers: list[subprocess.Popen[bytes]] = []

    def settings(self) -> dict[str, Any]:
        return {}

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        """One more process, on what is to be another machine: a node of its own."""
        settings = Settings.model_validate(
            {
                "data_dir": self._data_dir, "device": "cpu", "worker_threads": 1, "checkpoint_s": 0, "job_poll_s": 0.02,
                "job_lease_s": LEASE_S, "worker_grace_s": 5, **self.settings(),
            }
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "ups_server.jobs.dispatch", f"node-{len(self._dispatchers)}"],
            stdin=subprocess.PIPE,
            cwd=self._repository,
            env={**os.environ, "PYTHONPATH": str(self._repository), "OMP_NUM_THREADS": "1", **self.environment()},
        )
        assert process.stdin is not None
        process.stdin.write(settings.clear_json().encode() + b"\n")
        process.stdin.flush()
        self._dispatchers.append(process)

    @abstractmethod
    def kill_worker(self, job: Job) -> None:
        """Kills a process that trains."""

    def kill_node(self, job: Job) -> None:
        """Kills all processes of the first machine; a second one is there."""
        self.start()
        kill_tree(self._dispatchers[0].pid)

    def close(self) -> None:
        for process in self._dispatchers:
            self.end(process)

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)

    def training(self, words: str) -> list[psutil.Process]:
        """Processes of the first machine with these words in their command."""
        found = psutil.Process(self._dispatchers[0].pid).children(recursive=True)
        return [process for process in found if words in words_of(process)]


def words_of(process: psutil.Process) -> str:
    """Its command; nothing where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Local(Fleet):
    """The process that dispatches is the worker."""

    def kill_worker(self, job: Job) -> None:
        self.start()
        self._dispatchers[0].kill()
        self.end(self._dispatchers.pop(0))


class Torchrun(Fleet):
    def settings(self) -> dict[str, Any]:
        return {"executor": "torchrun", "executor_processes": 2}

    def kill_worker(self, job: Job) -> None:
        """The process that shares the work, not the one that holds the lease."""
        found = self.training("ups_server.jobs.attempt")
        next(process for process in found if process.environ().get("RANK") == "1").kill()


class Slurm(Fleet):
    def settings(self) -> dict[str, Any]:
        return {"executor": "slurm", "slurm_cluster": "local"}

    def kill_worker(self, job: Job) -> None:
        self.training("submitit.core._submit")[-1].kill()


class Ray(Fleet):
    """A head that runs nothing, and two nodes of one core; one process dispatches to them."""

    def __init__(self, data_dir: Path, repository: Path) -> None:
        super().__init__(data_dir, repository)
        self._cluster = RayCluster()
        for _ in range(2):
            self._cluster.add_node()

    def settings(self) -> dict[str, Any]:
        return {"executor": "ray", "ray_address": self._cluster.address}

    def environment(self) -> dict[str, str]:
        return self._cluster.environment

    def _place(self, job: Job) -> tuple[subprocess.Popen[bytes], psutil.Process]:
        """The node and the process that have a job."""
        for node in self._cluster.nodes[1:]:
            for process in psutil.Process(node.pid).children(recursive=True):
                if job.id in words_of(process):
                    return node, process
        raise LookupError(job.id)

    def kill_worker(self, job: Job) -> None:
        self._place(job)[1].kill()

    def kill_node(self, job: Job) -> None:
        """Kills all processes of the node, Ray's own among them; the second one is there."""
        self._cluster.kill(self._place(job)[0])

    def close(self) -> None:
        super().close()
        self._cluster.close()


FLEETS: dict[str, type[Fleet]] = {"local": Local, "torchrun": Torchrun, "slurm": Slurm, "ray": Ray}
PACKAGES = {"ray": "ray", "slurm": "submitit"}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if name != "local" else []) for name in FLEETS])
def fleet(request: pytest.FixtureRequest, data_dir: Path, repository: Path) -> Iterator[Fleet]:
    package = PACKAGES.get(request.param)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install 'ups-server[{request.param}]')")
    found = FLEETS[request.param](data_dir, repository)
    try:
        yield found
    finally:
        found.close()


def test_an_executor(fleet: Fleet, data_dir: Path, store: JobStore) -> None:
    fleet.start()
    undisturbed, _ = store.create(SPEC)
    job, _ = store.create(SPEC)

    def reach(step: int) -> None:
        wait_until(lambda: last_step(store, job.id) >= step or store.get(job.id).final, f"step {step}")
        assert store.get(job.id).state is JobState.RUNNING, store.get(job.id).error

    reach(5)
    store.cancel(job.id)
    known = last_step(store, job.id)
    wait_until(lambda: store.get(job.id).final, "it is cancelled")
    assert store.get(job.id).state is JobState.CANCELLED
    assert last_step(store, job.id) <= known + 1, "it goes no further than the step in hand"
    store.resume(job.id)
    reach(12)
    fleet.kill_worker(store.get(job.id))
    reach(20)
    fleet.kill_node(store.get(job.id))
    wait_until(lambda: store.get(job.id).final, "it is done elsewhere")
    done, whole = store.get(job.id), store.get(undisturbed.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 4), done.error
    assert (whole.state, whole.attempt) == (JobState.SUCCEEDED, 1), whole.error
    assert steps(store, job.id) == steps(store, undisturbed.id) == list(range(1, 41))
    first, second = weights(data_dir, whole), weights(data_dir, done)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert without_time(done) == without_time(whole)


def last_step(store: JobStore, job_id: str) -> int:
    return max((event.data["step"] for event in store.all_events(job_id, "step")), default=0)


class Recorded(Executor):
    """Attempts that somebody else runs: the test says which have ended, and is told what was asked for."""

    def open(self) -> None:
        self.running: list[AttemptId] = []
        self.submitted: list[AttemptId] = []
        self.cancelled: list[AttemptId] = []

    def submit(self, attempt: AttemptId) -> None:
        self.submitted.append(attempt)
        self.running.append(attempt)

    def follow(self, attempt: AttemptId) -> bool:
        return attempt in self.running

    def cancel(self, attempt: AttemptId) -> None:
        self.cancelled.append(attempt)
        self.running.remove(attempt)

    def close(self) -> None:
        pass


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    settings = Settings(data_dir=tmp_path, executor_jobs=2, worker_grace_s=1e-9, engine_restart_s=1000.0)
    executor = Recorded(settings, threading.Event())
    executor.open()
    return executor


@pytest.fixture
def dispatcher(recorded: Recorded, leases: Leases) -> Dispatcher:
    return Dispatcher(recorded.settings, leases, recorded, "here", recorded.stopping)


def test_no_more_than_there_are_slots_for_and_each_once(
    dispatcher: Dispatcher, recorded: Recorded, empty: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    first, second, third = (empty.create(spec)[0].id for _ in range(3))
    assert dispatcher.turn()
    assert not dispatcher.turn()
    assert [attempt.job_id for attempt in recorded.submitted] == [first, second]
    lease = leases.claim(recorded.submitted[0].owner, job_id=first)
    assert lease is not None
    leases.succeed(lease, {})
    recorded.running.pop(0)
    assert dispatcher.turn()
    assert [attempt.job_id for attempt in recorded.submitted] == [first, second, third]
    assert not recorded.cancelled


def test_what_waits_for_a_job_that_was_cancelled_is_taken_back(
    dispatcher: Dispatcher, recorded: Recorded, empty: JobStore, spec: EvaluationSpec
) -> None:
    job, _ = empty.create(spec)
    dispatcher.turn()
    empty.cancel(job.id)
    dispatcher.turn()
    assert recorded.cancelled == recorded.submitted
    empty.resume(job.id)
    assert dispatcher.turn()


def test_an_attempt_that_lost_its_lease_is_ended_before_the_next_one_begins(
    dispatcher: Dispatcher, recorded: Recorded, empty: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    empty.create(spec)
    dispatcher.turn()
    (lost,) = recorded.submitted
    leases.claim(lost.owner)
    assert not dispatcher.turn()
    leases.abandon(lost.owner)  # as where it runs out
    dispatcher.turn()
    while len(recorded.submitted) == 1:
        assert recorded.running in ([lost], []), "one at a time"
        dispatcher.turn()
    assert recorded.cancelled == [lost]


def test_a_lost_attempt_s_job_is_free_at_once(
    dispatcher: Dispatcher, recorded: Recorded, empty: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    job, _ = empty.create(spec)
    dispatcher.turn()
    leases.claim(recorded.submitted[0].owner)
    recorded.running.clear()
    assert dispatcher.turn()
    assert [attempt.earlier for attempt in recorded.submitted] == [0, 1]
    assert empty.get(job.id).state is JobState.QUEUED


def test_attempts_that_cannot_begin_are_not_submitted_again_and_again(
    dispatcher: Dispatcher, recorded: Recorded, empty: JobStore, spec: EvaluationSpec
) -> None:
    empty.create(spec)
    dispatcher.turn()
    recorded.running.clear()
    assert not dispatcher.turn()
    assert len(recorded.submitted) == 1


SLURM = {
    "srun": "exit 1",
    "sbatch": "echo Submitted batch job $(cat {folder}/number)",
    "sacct": "echo 'JobID|State|NodeList'; echo \"$(cat {folder}/number)|$(cat {folder}/state)|node\"",
    "scancel": "echo $* >> {folder}/cancelled",
}
"""Commands that answer as those of Slurm do, from files."""


@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
def test_what_slurm_has_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in SLURM.items():
        (tmp_path / name).write_text("#!/bin/sh\n" + script.format(folder=tmp_path) + "\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    settings = Settings(data_dir=tmp_path, executor="slurm", slurm_options={"slurm_partition": "gpu"})
    (tmp_path / "state").write_text("PENDING")
    before = executor_of(settings, threading.Event())
    before.open()
    attempts = [AttemptId(f"ft-{number}", f"slurm-{number}", number) for number in range(2)]
    for attempt, number in zip(attempts, ("4711", "4712"), strict=True):
        (tmp_path / "number").write_text(number)
        before.submit(attempt)
    assert before.follow(attempts[1])
    before.close()

    after = executor_of(settings, threading.Event())
    after.open()
    assert sorted(after.reclaim(), key=lambda attempt: attempt.job_id) == attempts
    (tmp_path / "state").write_text("NODE_FAIL")
    assert not after.follow(attempts[1])
    after.cancel(attempts[0])
    assert (tmp_path / "cancelled").read_text().split() == ["4711"]
    assert not after.follow(attempts[0])
    left = [file for file in (tmp_path / "slurm").iterdir() if file.suffix in (".pkl", ".json")]
    assert not left, "what was submitted is gone, with the secrets in it"
    nothing = executor_of(settings, threading.Event())
    nothing.open()
    assert not nothing.reclaim()


@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
def test_a_slurm_that_is_not_there_is_said(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, executor="slurm", slurm_cluster="local", slurm_options={"no_such_option": 1})
    with pytest.raises(UserError, match="cannot submit") as refused:
        executor_of(settings, threading.Event()).open()
    assert refused.value.code == "executor_unavailable"


def test_a_wrong_executor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such executor") as refused:
        check_executor("cloud")
    assert refused.value.expected == ["local", "ray", "slurm", "torchrun"]
    monkeypatch.setitem(NEEDED, "ray", "no_such_package")
    with pytest.raises(UserError, match="needs the package") as refused:
        check_executor("ray")
    assert refused.value.hint == "pip install 'ups-server[ray]'"
