"""Other ways into a rollout: an equation in symbols or in words, a final time."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_access import violations
from tests.e2e.test_solve import DONE, open_form, run, sent_document

pytestmark = pytest.mark.slow

OWN = "evolution_1d"


def test_an_equation_in_symbols_runs_by_the_solver_where_the_default_does_not_know_it(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Equation").select_option(OWN)
    form.get_by_label("In symbols").fill("u_t = -u*u_x + mu*u_xx + u*(1-u)")
    form.get_by_label("mu", exact=True).fill("0.02")
    expect(form.get_by_label("Model")).to_have_value("numerical")
    expect(form.get_by_role("button", name="Run")).to_be_enabled()
    with page.expect_request("**/v1/rollouts*") as sent:
        run(page, form, 3)
    request = sent_document(sent.value)
    assert request["equation"] == "u_t = -u*u_x + mu*u_xx + u*(1-u)"
    assert request["coefficients"] == {"mu": 0.02}
    assert "family" not in request
    expect(page.locator(".summary")).to_contain_text("numerical: an equation in symbols")
    expect(page.locator(".summary")).to_contain_text("mu = 0.02")
    page.reload()
    expect(form.get_by_label("In symbols")).to_have_value("u_t = -u*u_x + mu*u_xx + u*(1-u)")
    expect(form.get_by_label("mu", exact=True)).to_have_value("0.02")
    with page.expect_request("**/v1/rollouts*") as again:
        form.get_by_role("button", name="Run").click()
    assert sent_document(again.value) == request


def test_an_error_points_at_the_character(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Equation").select_option(OWN)
    form.get_by_label("In symbols").fill("u_t = 0.1*u_xx + ]u")
    expect(form.get_by_label("In symbols")).to_have_attribute("aria-invalid", "true")
    line, caret = form.locator(".pointer").inner_text().split("\n")
    assert line[caret.index("^")] == "]"
    expect(form.get_by_role("alert")).to_contain_text("(character 18)")
    expect(form.get_by_role("button", name="Run")).to_be_disabled()
    assert violations(page) == []
    form.get_by_label("In symbols").fill("u_t = 0.1*u_xx")
    expect(form.locator(".pointer")).to_have_count(0)
    expect(form.get_by_role("button", name="Run")).to_be_enabled()


def test_a_known_equation_in_symbols_goes_to_the_model_that_knows_it(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Equation").select_option(OWN)
    expect(form.get_by_label("Model")).to_have_value("numerical")
    form.get_by_label("In symbols").fill("u_t = -u*u_x + 0.01*u_xx")
    expect(form.get_by_label("Model")).to_have_value("small")
    expect(form.get_by_text("No trained model knows")).to_be_hidden()
    run(page, form, 2)
    expect(page.locator(".summary")).to_contain_text("small: an equation in symbols")


def test_words_become_a_proposal_that_nothing_runs(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Equation").select_option(OWN)
    runs: list[str] = []
    page.on("request", lambda request: runs.append(request.url) if "v1/rollouts" in request.url else None)
    form.get_by_label("In words").fill("a dye carried to the right that slowly spreads and decays")
    form.get_by_label("In words").press("Enter")
    expect(form.get_by_text("A proposal.")).to_be_visible()
    terms = form.get_by_role("region", name="Terms found in the words")
    for name in ("transport", "diffusion", "decay"):
        expect(terms).to_contain_text(name)
    proposal = form.get_by_label("In symbols").input_value()
    assert all(part in proposal for part in ("u_x", "u_xx", "*u"))
    expect(form.get_by_role("button", name="Run")).to_be_enabled()
    assert violations(page) == []
    assert runs == [], "nothing runs before Run is pressed"
    form.get_by_label("In symbols").fill(f"{proposal} + 0*u")
    run(page, form, 2)
    assert len(runs) == 1


def test_words_that_are_no_equation_give_none(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Equation").select_option(OWN)
    form.get_by_label("In words").fill("please book a table for two")
    form.get_by_role("button", name="Propose").click()
    expect(form.get_by_text("No equation is recognised in these words.")).to_be_visible()


def test_a_final_time_and_how_many_times_until_there(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("How far").select_option("time")
    form.get_by_label("Final time").fill("0.4")
    form.get_by_label("Times", exact=True).fill("4")
    form.get_by_label("Compare").uncheck()
    with page.expect_request("**/v1/rollouts*") as sent:
        form.get_by_role("button", name="Run").click()
    assert sent_document(sent.value)["times"] == [0.1, 0.2, 0.3, 0.4]
    expect(page.get_by_role("status")).to_have_text(DONE)
    expect(page.get_by_label("Frame")).to_have_attribute("max", "4")
    form.get_by_label("Times", exact=True).fill("1")
    with page.expect_request("**/v1/rollouts*") as last:
        form.get_by_role("button", name="Run").click()
    assert sent_document(last.value)["t_final"] == 0.4
    assert "times" not in sent_document(last.value)
