"""Ensembles on the page: asked for by keyboard, shown as a band or as maps, in both schemes and on a phone."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_access import PHONE, violations
from tests.e2e.test_solve import open_form, painted, run, sent_document

pytestmark = pytest.mark.slow

ENSEMBLE = "Ensemble of perturbed initial states"
SPREAD = re.compile(r"^Ensemble spread, colours from 0 to ")


def titles(page: Page) -> list[str]:
    return [figure.inner_text().split("\n")[0] for figure in page.locator(".result figcaption").all()]


def test_a_band_around_a_curve_by_keyboard(page: Page) -> None:
    form = open_form(page)
    expect(form.get_by_label("Members")).to_be_hidden()
    form.get_by_label(ENSEMBLE).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(form.get_by_label("Members")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("4")
    page.keyboard.press("Tab")
    expect(form.get_by_label("Amplitude, %")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("10")
    with page.expect_request("**/v1/rollouts*") as sent:
        run(page, form, 4)
    assert sent_document(sent.value)["ensemble"] == {"members": 4, "amplitude": 0.1, "quantiles": [0.05, 0.95]}
    assert titles(page)[:5] == ["State", "small", "Reference", "Difference", "Ensemble spread"]
    assert "Spread over time" in titles(page)
    state = page.get_by_role("img", name=re.compile(r"^State: at the end 9 of 10 members -?[\d.]+ to -?[\d.]+, .*mean"))
    assert painted(state) > 10
    assert painted(page.get_by_role("img", name=SPREAD)) > 10
    trust = page.get_by_role("region", name="Trust")
    expect(trust).to_contain_text("4 states, each perturbed by 10 % of a field's deviation")


def test_what_no_ensemble_can_be_is_not_sent(page: Page) -> None:
    form = open_form(page)
    form.get_by_label(ENSEMBLE).check()
    form.get_by_label("Members").fill("1")
    expect(form.get_by_label("Members")).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_role("button", name="Run")).to_be_disabled()
    form.get_by_label(ENSEMBLE).uncheck()
    expect(form.get_by_role("button", name="Run")).to_be_enabled()
    with page.expect_request("**/v1/rollouts*") as sent:
        run(page, form, 1)
    assert "ensemble" not in sent_document(sent.value)
    assert "Ensemble spread" not in titles(page)


def test_mean_and_spread_of_a_flow_as_maps(page: Page) -> None:
    form = open_form(page, "?model=numerical&family=shallow_water")
    form.get_by_label("Points").fill("16")
    form.get_by_label(ENSEMBLE).check()
    form.get_by_label("Members").fill("3")
    run(page, form, 2)
    assert titles(page)[:3] == ["numerical", "Ensemble mean", "Ensemble spread"]
    assert painted(page.get_by_role("img", name=re.compile("^Ensemble mean"))) > 10
    spread = page.get_by_role("img", name=SPREAD)
    assert painted(spread) > 10
    slider = page.get_by_label("Frame")
    slider.focus()
    slider.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "t = 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rules_of_axe_and_one_column_on_a_phone(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 844})
    form = open_form(page)
    form.get_by_label(ENSEMBLE).check()
    form.get_by_label("Members").fill("3")
    run(page, form, 2)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
