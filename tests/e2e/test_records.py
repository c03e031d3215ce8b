"""Files, jobs and models in a real browser: from a file on this machine to a tuned model that solves."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect
from scipy.io import savemat

from tests.api.conftest import RunningService
from tests.e2e.conftest import PATIENCE_MS
from tests.e2e.test_access import violations
from tests.shock import write_shock
from ups_server.client import Client
from ups_server.data.formats import open_source
from ups_server.data.simulate import generate
from ups_server.pde import family

pytestmark = pytest.mark.slow


def upload(page: Page, path: Path) -> None:
    page.goto("/#/files")
    page.get_by_label("choose files").set_input_files(path)


def ready(page: Page, site: RunningService, path: Path) -> str:
    """The id of the file in the service; uploaded where it is not there yet."""
    files = site.get("/v1/files").json()["files"]
    found = [record["id"] for record in files if record["name"] == path.name and record["state"] == "ready"]
    if not found:
        upload(page, path)
        expect(page.locator(".state.ready").first).to_be_visible()
        return ready(page, site, path)
    return str(found[0])


def test_a_file_is_uploaded_in_parts_and_goes_on_after_a_break(
    page: Page, site: RunningService, burgers_file: Path
) -> None:
    breaks: list[str] = []

    def break_once(route: Route) -> None:
        if breaks:
            route.continue_()
        else:
            breaks.append(route.request.headers["content-range"])
            route.abort()

    page.route("**/content", lambda route: break_once(route) if route.request.method == "PUT" else route.continue_())
    path = burgers_file.with_name("broken_off_Burgers_Nu0.1.hdf5")
    path.write_bytes(burgers_file.read_bytes())
    page.goto("/#/files")
    page.get_by_label("Equation").select_option("burgers")
    page.get_by_label("choose files").set_input_files(path)
    expect(page.locator("details", has_text=path.name).locator(".state.ready")).to_be_visible()
    assert breaks == [f"bytes 0-{path.stat().st_size - 1}/{path.stat().st_size}"]
    report = page.locator("details", has_text=path.name)
    expect(report).to_contain_text("7 of 7 can be used")
    picture = report.get_by_alt_text(re.compile("^Trajectory "))
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("picture => picture.naturalWidth") > 100
    page.on("dialog", lambda dialog: dialog.accept())
    report.get_by_role("button", name="Delete").click()
    expect(page.locator("details", has_text=path.name)).to_have_count(0)
    assert path.name not in site.get("/v1/files").text


def test_a_file_that_is_none_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "notes.h5"
    path.write_text("not HDF5 at all")
    upload(page, path)
    expect(page.locator("details", has_text="notes.h5").get_by_role("alert")).to_be_visible()
    expect(page.locator("details", has_text="notes.h5").locator(".state")).to_have_text("refused")
    expect(page.get_by_role("button", name="Examine again")).to_be_visible()


def test_a_file_that_does_not_explain_itself_is_read_by_a_mapping(page: Page, tmp_path: Path) -> None:
    x, t = np.linspace(-1, 1, 33), np.arange(60) * 0.01
    usol = -np.sin(np.pi * x)[:, None] * np.exp(-3 * t)
    usol[[0, -1]] = 0.0
    path = tmp_path / "own_shock.mat"
    savemat(path, {"x": x[:, None], "t": t[:, None], "usol": usol}, appendmat=False)
    upload(page, path)
    record = page.locator("details.panel", has_text=path.name)
    expect(record.locator(".state")).to_have_text("refused")
    mapping = record.get_by_label("Mapping")
    expect(mapping).to_have_value(re.compile("usol"))
    assert violations(page) == []
    proposal = mapping.input_value()
    mapping.fill("fields: [")
    record.get_by_role("button", name="Examine with this mapping").click()
    expect(record.get_by_text("is not YAML")).to_be_visible()
    mapping.fill(proposal)
    record.get_by_role("button", name="Examine with this mapping").click()
    expect(record.locator(".state")).to_have_text("ready")
    expect(record).to_contain_text("can be used")


def test_files_chosen_together_are_one_data_set(page: Page, site: RunningService, tmp_path: Path) -> None:
    """In the order of the numbers in their names; chosen without the box ticked, each is a file of its own."""
    paths = [tmp_path / f"together_{number}_Burgers_Nu0.1.hdf5" for number in (10, 2)]
    for number, path in enumerate(paths):
        generate(family("burgers"), {"nu": 0.1}, 2 + number, 32, path, seed=number)
    page.goto("/#/files")
    page.get_by_label("Files chosen together are one data set").check()
    page.get_by_label("choose files").set_input_files(paths)
    record = page.locator("details", has_text="together_*_Burgers_Nu0.1.hdf5")
    expect(record).to_have_count(1)
    expect(record.locator(".state")).to_have_text("ready")
    expect(record).to_contain_text("5 of 5 can be used")
    (found,) = [entry for entry in site.get("/v1/files").json()["files"] if entry["name"].startswith("together_")]
    parts = site.get(f"/v1/files/{found['id']}").json()["parts"]
    assert parts == [{"name": path.name, "size": path.stat().st_size} for path in reversed(paths)]
    with Client(site.url) as client:
        values = client.data(found["id"])["u"].values
    for path, stored in ((paths[1], values[:3]), (paths[0], values[3:])):
        with open_source(path) as source:
            np.testing.assert_array_equal(stored, source.read(range(source.n_trajectories))[..., 0])
    page.get_by_label("Files chosen together are one data set").uncheck()
    page.get_by_label("choose files").set_input_files(paths)
    for path in paths:
        expect(page.locator("details", has_text=path.name).locator("summary .state")).to_have_text("ready")


def test_a_model_tuned_to_a_file_that_does_not_explain_itself_beats_persistence(
    page: Page, site: RunningService, tmp_path: Path
) -> None:
    path = write_shock(tmp_path / "burgers_shock.mat")
    upload(page, path)
    record = page.locator("details.panel", has_text=path.name)
    record.get_by_role("button", name="Examine with this mapping").click()
    expect(record.locator(".state")).to_have_text("ready")
    record.get_by_role("link", name="Adapt a model to it").click()
    form = page.get_by_role("form", name="New job")
    form.get_by_label("Model", exact=True).select_option("ups-mini")
    form.get_by_label("Trajectories to train on").fill("3")
    form.get_by_label("Steps at most").fill("20")
    form.get_by_role("button", name="Start").click()
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.locator(".state.succeeded")).to_be_visible(timeout=10 * PATIENCE_MS)
    expect(job.locator(".verdict")).to_contain_text("Tuning helped")
    report = site.get(f"/v1/fine-tuning/jobs/{job.get_by_role('heading').first.inner_text()}").json()["result"]
    for part, score in (("one_step", "nrmse"), ("rollout", "nrmse_trajectory")):
        assert report["tuned"][part][score] < 0.8 * report["persistence"][part][score]
    expect(job.locator(".verdict")).not_to_contain_text("persistence")


def test_an_adaptation_offers_what_can_be_tuned(page: Page, site: RunningService, burgers_file: Path) -> None:
    """The models of lead times know the equation of other files, and can be evaluated, but not tuned."""
    ready(page, site, burgers_file)
    page.goto("/#/jobs")
    offered = page.get_by_role("form", name="New job").get_by_label("Model", exact=True).locator("option")
    expect(offered.filter(has_text="small")).to_have_count(1)
    assert {"ups-plane", "ups-line", "numerical", "persistence"}.isdisjoint(offered.all_inner_texts())


def test_a_rollout_starts_from_a_trajectory_of_a_file(page: Page, site: RunningService, burgers_file: Path) -> None:
    file_id = ready(page, site, burgers_file)
    page.goto(f"/#/solve?file={file_id}")
    form = page.get_by_role("form", name="Problem")
    expect(form.get_by_role("combobox", name="File")).to_have_value(file_id)
    form.get_by_label("Trajectory", exact=True).fill("6")
    form.get_by_label("Steps").fill("3")
    with page.expect_request("**/v1/rollouts*") as sent:
        form.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^Finished: 3 steps"))
    request = sent.value.post_data_json
    assert request is not None
    assert request["initial_condition"] == {"file": file_id, "trajectory": 6}
    assert request["coefficients"] == {}
    assert "grid" not in request


def test_a_model_is_adapted_watched_and_used(page: Page, site: RunningService, burgers_file: Path) -> None:
    file_id = ready(page, site, burgers_file)
    page.goto(f"/#/jobs?file={file_id}")
    form = page.get_by_role("form", name="New job")
    form.get_by_label("Model", exact=True).select_option("tiny")
    form.get_by_label("Trajectories to train on").fill("4")
    form.get_by_label("Steps at most").fill("6")
    form.get_by_label("Name").fill("mine")
    form.get_by_role("button", name="Start").click()
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.get_by_text("succeeded", exact=True)).to_be_visible()
    expect(job.locator(".verdict")).to_contain_text("Tuning")
    expect(job.get_by_label(re.compile("^Validation error: at the end one-step"))).to_be_visible()
    expect(page.get_by_role("region", name="Adaptations")).to_contain_text("tiny-mine-")
    job.get_by_role("link", name="Solve with the new model").click()
    problem = page.get_by_role("form", name="Problem")
    expect(problem.get_by_label("Model")).to_have_value(re.compile("^tiny-mine-"))
    expect(problem.get_by_role("combobox", name="File")).to_have_value(file_id)
    problem.get_by_label("Steps").fill("2")
    problem.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text(re.compile("^Finished: 2 steps"))


def test_a_job_is_cancelled_and_resumed(page: Page, site: RunningService, burgers_file: Path) -> None:
    file_id = ready(page, site, burgers_file)
    spec = {"model": "tiny", "training_file": file_id, "n_trajectories": 4, "max_steps": 100_000}
    made = site.send("POST", "/v1/fine-tuning/jobs", spec).json()
    page.goto(f"/#/jobs/{made['id']}")
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.get_by_label(re.compile("^Validation error: at the end"))).to_be_visible()
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator(".state")).to_have_text("cancelled")
    job.get_by_role("button", name="Resume").click()
    expect(job.get_by_role("button", name="Cancel")).to_be_visible()
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator(".state")).to_have_text("cancelled")


def test_an_evaluation_ends_in_the_table(page: Page, site: RunningService, burgers_file: Path) -> None:
    file_id = ready(page, site, burgers_file)
    page.goto(f"/#/jobs?file={file_id}")
    form = page.get_by_role("form", name="New job")
    expect(form.get_by_label("Model", exact=True)).to_have_value("small")  # the service's own
    form.get_by_role("radio", name="Evaluate a model").check()
    form.get_by_label("Model", exact=True).select_option("numerical")
    form.get_by_label("Trajectories", exact=True).fill("2")
    form.get_by_role("button", name="Start").click()
    expect(page.get_by_role("region", name="Scores")).to_contain_text("persistence")
    expect(page.get_by_role("region", name="Evaluations")).to_contain_text("numerical")


def test_cards_of_models(page: Page) -> None:
    page.goto("/#/models/small")
    card = page.get_by_role("region", name="Model card")
    expect(card.get_by_role("heading", name="small")).to_be_visible()
    expect(card.get_by_role("region", name="Families and trained ranges")).to_contain_text("nu 0.001 to 0.5")
    page.get_by_role("link", name="numerical").click()
    expect(card.get_by_role("heading", name="numerical")).to_be_visible()
    expect(card.get_by_text("reference solver")).to_be_visible()


def test_rows_of_files_and_jobs_say_what_they_hold(page: Page, site: RunningService, burgers_file: Path) -> None:
    file_id = ready(page, site, burgers_file)
    page.goto("/#/files")
    row = page.locator("details", has_text=burgers_file.name).first
    expect(row.locator(".about")).to_have_text(re.compile(r"^1D Burgers' Equation · [\d.]+ kB · .*\d"))
    page.goto(f"/#/jobs?file={file_id}")
    form = page.get_by_role("form", name="New job")
    form.get_by_role("radio", name="Evaluate a model").check()
    options = form.get_by_label("Model", exact=True).locator("option")
    expect(options.get_by_text("small", exact=True)).to_have_count(1)
    offered = options.all_inner_texts()
    assert "tiny" not in offered, "tiny knows advection alone"
    form.get_by_label("Model", exact=True).select_option("persistence")
    form.get_by_label("Trajectories", exact=True).fill("1")
    form.get_by_role("button", name="Start").click()
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.get_by_text(f"{burgers_file.name} (burgers)")).to_be_visible()
    expect(page.get_by_role("region", name="Evaluations")).to_contain_text(f"{burgers_file.name} (burgers)")


def test_as_many_trajectories_are_proposed_as_a_file_has(page: Page, site: RunningService, burgers_file: Path) -> None:
    file_id = ready(page, site, burgers_file)
    page.goto(f"/#/jobs?file={file_id}")
    proposed = page.get_by_role("form", name="New job").get_by_label("Trajectories to train on")
    expect(proposed).to_have_value("5")  # of seven: one chooses the checkpoint, one is the test
    proposed.fill("2")
    page.get_by_label("File", exact=True).select_option(file_id)
    expect(proposed).to_have_value("2")


def test_a_rollout_that_nobody_waits_for_is_listed_and_its_result_saved(
    page: Page, site: RunningService, tmp_path: Path
) -> None:
    request = {
        "family": "burgers", "model": "small", "coefficients": {"nu": 0.1}, "grid": {"n": [32]}, "n_steps": 3,
        "initial_condition": {"sample": {"seed": 1}},
    }  # fmt: skip
    made = site.send("POST", "/v1/rollouts", request, Prefer="respond-async").json()
    page.goto("/#/jobs")
    page.get_by_role("region", name="Rollouts that nobody waits for").get_by_role("link", name=made["id"]).click()
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.locator(".state.succeeded")).to_be_visible()
    expect(job.locator(".facts")).to_contain_text("burgers")
    for name in ("NetCDF", "npz", "HDF5"):
        with page.expect_download() as taken:
            job.get_by_role("button", name=name).click()
        taken.value.save_as(tmp_path / name)
        with open_source(tmp_path / name) as found:
            assert found.read([0]).shape == (1, 4, 32, 1)
            assert np.isfinite(found.read([0])).all()
