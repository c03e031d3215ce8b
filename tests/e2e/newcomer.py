"""A newcomer's way, timed: a rollout on the page, a file of one's own, a model adapted to it, its rollout.

python -m tests.e2e.newcomer            # against `ups serve` of this environment
python -m tests.e2e.newcomer --clone    # from `git clone` and `make serve`, the installation included
python -m tests.e2e.newcomer --clone --write    # and into docs/newcomer.md, with its pictures
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.api.conftest import wait_until
from tests.e2e.conftest import CHROMIUM, OPTIONS
from tests.e2e.pictures import small
from tests.serving import ready, serving

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "newcomer.md"
PICTURES = REPOSITORY / "docs" / "pictures"
MARKS = ("<!-- steps -->", "<!-- /steps -->")
SIZE = (1280, 1000)
PATIENCE_MS = 900_000


@dataclass(frozen=True)
class Step:
    """What was done, how long it took, and what the page showed then (PNG)."""

    what: str
    seconds: float
    name: str = ""
    picture: bytes = b""


@dataclass(frozen=True)
class Visit:
    """What the newcomer brings and asks for."""

    file: Path
    family: str
    model: str
    trajectories: int
    training_steps: int
    tuning: str = "lora"


def walk(page: Page, url: str, visit: Visit) -> Iterator[Step]:
    """The way through the page, step by step."""
    yield timed("the page is there", lambda: opened(page, url))
    form = page.get_by_role("form", name="Problem")
    expect(form.get_by_label("Model")).not_to_have_value("")

    yield timed("the first steps of a rollout move", lambda: begun(page))
    yield timed("the rollout is finished, its error known", lambda: finished(page), page, "first-rollout")

    yield timed("a file of one's own is uploaded and examined", lambda: uploaded(page, visit), page, "own-file")

    page.get_by_role("link", name="Adapt a model to it").click()
    yield timed("an adaptation is started and has learnt for a while", lambda: started(page, visit), page, "adaptation")
    job = page.get_by_role("region", name="Job", exact=True)
    succeeded = job.locator(".state.succeeded")
    yield timed("the adapted model is there", lambda: expect(succeeded).to_be_visible(), page, "adapted")

    job.get_by_role("link", name="Solve with the new model").click()
    yield timed("its rollout is finished", lambda: solved(page), page, "own-rollout")


def timed(what: str, act: Callable[[], object], page: Page | None = None, name: str = "") -> Step:
    began = time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    if page is None:
        return Step(what, seconds)
    page.wait_for_load_state("networkidle")
    return Step(what, seconds, name, page.screenshot(animations="disabled"))


def opened(page: Page, url: str) -> None:
    page.goto(f"{url}/")
    expect(page.get_by_role("button", name="Run")).to_be_enabled()


def begun(page: Page) -> None:
    """The clock of the animation runs."""
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_label("Frame")).to_have_attribute("aria-valuetext", re.compile(r"^t = 0?\.?0*[1-9]"))


def finished(page: Page) -> None:
    expect(page.get_by_role("status")).to_have_text(re.compile("^Finished: .*Error against the reference"))
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def uploaded(page: Page, visit: Visit) -> None:
    page.get_by_role("link", name="Files").click()
    page.get_by_label("Equation").select_option(visit.family)
    page.get_by_label("choose files").set_input_files(visit.file)
    report = page.locator("details", has_text=visit.file.name)
    expect(report.locator(".state.ready")).to_be_visible()
    expect(report.get_by_alt_text(re.compile("^Trajectory "))).to_have_js_property("complete", True)


def started(page: Page, visit: Visit) -> None:
    form = page.get_by_role("form", name="New job")
    form.get_by_label("Model", exact=True).select_option(visit.model)
    form.get_by_label("Trajectories to train on").fill(str(visit.trajectories))
    form.get_by_label("What may change").select_option(visit.tuning)
    form.get_by_label("Steps at most").fill(str(visit.training_steps))
    form.get_by_label("Name").fill("mine")
    form.get_by_role("button", name="Start").click()
    curve = re.compile("^Loss: at the end")
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.get_by_label(curve)).to_be_visible()
    expect(job.locator("progress")).to_have_attribute("value", re.compile(r"^(0\.[4-9]|1)"))


def solved(page: Page) -> None:
    form = page.get_by_role("form", name="Problem")
    expect(form.get_by_label("Model")).to_have_value(re.compile("-mine-"))
    expect(form.get_by_role("radio", name="File")).to_be_checked()
    form.get_by_role("button", name="Run").click()
    finished(page)


@contextmanager
def cloned(folder: Path, steps: list[Step]) -> Iterator[tuple[str, list[str]]]:
    """Address and command of a service that was cloned and installed as the README says."""
    here = folder / "ups-server"
    os.environ.pop("PYTHONPATH", None)  # the clone is to find its own package
    clone = ["git", "clone", "--quiet", str(REPOSITORY), str(here)]
    steps.append(timed("git clone", lambda: subprocess.run(clone, check=True)))
    began = time.perf_counter()
    process = subprocess.Popen(
        ["make", "serve", "PORT=0"],
        cwd=here,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        found = (re.search(r"serving at (http://[\d.]+:\d+)", line) for line in process.stdout)
        url = next((match[1] for match in found if match), None)
        if url is None:
            raise SystemExit("make serve ended before it served")
        steps.append(Step("make serve: installed, and serving", time.perf_counter() - began))
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield url, [str(here / ".venv" / "bin" / "ups")]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The same from this environment."""
    with serving(folder / "data") as running:
        yield running.url, [sys.executable, "-m", "ups_server.cli"]


