"""Out of the page: files, requests as text, an address that gives the same run, a history, two runs side by side."""

import csv
import io
import json
import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
import xarray as xr
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e.test_access import violations
from tests.e2e.test_ensemble import titles
from tests.e2e.test_solve import open_form, run, sent_document

pytestmark = pytest.mark.slow


def saved(page: Page, name: str, folder: Path) -> Path:
    """The file that a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_result_as_files(page: Page, tmp_path: Path) -> None:
    form = open_form(page)
    run(page, form, 4)
    path = saved(page, "Save as NetCDF", tmp_path)
    assert path.name == "small-burgers.nc"
    with xr.open_dataset(path) as solution:
        assert dict(solution.sizes) == {"time": 5, "x": 32}
        np.testing.assert_allclose(solution.time, 0.05 * np.arange(5), rtol=1e-6)
        np.testing.assert_allclose(solution.x, (np.arange(32) + 0.5) / 32)
        assert np.isfinite(solution.u).all()
        np.testing.assert_allclose(solution.u[0], solution.u_reference[0], atol=1e-5)
        assert solution.attrs["model"] == "small"
        assert json.loads(solution.attrs["request"])["n_steps"] == 4
    with Image.open(saved(page, "Save as PNG", tmp_path)) as picture:
        assert picture.size[0] > 600
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 100
    with Image.open(saved(page, "Save as GIF", tmp_path)) as animation:
        assert getattr(animation, "n_frames", 1) == 5
        first = np.asarray(animation.convert("RGB"))
        animation.seek(4)
        assert (np.asarray(animation.convert("RGB")) != first).any()
    expect(page.get_by_label("Frame")).to_have_attribute("aria-valuetext", "t = 0.2")
    rows = list(csv.DictReader(io.StringIO(saved(page, "Save curves as CSV", tmp_path).read_text())))
    assert [float(row["time"]) for row in rows] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert float(rows[4]["nRMSE of small against the reference: u"]) > 0
    assert np.isfinite(float(rows[2]["mean of reference: u"]))


def test_a_flow_as_an_animation(page: Page, tmp_path: Path) -> None:
    form = open_form(page, "?model=numerical&family=shallow_water&n=24x12")
    run(page, form, 3)
    with Image.open(saved(page, "Save as GIF", tmp_path)) as animation:
        assert animation.size == (256, 256)
        assert getattr(animation, "n_frames", 1) == 4
        first = np.asarray(animation.convert("RGB"))
        animation.seek(3)
        last = np.asarray(animation.convert("RGB"))
    assert (first != last).any()
    assert len(np.unique(last.reshape(-1, 3), axis=0)) > 4
    with xr.open_dataset(saved(page, "Save as NetCDF", tmp_path)) as solution:
        assert solution.h.dims == ("time", "x", "y")
        assert solution.h.shape == (4, 24, 12)


def film(path: Path, width: int, height: int) -> np.ndarray:
    """(T, Y, X, 3): the frames of a video as another program decodes them, at a size."""
    words = [
        "-i",
        str(path),
        "-vf",
        f"scale={width}:{height}:flags=neighbor",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    done = subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", *words], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3).astype(int)


NO_H264 = """
const known = VideoEncoder.isConfigSupported;
VideoEncoder.isConfigSupported = async (wanted) =>
  wanted.codec.startsWith("avc1") ? { supported: false } : known.call(VideoEncoder, wanted);
