"""What the page shows before anyone knows it: defaults, what a result is of, progress, reasons, colours, addresses."""

import json
import math
import re
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route, expect

from tests.api.conftest import RunningService
from tests.e2e.test_ensemble import titles
from tests.e2e.test_solve import open_form, painted, run, sent_document

pytestmark = pytest.mark.slow
EQUATION = "u_t = -u*u_x + 0.01*u_xx + u*(1-u)"


def bar_text(page: Page, title: str) -> str:
    """What stands beside the colours of a map."""
    figure = page.locator(".maps figure", has_text=title).first
    return figure.locator(".scale").inner_text()


def test_defaults_are_the_trained_points_and_a_short_run(page: Page) -> None:
    form = open_form(page)
    expect(form.get_by_label("Points")).to_have_value("32")
    expect(form.get_by_text("Trained at 32.")).to_be_visible()
    expect(form.get_by_label("Compare")).to_be_checked()
    form = open_form(page, "?model=numerical&family=incompressible_ns_2d")
    expect(form.get_by_label("Points")).to_have_value("64")
    assert int(form.get_by_label("Steps").input_value()) <= 20, "not a hundred steps of a flow"


def default_request(page: Page, query: str) -> dict[str, Any]:
    """What *Run* sends when nothing in the form was touched."""
    page.goto("about:blank")
    form = open_form(page, query)
    with page.expect_request("**/v1/rollouts*") as sent:
        form.get_by_role("button", name="Run").click()
    return sent_document(sent.value)


def test_no_default_of_a_shipped_model_is_long_or_flagged(page: Page, site: RunningService) -> None:
    """Work is counted, in values times steps: seconds depend on the machine. One step of a map of 128² is 1.6e4."""
    page.route("**/v1/rollouts*", lambda route: route.abort())
    cards = [card for card in site.get("/v1/models").json()["models"] if card["id"].startswith("ups-")]
    looked_at = set()
    for card in cards:
        for name, known in card["families"].items():
            query = f"?model={card['id']}" + (
                f"&equation={quote(EQUATION)}" if name == "evolution_1d" else f"&family={name}"
            )
            request = default_request(page, query)
            points = request["grid"]["n"]
            assert points == [known["statistics"]["n"]] * len(points), name
            work = math.prod(points) * request["n_steps"]
            assert work <= (12_800 if len(points) == 1 else 82_000), name
            assert not (request["reference"] and len(points) > 1), "a reference of a map takes longer than the model"
            answer = site.post({**request, "reference": False})
            assert answer.status_code == 200, answer.text
            assert answer.json()["flags"] == [], name
            looked_at.add((card["id"], name))
    assert len(looked_at) >= 10


def test_the_model_is_the_one_that_the_service_would_choose(page: Page) -> None:
    def with_a_better_model(route: Route) -> None:
        found = route.fetch()
        route.fulfill(response=found, json={**found.json(), "defaults": {"advection": "tiny"}})

    page.route("**/v1/models", with_a_better_model)
    form = open_form(page, "?family=burgers")
    model, equation = form.get_by_label("Model"), form.get_by_label("Equation", exact=True)
    expect(model).to_have_value("small")
    equation.select_option("advection")
    expect(model).to_have_value("tiny")
    expect(
        form.get_by_text("The service's choice: at this equation it was measured to be better than small.")
    ).to_be_visible()
    equation.select_option("burgers")
    expect(model).to_have_value("small")
    model.select_option("numerical")
    expect(form.get_by_text("The service's own choice for this equation is small.")).to_be_visible()
    equation.select_option("advection")
    expect(model).to_have_value("numerical")
    expect(form.get_by_text("The service's own choice for this equation is tiny.")).to_be_visible()


def test_an_equation_that_no_model_knows_is_run_by_the_solver(page: Page) -> None:
    form = open_form(page, "?family=diffusion_reaction_1d")
    model, equation = form.get_by_label("Model"), form.get_by_label("Equation", exact=True)
    said = form.get_by_text("No trained model knows this equation: the numerical solver runs it.")
    expect(equation).to_have_value("diffusion_reaction_1d")
    expect(model).to_have_value("numerical")
    expect(said).to_be_visible()
    equation.select_option("burgers")
    expect(model).to_have_value("small")
    expect(said).to_be_hidden()
    equation.select_option("darcy")
    expect(model).to_have_value("numerical")
    form = open_form(page, "?model=small&family=diffusion_reaction_1d")
    expect(form.get_by_role("alert")).to_have_text("small does not know this equation: numerical runs it.")
    expect(equation).to_have_value("diffusion_reaction_1d")


