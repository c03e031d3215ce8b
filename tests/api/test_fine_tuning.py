"""From a stored file to a new model over HTTP: job, events, checkpoints, catalog, rollout, removal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import RunningService, running_service, wait_until
from tests.api.sse import events
from tests.small_models import write_parent
from ups_server.client import Client
from ups_server.data.simulate import build_store
from ups_server.pde import family
from ups_server.settings import Settings

PATH = "/v1/fine-tuning/jobs"
JOB = {"model": "tiny", "training_file": "burgers", "n_trajectories": 4, "max_steps": 10, "suffix": "mine"}


@pytest.fixture(scope="module")
def tuning(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a small model, `tiny`, that does not know the family of its one file, `burgers`."""
    data_dir = tmp_path_factory.mktemp("tuning")
    write_parent(data_dir / "models" / "tiny", language_model)
    store = data_dir / "files" / "burgers" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 7, 32, 0, store, frame_dt=0.05, t_final=0.5)
    coarse = data_dir / "files" / "coarse" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 2, 16, 1, coarse, frame_dt=0.05, t_final=0.5)
    slow = data_dir / "files" / "slow" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 6, 32, 2, slow, frame_dt=0.08, t_final=0.4)
    flow = data_dir / "files" / "flow" / "store"
    build_store(family("darcy"), {}, 7, 16, 3, flow)
    odd = data_dir / "files" / "odd" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 2, 32, 2, odd, frame_dt=0.11, t_final=0.22)
    settings = Settings(
        default_model="persistence", data_dir=data_dir, device="cpu", threads=1, worker_threads=1, job_poll_s=0.05
    )
    with running_service(settings) as running:
        yield running


def create(tuning: RunningService, /, **changes: Any) -> httpx.Response:
    return tuning.send("POST", PATH, {**JOB, **changes})