def visited(clone: bool, trajectories: int, training_steps: int) -> list[Step]:
    """All steps, the service's own included."""
    steps: list[Step] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with cloned(folder, steps) if clone else served(folder) as (url, ups):
            steps.append(timed("the model is loaded", lambda: wait_until(lambda: ready(url), "the engine is ready")))
            file = folder / "mine.hdf5"
            words = ("-n", str(trajectories + 8), "--resolution", "128", "--seed", "1", "-o", str(file))
            generate = [*ups, "data", "generate", "diffusion_reaction_1d", *words]
            steps.append(timed("trajectories of one's own are made", lambda: subprocess.run(generate, check=True)))
            visit = Visit(file, "diffusion_reaction_1d", "ups-mini", trajectories, training_steps)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
                page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
                page.set_default_timeout(PATIENCE_MS)
                expect.set_options(timeout=PATIENCE_MS)
                for step in walk(page, url, visit):
                    steps.append(step)
                    print(f"{step.what}: {step.seconds:.1f} s", flush=True)
                browser.close()
    return steps


def written(steps: list[Step]) -> str:
    """The steps as a table."""
    rows = [f"| {step.what} | {step.seconds:.1f} |" for step in steps]
    total = f"| **all of it** | **{sum(step.seconds for step in steps):.0f}** |"
    return "\n".join(["| | seconds |", "|---|---|", *rows, total])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", action="store_true", help="begin with git clone and make serve")
    parser.add_argument("--trajectories", type=int, default=12, help="trained on; eight more are held out")
    parser.add_argument("--training-steps", type=int, default=40)
    parser.add_argument("--pictures", type=Path, help="folder of what the page showed")
    parser.add_argument("--write", action="store_true", help="write docs/newcomer.md and its pictures")
    options = parser.parse_args()
    steps = visited(options.clone, options.trajectories, options.training_steps)
    print(written(steps))
    folder = PICTURES if options.write else options.pictures
    for step in steps:
        if step.picture and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"newcomer-{step.name}.png").write_bytes(small(step.picture))
    if options.write:
        before, _, after = DOCUMENT.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = after.partition(MARKS[1])
        DOCUMENT.write_text(f"{before}{MARKS[0]}\n{written(steps)}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