def test_a_result_says_what_it_is_of(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Seed").fill("11")
    form.get_by_label("νnu").fill("0.02")
    run(page, form, 3)
    summary = page.locator(".summary")
    expect(summary).to_contain_text("small: 1D Burgers' Equation")
    for part in ("ν = 0.02", "sample of seed 11", "32", "to 0.15 in 3 steps", "version"):
        expect(summary).to_contain_text(part)


def test_a_new_run_and_an_error_clear_the_old_result(page: Page) -> None:
    form = open_form(page)
    run(page, form, 2)
    expect(page.locator(".summary")).to_be_visible()
    waiting: list[Route] = []
    page.route("**/v1/rollouts*", lambda route: waiting.append(route))
    form.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text("small computes.")
    expect(page.locator(".summary")).to_have_count(0)
    expect(page.locator(".result canvas.plot").first).to_be_hidden()
    expect(page.get_by_role("region", name="Trust")).to_have_count(0)
    problem = {"code": "too_many_steps", "detail": "too many steps", "status": 422}
    waiting[0].fulfill(status=422, content_type="application/problem+json", body=json.dumps(problem))
    expect(page.get_by_role("alert")).to_contain_text("Too many steps.")
    expect(page.get_by_role("status")).to_have_text("There is no solution.")
    expect(page.locator(".result canvas.plot").first).to_be_hidden()
    assert page.get_by_role("group", name="Save the result").is_hidden()


def test_model_and_reference_are_told_apart_while_they_run(page: Page) -> None:
    form = open_form(page)
    grid = {"n": [8], "extent": [[0, 1]], "offset": [0.5], "closed": [False]}
    start = {
        "model": "small",
        "model_version": "1",
        "family": "burgers",
        "equation": "u_t = 0",
        "fields": ["u"],
        "units": ["1"],
        "coefficients": {"nu": 0.01},
        "times": [0, 0.05],
        "time_unit": "1",
        "length_unit": "1",
        "dt": 0.05,
        "n_steps": 1,
        "save_every": 1,
        "n_frames": 2,
        "flags": [],
        "grid": grid,
    }
    # The body ends after the model's last state: the page still waits for the reference, until the stream breaks.
    held = page.evaluate_handle(
        """start => {
          const original = window.fetch;
          let controller;
          const text = (name, data) => controller.enqueue(
            new TextEncoder().encode(`event: ${name}\\ndata: ${JSON.stringify(data)}\\n\\n`),
          );
          window.fetch = (address, options) => {
            if (!String(address).includes("v1/rollouts")) return original(address, options);
            const body = new ReadableStream({ start: (made) => { controller = made; } });
            setTimeout(() => {
              const zeros = btoa(String.fromCharCode(...new Uint8Array(32)));
              text("start", start);
              text("step", { index: 0, time: 0, data: zeros });
              text("step", { index: 1, time: 0.05, data: zeros });
            });
            const headers = { "content-type": "text/event-stream" };
            return Promise.resolve(new Response(body, { status: 200, headers }));
          };
          return { end: () => controller.close() };
        }""",
        start,
    )
    form.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text("small is finished. The reference is being solved.")
    expect(page.get_by_role("progressbar", name="Progress of small")).to_have_attribute("value", "1")
    expect(page.get_by_role("progressbar", name="Progress of reference")).not_to_have_attribute("value", "1")
    reasons = page.locator(".why:visible")
    expect(reasons.first).to_have_text("The reference is being computed.")
    held.evaluate("stream => stream.end()")
    expect(page.get_by_role("alert")).to_contain_text("broke off")
    expect(reasons.first).to_contain_text("There is no reference: the run did not end.")


def test_colours_diverge_where_a_field_changes_sign_and_take_chosen_limits(page: Page) -> None:
    form = open_form(page, "?seed=7")
    run(page, form, 2)
    low, high = re.findall(r"-?[\d.]+", bar_text(page, "small"))[:2]
    assert float(low) == -float(high), "white is zero"
    assert bar_text(page, "small").split()[-1] == "u"
    page.get_by_label("Colour limits").select_option("chosen")
    page.get_by_label("From", exact=True).fill("-4")
    page.get_by_label("To", exact=True).fill("4")
    assert bar_text(page, "small").split()[:2] == ["-4", "4"]
    page.get_by_role("radio", name="Sequential").check()
    page.get_by_label("From", exact=True).fill("-1")
    assert bar_text(page, "small").split()[:2] == ["-1", "4"]


def test_a_flow_on_points_that_differ_by_axis_coloured_by_frame(page: Page) -> None:
    form = open_form(page, "?model=numerical&family=shallow_water")
    form.get_by_label("Points").fill("24 x")
    expect(form.get_by_text("Give such as 64 or 64 x 32.")).to_be_visible()
    expect(form.get_by_role("button", name="Run")).to_be_disabled()
    form.get_by_label("Points").fill("24 x 12")
    run(page, form, 3)
    expect(page.locator(".summary")).to_contain_text("24 × 12")
    assert painted(page.locator(".result .maps canvas.plot")) > 20
    whole = bar_text(page, "numerical")
    assert whole.split()[-2:] == ["h", "(m)"] or whole.split()[-1] == "h"
    page.get_by_label("Colour limits").select_option("frame")
    assert bar_text(page, "numerical") != whole
    assert titles(page)[0] == "numerical"


def test_flags_that_change_a_decision_come_first(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("νnu").fill("0.9")
    run(page, form, 2)
    codes = page.locator(".result .note code").all_inner_texts()
    assert codes[0] == "coefficient_outside_trained_range"
    assert "numerical_solver_is_faster" not in codes[:-1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("#/sovle", "There is no section “sovle”"),
        ("#/solve?family=burger", "There is no equation burger."),
        ("#/solve?model=none", "There is no model none."),
        ("#/solve?file=none", "There is no file none"),
        ("#/files/none", "There is no file none"),
        ("#/models/none", "none"),
    ],
)
def test_unknown_addresses_say_so(page: Page, address: str, said: str) -> None:
    page.goto(f"/{address}")
    expect(page.get_by_role("alert").filter(has_text=said)).to_be_visible()