def test_from_a_file_to_a_model_that_answers(tuning: RunningService) -> None:
    answer = create(tuning)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    stream = httpx.stream("GET", f"{tuning.url}{PATH}/{job_id}/events", headers={"Accept": "text/event-stream"},
                          timeout=300)  # fmt: skip
    with stream as response:
        told = list(events(response.iter_lines()))
    job = tuning.get(f"{PATH}/{job_id}").json()
    assert job["state"] == "succeeded", job["error"]
    names = [name for name, _ in told]
    assert {"state", "phase", "step", "validation", "checkpoint", "progress", "model"} == set(names)
    report = job["result"]
    assert {"zero_shot", "tuned", "persistence", "helped", "verdict"} <= report.keys()
    assert report["split"] == {"training": 4, "validation": 1, "test": 2}
    checkpoints = tuning.get(f"{PATH}/{job_id}/checkpoints").json()["checkpoints"]
    assert [entry["step"] for entry in checkpoints] == [0, 3, 6, 9, 10]
    assert report["best_step"] == max(entry["step"] for entry in checkpoints if entry["best"])
    with Client(tuning.url) as client:
        assert client.checkpoints(job_id) == checkpoints

    model = report["model"]
    assert model.startswith("tiny-mine-")
    card = tuning.get(f"/v1/models/{model}").json()
    assert set(card["families"]) == {"burgers"}
    assert (card["adaptation"]["parent"], card["adaptation"]["n_trajectories"]) == ("tiny", 4)
    assert card["scores"]["tuned"] == report["tuned"]
    rollout = {"model": model, "family": "burgers", "n_steps": 3, "initial_condition": {"sample": {"seed": 1}}}
    assert len(tuning.post(rollout).json()["data"]) == 4

    waiting = create(tuning, model=model, training_file="burgers", priority=-1).json()
    refused = tuning.send("DELETE", f"/v1/models/{model}")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    tuning.send("POST", f"{PATH}/{waiting['id']}/cancel")
    wait_until(lambda: tuning.get(f"{PATH}/{waiting['id']}").json()["finished_at"] is not None, "it is cancelled")
    assert tuning.send("DELETE", f"/v1/models/{model}").status_code == 204
    assert tuning.get(f"/v1/models/{model}").status_code == 404
    assert tuning.get(f"{PATH}/{job_id}").json()["result"]["model"] == model


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"alignment": "magic"}, 422, "invalid_request"),
        ({"tuning": "magic"}, 422, "invalid_request"),
        ({"model": "persistence"}, 422, "not_tunable"),
        ({"model": "ups-plane"}, 422, "family_not_in_model"),
        ({"model": "absent"}, 404, "unknown_model"),
        ({"training_file": "absent"}, 404, "unknown_file"),
        ({"validation_file": "absent"}, 404, "unknown_file"),
        ({"validation_file": "coarse"}, 422, "validation_file_mismatch"),
        ({"validation_file": "burgers"}, 422, "validation_file_overlaps"),
        ({"training_file": "slow"}, 422, "dt_mismatch"),
        ({"n_trajectories": 6}, 422, "too_few_trajectories"),
        ({"n_trajectories": 0}, 422, "invalid_request"),
        ({"suffix": "../x"}, 422, "invalid_request"),
    ],
)
def test_refused(tuning: RunningService, changes: dict[str, Any], status: int, code: str) -> None:
    answer = create(tuning, **changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


FRESH = {"training_file": "burgers", "n_trajectories": 4, "max_steps": 6, "from": "lm", "embedder": "patch",
         "body_layers": 1}  # fmt: skip


def followed(tuning: RunningService, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    address = f"{tuning.url}{PATH}/{job_id}/events"
    with httpx.stream("GET", address, headers={"Accept": "text/event-stream"}, timeout=300) as response:
        return list(events(response.iter_lines()))


@pytest.mark.parametrize("alignment", ["otdd", "recraft", "pare", "mmd", "none"])
def test_a_fresh_start_around_the_pretrained_language_model(tuning: RunningService, alignment: str) -> None:
    """On a stored file, to a model that answers: every method of the papers."""
    short = tuning.send("POST", PATH, {**FRESH, "alignment": alignment, "suffix": alignment, "model": "tiny"}).json()
    assert (short["spec"]["from"], short["spec"]["tuning"]) == ("lm", "full")
    told = followed(tuning, short["id"])
    done = tuning.get(f"{PATH}/{short['id']}").json()
    assert done["state"] == "succeeded", done["error"]
    report = done["result"]
    assert report["compared_with"] == "persistence"
    assert report["zero_shot"] is None
    assert report["warnings"] == ["nothing of tiny is used: a fresh start has a new embedder and head around a "
                                  "language model"]  # fmt: skip
    (facts,) = [data for name, data in told if name == "phase" and "memory_bytes" in data]
    assert facts["warnings"] == report["warnings"]
    assert report["model"].startswith(f"lm-{alignment}-")
    card = tuning.get(f"/v1/models/{report['model']}").json()
    assert (card["adaptation"]["from"], card["adaptation"]["alignment"]) == ("lm", alignment)
    rollout = {
        "model": report["model"],
        "family": "burgers",
        "n_steps": 2,
        "initial_condition": {"sample": {"seed": 1}},
    }
    assert len(tuning.post(rollout).json()["data"]) == 3


def test_a_steady_problem_by_a_fresh_start(tuning: RunningService) -> None:
    """From a stored file of permeabilities and pressures to a model that answers, and its scores."""
    asked = {**FRESH, "training_file": "flow", "suffix": "flow", "horizon": "final"}
    job = tuning.send("POST", PATH, asked)
    assert job.status_code == 201, job.text
    followed(tuning, job.json()["id"])
    done = tuning.get(f"{PATH}/{job.json()['id']}").json()
    assert done["state"] == "succeeded", done["error"]
    report = done["result"]
    assert report["horizon"] == "final"
    card = tuning.get(f"/v1/models/{report['model']}").json()
    assert (card["adaptation"]["horizon"], card["families"]["darcy"]["dt"]) == ("final", 1.0)
    start = {"sample": {"seed": 1}}
    rollout = {"model": report["model"], "family": "darcy", "n_steps": 1, "initial_condition": start}
    answer = tuning.post(rollout)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2
    with Client(tuning.url) as client:
        scored = client.wait(client.evaluate("flow", model=report["model"], horizon="final")["id"])
    assert scored["state"] == "succeeded", scored["error"]
    assert scored["result"]["horizon"] == "final"


@pytest.mark.parametrize(
    ("path", "document", "code"),
    [
        (PATH, {**FRESH, "training_file": "flow"}, "dt_mismatch"),
        (PATH, {**FRESH, "horizon": "middle"}, "invalid_request"),
        ("/v1/evaluations", {"model": "numerical", "file": "flow"}, "too_few_frames"),
        ("/v1/evaluations", {"model": "numerical", "file": "flow", "horizon": "final", "dt": 1}, "horizon_mismatch"),
        ("/v1/evaluations", {"model": "numerical", "file": "slow", "horizon": "final"}, None),
        ("/v1/evaluations", {"model": "numerical", "file": "odd", "horizon": "final"}, "dt_mismatch"),
    ],
)
def test_horizons_that_cannot_be_are_refused(
    tuning: RunningService, path: str, document: dict[str, Any], code: str | None
) -> None:
    answer = tuning.send("POST", path, document)
    if code is None:
        assert answer.status_code == 201, answer.text
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_fresh_start_is_cancelled_and_resumed(tuning: RunningService) -> None:
    job = tuning.send("POST", PATH, {**FRESH, "alignment": "recraft", "max_steps": 12}).json()
    place = f"{PATH}/{job['id']}"
    wait_until(lambda: tuning.get(f"{place}/checkpoints").json()["checkpoints"] != [], "its state is saved")
    tuning.send("POST", f"{place}/cancel")
    wait_until(lambda: tuning.get(place).json()["finished_at"] is not None, "it has stopped")
    if tuning.get(place).json()["state"] == "cancelled":
        assert tuning.send("POST", f"{place}/resume").status_code == 200
    told = followed(tuning, job["id"])
    assert tuning.get(place).json()["state"] == "succeeded", tuning.get(place).json()["error"]
    assert [data["step"] for name, data in told if name == "step"] == list(range(1, 13))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tuning": "lora"}, "start_mismatch"),
        ({"from": "random", "alignment": "otdd"}, "start_mismatch"),
        ({"alignment": "pare", "alignment_options": {"terms": "fa"}}, "alignment_option_not_offered"),
        ({"from": "gpt"}, "invalid_request"),
        ({"n_trajectories": 6}, "too_few_trajectories"),
        ({"training_file": "slow"}, "dt_mismatch"),
    ],
)
def test_a_fresh_start_that_cannot_be_is_refused(tuning: RunningService, changes: dict[str, Any], code: str) -> None:
    answer = tuning.send("POST", PATH, {**FRESH, **changes})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.parametrize("model", ["tiny", "numerical", "persistence"])
def test_only_adapted_models_can_be_deleted(tuning: RunningService, model: str) -> None:
    answer = tuning.send("DELETE", f"/v1/models/{model}")
    assert answer.status_code == 409
    assert answer.json()["code"] in ("not_deletable", "model_in_use")


def test_an_evaluation_is_not_a_fine_tuning_job(tuning: RunningService) -> None:
    job = tuning.send("POST", "/v1/evaluations", {"file": "burgers"}).json()
    assert tuning.get(f"{PATH}/{job['id']}").status_code == 404
    assert tuning.get(f"/v1/evaluations/{job['id']}").status_code == 200
