"""The table of jobs as those who order them see it."""

import threading
from pathlib import Path

import pytest

from ups_server.errors import UserError
from ups_server.jobs.database import open_database, postgresql_engine
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import EvaluationSpec, FineTuningSpec, JobState, spec_from_json, spec_of
from ups_server.jobs.store import JobStore


def test_a_new_job_waits(store: JobStore, spec: EvaluationSpec) -> None:
    job, created = store.create(spec)
    assert created
    assert (job.kind, job.state, job.attempt, job.model) == ("evaluation", JobState.QUEUED, 0, "persistence")
    assert store.get(job.id) == job
    (first,), over = store.events(job.id)
    assert (first.seq, first.type, first.data, over) == (1, "state", {"state": "queued"}, False)


def test_pages_go_from_the_latest_to_the_first(store: JobStore, spec: EvaluationSpec) -> None:
    made = [store.create(spec)[0].id for _ in range(5)]
    tuning, _ = store.create(FineTuningSpec(model="ups-mini", training_file="f", n_trajectories=3))
    assert [job.id for job in store.page(limit=3)] == [tuning.id, made[4], made[3]]
    assert [job.id for job in store.page("evaluation", 10, before=made[3])] == made[2::-1]
    assert [job.id for job in store.page("fine_tuning")] == [tuning.id]


def test_one_job_a_key_even_when_many_ask_at_once(store: JobStore, spec: EvaluationSpec) -> None:
    answers: list[tuple[str, bool]] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        job, created = store.create(spec, "key-1")
        answers.append((job.id, created))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1
    assert len(store.page()) == 1


def test_a_key_belongs_to_one_request(store: JobStore, spec: EvaluationSpec) -> None:
    store.create(spec, "key")
    with pytest.raises(UserError) as caught:
        store.create(spec.model_copy(update={"file": "other"}), "key")
    assert (caught.value.code, caught.value.status) == ("idempotency_conflict", 409)


def test_cancel_and_resume_of_a_waiting_job(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    assert store.cancel(job.id).state is JobState.CANCELLED
    assert store.cancel(job.id).state is JobState.CANCELLED  # once is enough
    assert leases.claim("worker") is None
    assert store.events(job.id)[1]
    assert store.resume(job.id).state is JobState.QUEUED
    with pytest.raises(UserError, match="cannot be resumed"):
        store.resume(job.id)
    lease = leases.claim("worker")
    assert lease is not None
    leases.succeed(lease, {})
    with pytest.raises(UserError, match="has ended"):
        store.cancel(job.id)
    states = [event.data["state"] for event in store.events(job.id)[0]]
    assert states == ["queued", "cancelled", "queued", "validating", "succeeded"]


def test_open_jobs_use_their_files(store: JobStore, spec: EvaluationSpec) -> None:
    tuning, _ = store.create(FineTuningSpec(training_file="a", validation_file="b", n_trajectories=3))
    evaluation, _ = store.create(spec.model_copy(update={"file": "c"}))
    used = [store.uses_file(name) for name in ("a", "b", "c", "d")]
    assert used == [tuning.id, tuning.id, evaluation.id, None]
    store.cancel(tuning.id)
    assert [store.uses_file(name) for name in ("a", "b", "c")] == [None, None, evaluation.id]


def test_open_jobs_use_their_model(store: JobStore, spec: EvaluationSpec) -> None:
    assert store.uses("persistence") is None
    job, _ = store.create(spec)
    assert (store.uses("persistence"), store.uses("other")) == (job.id, None)
    store.cancel(job.id)
    assert store.uses("persistence") is None


def test_events_are_read_in_pages(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    lease = leases.claim("worker")
    assert lease is not None
    for step in range(5):
        leases.event(lease, "step", {"step": step})
    leases.succeed(lease, {})
    seen, after, over = [], 0, False
    while not over:
        found, over = store.events(job.id, after, limit=3)
        seen += found
        after = found[-1].seq if found else after
    assert [event.seq for event in seen] == list(range(1, 9))
    assert [event.type for event in seen] == ["state", "state", *["step"] * 5, "state"]
    assert [event.data["step"] for event in store.events(job.id, type="step")[0]] == list(range(5))


def test_unknown_job(store: JobStore, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    for ask in (store.get, store.cancel, store.resume, store.events):
        with pytest.raises(UserError) as caught:
            ask("nothing")
        assert caught.value.code == "unknown_job"
    with pytest.raises(UserError):
        store.get(job.id, "fine_tuning")


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "evaluation", "file": "../passwd"}',
        '{"kind": "evaluation", "file": "a/b"}',
        '{"kind": "rollout"}',
        '{"kind": "fine_tuning", "training_file": "f", "n_trajectories": 0}',
        '{"kind": "fine_tuning", "training_file": "f", "n_trajectories": 1, "alignment": "magic"}',
        '{"kind": "evaluation", "file": "f", "colour": 1}',
    ],
)
def test_faulty_specs(text: str) -> None:
    with pytest.raises(UserError) as caught:
        spec_from_json(text)
    assert caught.value.code == "invalid_request"


def test_a_spec_survives_the_table(store: JobStore) -> None:
    spec = FineTuningSpec(model="ups-mini", training_file="f", n_trajectories=3, suffix="mine", max_seconds=1.5)
    job, _ = store.create(spec)
    assert spec_of(store.get(job.id)) == spec


@pytest.mark.parametrize("url", ["mysql://localhost/x", "not a url"])
def test_only_postgresql_urls(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_database(tmp_path, url)
    assert caught.value.code == "invalid_database_url"
    assert url not in str(caught.value)


def test_an_absent_server_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_database(tmp_path, "postgresql://ups:secret@127.0.0.1:1/ups")
    assert caught.value.code == "database_unavailable"
    assert "secret" not in str(caught.value)


def test_a_url_without_a_driver_name_means_psycopg() -> None:
    pytest.importorskip("psycopg")
    engine = postgresql_engine("postgresql://ups@localhost/ups")
    assert engine.driver == "psycopg"
    engine.dispose()
