"""A real Chromium in front of a real service with small models; skips where there is no Chromium."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.api.conftest import RunningService, running_service
from tests.small_models import SMALL, card, make, write_parent
from ups_server.data.simulate import generate
from ups_server.model.checkpoint import save_pretrained
from ups_server.model.config import CoefficientRange
from ups_server.pde import family
from ups_server.settings import Settings

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
"""A busy machine is slow; nothing waits longer than it has to."""
CALM = 0.005
"""Size of the weights of the untrained model: its rollouts stay finite and bounded."""
PROVOKED = ("the server responded with a status of 422", "net::ERR_FAILED")
"""Chromium's own remarks on what tests provoke: answers that refuse, and requests that a test itself breaks off."""
ABSENT = "/none"
"""Ends the addresses of what tests ask for though it does not exist."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium (`apt-get install chromium`), or the one `CHROMIUM` names.

    Playwright's event loop runs in the test's own thread for as long as this lives, so it ends with each file.
    """
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def site(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose default model, `small`, knows Burgers; `tiny` knows advection. Both are untrained."""
    data_dir = tmp_path_factory.mktemp("page")
    burgers = card().model_copy(
        update={"fields": ("u",), "coefficients": {"nu": CoefficientRange(low=0.001, high=0.5)}}
    )
    model = make(SMALL.changed(name="small", families={"burgers": burgers}), language_model, CALM)
    save_pretrained(model, data_dir / "models" / "small")
    write_parent(data_dir / "models" / "tiny", language_model)
    settings = Settings(
        default_model="small", data_dir=data_dir, device="cpu", threads=1, worker_threads=1, job_poll_s=0.05
    )
    with running_service(settings) as running:
        yield running


@pytest.fixture
def page(browser: Browser, site: RunningService) -> Iterator[Page]:
    """The page in a fresh browser profile; whatever reaches the console as an error fails the test."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    opened = context.new_page()
    errors: list[str] = []

    def told(message: ConsoleMessage) -> None:
        provoked = any(remark in message.text for remark in PROVOKED) or message.location["url"].endswith(ABSENT)
        if message.type in ("error", "warning") and not provoked:
            errors.append(message.text)

    opened.on("console", told)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert not errors


@pytest.fixture(scope="session")
def burgers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file in PDEBench's layout: seven trajectories of Burgers."""
    path = tmp_path_factory.mktemp("file") / "1D_Burgers_Sols_Nu0.1.hdf5"
    generate(family("burgers"), {"nu": 0.1}, 7, 32, path, seed=0)
    return path