"""


@pytest.mark.parametrize(("prepared", "codec"), [("", b"avc1"), (NO_H264, b"vp09")])
def test_the_same_animation_as_a_video(page: Page, tmp_path: Path, prepared: str, codec: bytes) -> None:
    page.add_init_script(prepared)
    form = open_form(page, "?model=numerical&family=shallow_water&n=24x12")
    run(page, form, 5)
    with Image.open(saved(page, "Save as GIF", tmp_path)) as animation:
        pictures = []
        for frame in range(getattr(animation, "n_frames", 1)):
            animation.seek(frame)
            pictures.append(
                np.asarray(animation.convert("RGB").resize((512, 512), Image.Resampling.NEAREST)).astype(int)
            )
    path = saved(page, "Save as MP4", tmp_path)
    assert path.name == "numerical-shallow_water.mp4"
    assert path.read_bytes()[4:8] == b"ftyp"
    assert codec in path.read_bytes()[:64]
    frames = film(path, 512, 512)
    assert len(frames) == 6
    # The codec keeps half of the colours' points, and rounds.
    nearest = [int(np.argmin([np.abs(frame - picture).mean() for picture in pictures])) for frame in frames]
    assert nearest == [0, 1, 2, 3, 4, 5]
    assert max(np.abs(frame - picture).mean() for frame, picture in zip(frames, pictures, strict=True)) < 6


def test_curves_as_a_video(page: Page, tmp_path: Path) -> None:
    form = open_form(page)
    run(page, form, 3)
    frames = film(saved(page, "Save as MP4", tmp_path), 400, 200)
    assert len(frames) == 4
    assert np.abs(frames[3] - frames[0]).mean() > 0.1


def test_a_browser_without_an_encoder_is_told_why_there_is_no_video(page: Page) -> None:
    page.add_init_script("delete globalThis.VideoEncoder")
    form = open_form(page)
    run(page, form, 1)
    expect(page.get_by_text("No MP4: this browser has no encoder for it.")).to_be_visible()
    expect(page.get_by_role("button", name="Save as GIF")).to_be_visible()
    expect(page.get_by_role("button", name="Save as MP4")).to_be_hidden()


def test_a_request_as_python_curl_and_command(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    form = open_form(page)
    form.get_by_label("νnu").fill("0.02")
    with page.expect_request("**/v1/rollouts*") as request:
        run(page, form, 3)
    sent = sent_document(request.value)
    page.get_by_text("Copy as Python, curl or CLI").click()
    text = page.get_by_label("The request as text")
    python: dict[str, object] = {}
    call = text.inner_text().split("client.rollout(")[1].split("\n    )")[0]
    python = eval(f"dict({call})")
    assert python == sent
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert "client.rollout(" in page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("radio", name="curl").check()
    words = shlex.split(text.inner_text())
    assert words[0] == "curl"
    assert json.loads(words[-1]) == sent
    page.get_by_role("radio", name="CLI").check()
    command = shlex.split(text.inner_text().replace("\\\n", " "))
    assert command[:3] == ["ups", "solve", "burgers"]
    for option, value in {
        "--model": "small",
        "--coef": "nu=0.02",
        "--seed": "2",
        "--n-steps": "3",
        "--resolution": "32",
    }.items():
        assert command[command.index(option) + 1] == value


def test_the_command_takes_points_by_axis_and_times(page: Page) -> None:
    form = open_form(page, "?model=numerical&family=shallow_water&n=24x12&t=0.02&times=2&reference=0")
    form.get_by_role("button", name="Run").click()
    expect(page.get_by_text("Finished:")).to_be_visible()
    page.get_by_text("Copy as Python, curl or CLI").click()
    page.get_by_role("radio", name="CLI").check()
    text = page.get_by_label("The request as text").inner_text()
    command = shlex.split(text.replace("\\\n", " "))
    assert command[command.index("--resolution") + 1] == "24x12"
    assert [float(time) for time in command[command.index("--times") + 1].split(",")] == [0.01, 0.02]
    assert not text.startswith("#"), "nothing is left out"


def test_the_address_gives_the_same_run(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("νnu").fill("0.03")
    form.get_by_label("Seed").fill("5")
    form.get_by_label("Points").fill("48")
    form.get_by_label("Compare").uncheck()
    form.get_by_label("Ensemble of perturbed initial states").check()
    form.get_by_label("Members").fill("3")
    with page.expect_request("**/v1/rollouts*") as first:
        run(page, form, 2)
    page.reload()
    expect(form.get_by_role("button", name="Run")).to_be_enabled()
    with page.expect_request("**/v1/rollouts*") as again:
        form.get_by_role("button", name="Run").click()
    assert sent_document(again.value) == sent_document(first.value)
    query = parse_qs(page.url.split("?")[1])
    assert (query["c.nu"], query["n"], query["seed"], query["steps"]) == (["0.03"], ["48"], ["5"], ["2"])


def test_another_section_and_back_leaves_the_form_and_its_result(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Seed").fill("5")
    form.get_by_label("Ensemble of perturbed initial states").check()
    form.get_by_label("Members").fill("3")
    run(page, form, 2)
    page.get_by_role("link", name="Files", exact=True).click()
    expect(page.get_by_role("heading", name="Files")).to_be_visible()
    page.get_by_role("link", name="Solve", exact=True).click()
    expect(form.get_by_label("Members")).to_have_value("3")
    expect(form.get_by_label("Seed")).to_have_value("5")
    expect(page.locator(".summary")).to_contain_text("sample of seed 5")
    expect(page).to_have_url(re.compile("ensemble=3%2C5"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rules_of_axe_with_everything_open(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    form = open_form(page, "?model=small&family=burgers&seed=7&beside=coefficients&b.nu=0.2")
    run(page, form, 2)
    page.get_by_text("Copy as Python, curl or CLI").click()
    page.locator(".history summary").click()
    page.get_by_label("Colour limits").select_option("chosen")
    assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_drawing_is_in_the_address_too(page: Page) -> None:
    form = open_form(page)
    form.get_by_role("radio", name="Draw").check()
    form.get_by_role("button", name="Bump").click()
    with page.expect_request("**/v1/rollouts*") as first:
        run(page, form, 1)
    page.reload()
    expect(form.get_by_role("button", name="Run")).to_be_enabled()
    with page.expect_request(
        lambda request: request.method == "POST" and '"values"' in (request.post_data or "")
    ) as again:
        form.get_by_role("button", name="Run").click()
    assert sent_document(again.value)["initial_condition"] == sent_document(first.value)["initial_condition"]


def test_runs_of_this_browser_are_kept_and_forgotten(page: Page) -> None:
    form = open_form(page)
    expect(page.locator(".history")).to_be_hidden()
    form.get_by_label("Seed").fill("21")
    run(page, form, 2)
    form.get_by_label("Seed").fill("22")
    run(page, form, 2)
    page.reload()
    page.get_by_text("Runs of this browser (2)").click()
    runs = page.locator(".runs a")
    expect(runs.nth(1)).to_contain_text("sample of seed 21")
    runs.nth(1).click()
    expect(form.get_by_label("Seed")).to_have_value("21")
    page.get_by_role("button", name="Forget them").click()
    expect(page.locator(".history")).to_be_hidden()


def test_two_coefficient_sets_side_by_side(page: Page) -> None:
    form = open_form(page, "?model=small&family=burgers&c.nu=0.01&reference=0&beside=coefficients&b.nu=0.2")
    sent: list[float] = []
    page.on(
        "request",
        lambda request: (
            sent.append(sent_document(request)["coefficients"]["nu"]) if "v1/rollouts" in request.url else None
        ),
    )
    run(page, form, 3)
    assert sorted(sent) == [0.01, 0.2]
    assert titles(page)[:5] == ["State", "ν = 0.01", "ν = 0.2", "Difference of the two", "Difference of the two, nRMSE"]
    expect(page.get_by_role("img", name="Difference of the two, colours from")).to_be_visible()


def test_two_models_side_by_side(page: Page) -> None:
    form = open_form(page, "?model=small&family=burgers")
    form.get_by_label("Beside it").select_option("model")
    form.get_by_label("Run by").select_option("numerical")
    run(page, form, 3)
    assert titles(page)[:6] == ["State", "small", "numerical", "Reference", "Difference", "Difference of the two"]
    assert "beside=model&by=numerical" in page.url
