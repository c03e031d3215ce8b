"""The same page with a keyboard, a screen reader, a phone, in the dark: the rules of axe-core, and what they miss."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

SECTIONS = ("solve", "files", "jobs", "models")
PHONE = {"width": 390, "height": 844}


def shown(page: Page, section: str) -> None:
    """The section with all it has at the beginning."""
    page.goto(f"/#/{section}")
    if section == "solve":
        expect(page.get_by_role("button", name="Run")).to_be_enabled()
    elif section == "models":
        expect(page.locator(".card h2")).to_be_visible()
    else:
        expect(page.get_by_role("heading", level=1)).to_be_visible()


def solved(page: Page) -> None:
    page.get_by_label("Steps").fill("2")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_contain_text("Finished")


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rules_of_axe(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for section in SECTIONS:
        shown(page, section)
        if section == "solve":
            solved(page)
        assert violations(page) == [], section


def test_one_column_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for section in SECTIONS:
        shown(page, section)
        if section == "solve":
            solved(page)
            form = page.get_by_role("form").bounding_box()
            result = page.get_by_role("region", name="Solution").bounding_box()
            assert form is not None
            assert result is not None
            assert result["y"] >= form["y"] + form["height"], "one below the other"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{section} scrolls sideways"


def test_a_rollout_by_keyboard_alone(page: Page) -> None:
    shown(page, "solve")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    names = []
    for _ in range(30):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText"))
        if names[-1] == "Run":
            break
    order = [name for name in names if name in ("Model", "Equation", "Sample", "Seed", "Steps", "Run")]
    assert order == ["Model", "Equation", "Sample", "Seed", "Steps", "Run"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Finished")


def test_the_button_changes_the_colours_and_the_choice_is_kept(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    shown(page, "models")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    button = page.locator("#theme")
    expect(button).to_have_attribute("aria-label", "Colours: system. Change to light")
    button.click()
    assert page.evaluate(ground) == light
    button.click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
