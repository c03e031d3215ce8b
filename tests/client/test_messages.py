"""What notebooks and terminals show of the service's documents."""

import inspect
import json
from typing import get_type_hints

import numpy as np

from ups_server.client import Client, FileDocument, JobDocument, Step
from ups_server.client.messages import Document, RolloutOptions, brief, rollout_body
from ups_server.specs import RolloutRequest

JOB = {
    "id": "ft-0123456789abcdef",
    "kind": "fine_tuning",
    "state": "succeeded",
    "model": "ups-mini",
    "spec": {"training_file": "file-1"},
    "attempt": 1,
    "result": {
        "model": "ups-mini-01234567",
        "verdict": "tuning <helped>",
        "zero_shot": {"one_step": {"nrmse": 0.5}, "rollout": {"nrmse_trajectory": 0.75}},
        "persistence": {"one_step": {"nrmse": 1.0}},
    },
    "error": None,
}


def test_a_document_is_its_json() -> None:
    job = JobDocument(JOB)
    assert job == JOB
    assert json.loads(json.dumps(job)) == JOB
    assert (job.id, job["id"], job.state, job.model) == (JOB["id"], JOB["id"], "succeeded", "ups-mini")


def test_a_job_is_shown_in_a_line_and_as_a_table() -> None:
    job = JobDocument(JOB)
    assert repr(job).startswith("JobDocument(id=ft-0123456789abcdef, kind=fine_tuning, state=succeeded")
    page = job._repr_html_()
    assert page.startswith("<table><caption>Job</caption>")
    assert "tuning &lt;helped&gt;" in page
    failed = JobDocument({**JOB, "state": "failed", "result": None, "error": {"code": "dt_mismatch", "detail": "why"}})
    assert failed.report is None
    assert failed.problem == {"code": "dt_mismatch", "detail": "why"}
    assert "error=why" in repr(failed)


def test_a_report_shows_every_error() -> None:
    report = JobDocument(JOB).report
    assert report is not None
    assert report["zero_shot"]["rollout"]["nrmse_trajectory"] == 0.75
    assert report.facts() == {
        "model": "ups-mini-01234567",
        "verdict": "tuning <helped>",
        "zero-shot, one-step": "nrmse 0.5",
        "zero-shot, rollout": "nrmse_trajectory 0.75",
        "persistence, one-step": "nrmse 1",
    }


def test_a_file_shows_what_was_found_in_it() -> None:
    check = {"family": "burgers", "trajectories": 8, "frames": 21, "coefficients": {"nu": [0.001, 0.001]}}
    file = FileDocument({"id": "file-1", "name": "a.h5", "state": "ready", "size": 9, "report": {"check": check}})
    assert "family=burgers, trajectories=8, frames=21, coefficients=nu 0.001, 0.001" in repr(file)
    assert file.problem is None


def test_a_step_says_its_shape_and_not_its_values() -> None:
    step = Step(3, 0.15, np.zeros((128, 1), np.float32))
    assert repr(step) == "Step(step=3, time=0.15, values=float32 (128, 1))"
    index, time, values = step
    assert (index, time, values.shape) == (3, 0.15, (128, 1))


def test_long_values_are_shown_by_their_size() -> None:
    assert brief(dict.fromkeys("abcde", 1)) == "{5}"
    assert brief([{"a": 1}]) == "[1]"
    assert len(brief("x" * 100)) == 80
    assert repr(Document(a=None, b=0.1234567)) == "Document(b=0.123457)"


def test_what_is_left_open_is_not_sent() -> None:
    body, headers = rollout_body({"sample": {}}, {"family": "burgers", "dt": None})
    assert json.loads(body) == {"family": "burgers", "initial_condition": {"sample": {}}}
    assert headers == {"Content-Type": "application/json"}


def test_help_lists_every_option_of_a_rollout() -> None:
    for method in (Client.rollout, Client.stream, Client.stream_events, Client.submit):
        parameters = inspect.signature(method).parameters
        assert parameters.keys() >= RolloutOptions.__annotations__.keys()
        assert parameters["coefficients"].kind is inspect.Parameter.KEYWORD_ONLY
    known = {"family", "n_steps", "initial_condition", *get_type_hints(RolloutOptions)}
    assert known == RolloutRequest.model_fields.keys(), "the client offers what the service takes"
