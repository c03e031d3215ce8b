"""The page in front of a service that asks for a key."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import RunningService, running_service
from tests.e2e.conftest import PATIENCE_MS
from ups_server.access.keys import KeyStore
from ups_server.access.scopes import Scope
from ups_server.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    data_dir: Path = tmp_path_factory.mktemp("guarded")
    settings = Settings(default_model="persistence", data_dir=data_dir, device="cpu", threads=1, worker=False)
    with running_service(settings) as running:
        yield running


@pytest.fixture
def locked(browser: Browser, guarded: RunningService) -> Iterator[Page]:
    context = browser.new_context(base_url=guarded.url, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context.new_page()
    context.close()


def test_the_page_asks_for_the_key_and_keeps_it(locked: Page, guarded: RunningService) -> None:
    _, key = KeyStore(guarded.jobs.database).create("page", [Scope.RUN], 1)
    locked.goto("/#/models")
    dialog = locked.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("asks for an API key")
    assert Axe().run(locked).response["violations"] == []
    dialog.get_by_label("Key", exact=True).fill("ups_wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_contain_text("opens nothing")
    dialog.get_by_label("Key", exact=True).fill(key)
    locked.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(locked.locator(".card h2")).to_be_visible()
    locked.reload()
    expect(locked.locator(".card h2")).to_be_visible()
    expect(dialog).to_be_hidden()


def test_without_the_key_the_page_says_what_is_missing(locked: Page, guarded: RunningService) -> None:
    _, key = KeyStore(guarded.jobs.database).create("other", [Scope.READ], 1)
    locked.goto("/#/files")
    dialog = locked.get_by_role("dialog", name="API key")
    dialog.get_by_role("button", name="Cancel").click()
    expect(locked.get_by_role("alert").first).to_contain_text("asks for an API key")
    locked.get_by_role("button", name="API key").click()
    dialog.get_by_label("Key", exact=True).fill(key)
    dialog.get_by_role("button", name="Use this key").click()
    expect(locked.get_by_text("There are no files yet")).to_be_visible()
