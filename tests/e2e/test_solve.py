"""The section Solve in a real browser: run, watch, scrub, compare, draw, be told what is wrong."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, expect

pytestmark = pytest.mark.slow

DONE = re.compile(r"^Finished: ")


def open_form(page: Page, query: str = "") -> Locator:
    """The form of the problem, filled with what the service offers."""
    page.goto(f"/#/solve{query}")
    form = page.get_by_role("form", name="Problem")
    expect(form.get_by_role("button", name="Run")).to_be_enabled()
    return form


def run(page: Page, form: Locator, steps: int) -> None:
    form.get_by_label("Steps").fill(str(steps))
    form.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text(DONE)


def sent_document(request: Request) -> dict[str, Any]:
    """The JSON body of a request."""
    document = request.post_data_json
    assert document is not None
    return dict(document)


def painted(canvas: Locator) -> int:
    """How many different colours a canvas shows."""
    return int(
        canvas.evaluate(
            "canvas => new Set(new Uint32Array(canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
        )
    )


def test_a_rollout_beside_its_reference(page: Page) -> None:
    form = open_form(page, "?seed=7")
    assert form.get_by_label("Model").input_value() == "small"
    assert form.get_by_label("Equation").input_value() == "burgers"
    with page.expect_request("**/v1/rollouts*") as sent:
        run(page, form, 6)
    assert sent_document(sent.value)["grid"] == {"n": [32]}
    expect(page.get_by_role("status")).to_contain_text("6 steps")
    expect(page.get_by_role("status")).to_contain_text("Error against the reference")
    slider = page.get_by_label("Frame")
    expect(slider).to_have_attribute("max", "6")
    slider.focus()
    slider.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "t = 0")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "t = 0.05")
    titles = [figure.inner_text().split("\n")[0] for figure in page.locator(".result figcaption").all()]
    charts = ["Error, nRMSE", "Mean", "Conserved, drift of the mean", "Power spectrum"]
    assert titles == ["State", "small", "Reference", "Difference", *charts]
    trust = page.get_by_role("region", name="Trust")
    expect(trust).to_contain_text("Expected error: unknown; small has no calibration for burgers")
    expect(trust).to_contain_text("Like the training: coefficients, resolution, states.")
    # Which of the two was faster is the machine's to say.
    expect(trust).to_contain_text(re.compile("numerical solver(, no worse,| computed this no worse) in"))
    for canvas in page.locator(".result canvas.plot").all():
        assert painted(canvas) > 3, canvas.get_attribute("aria-label")


def test_an_answer_on_a_finer_grid_shows_both_methods(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Answer at").select_option("2")
    sent: list[dict[str, Any]] = []
    page.on("request", lambda request: sent.append(sent_document(request)) if "rollouts" in request.url else None)
    run(page, form, 3)
    assert sorted(document["method"] for document in sent) == ["interpolation", "resolution-free"]
    assert {tuple(document["output_resolution"]) for document in sent} == {(64,)}
    titles = [figure.inner_text().split("\n")[0] for figure in page.locator(".result figcaption").all()]
    assert titles[:5] == ["State", "Resolution-free", "Interpolation", "Reference", "Difference"]
    expect(page.get_by_role("region", name="Trust")).to_contain_text("waves of up to 16 cycles per box")
    error = page.get_by_role("img", name=re.compile(r"^Error, nRMSE: .*resolution-free .*interpolation"))
    assert painted(error) > 3


def test_playing_goes_through_all_frames(page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")
    form = open_form(page)
    run(page, form, 8)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    expect(page.get_by_label("Frame")).to_have_attribute("aria-valuetext", "t = 0.4")
    page.get_by_label("Speed").select_option("slow")
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_label("Frame")).not_to_have_attribute("aria-valuetext", "t = 0.4")


def test_the_trained_range_is_marked_and_the_domain_enforced(page: Page) -> None:
    form = open_form(page)
    number = form.get_by_label("νnu")
    band = form.get_by_title("trained range").evaluate("band => [band.offsetLeft, band.offsetWidth]")
    assert band[0] > 0
    assert band[1] > 50
    expect(form.get_by_text("Trained from 0.001 to 0.5.")).to_be_visible()
    number.fill("-1")
    expect(form.get_by_text("Must be above 0.")).to_be_visible()
    expect(number).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_role("button", name="Run")).to_be_disabled()
    number.fill("0.9")
    expect(form.get_by_text("Outside of it the error is unknown")).to_be_visible()
    run(page, form, 2)
    flag = page.locator(".note.flag").first
    expect(flag).to_contain_text("Outside the trained range")
    expect(flag).to_contain_text("coefficient_outside_trained_range")


def test_a_curve_drawn_by_hand_is_what_is_solved(page: Page) -> None:
    form = open_form(page)
    form.get_by_role("radio", name="Draw").check()
    form.get_by_role("button", name="Flat").click()
    canvas = form.get_by_label("Drawing of the initial state")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.1 * box["height"], steps=4)
    page.mouse.up()
    with page.expect_request("**/v1/rollouts*") as sent:
        run(page, form, 2)
    values = [value for (value,) in sent_document(sent.value)["initial_condition"]["values"]]
    assert len(values) == 32
    assert values[14] > values[2] + 0.5 * (max(values) - min(values)), "raised where it was drawn"
    assert values[0] == pytest.approx(values[28]), "and nowhere else"


def test_a_flow_in_two_dimensions_painted_with_the_brush(page: Page) -> None:
    form = open_form(page, "?model=numerical&family=shallow_water")
    expect(form.get_by_label("Equation")).to_have_value("shallow_water")
    form.get_by_label("Points").fill("16")
    form.get_by_role("radio", name="Draw").check()
    form.get_by_role("button", name="Bump").click()
    canvas = form.get_by_label("Drawing of the initial state")
    canvas.click(position={"x": 60, "y": 60})
    with page.expect_request("**/v1/rollouts*") as sent:
        run(page, form, 3)
    values = sent_document(sent.value)["initial_condition"]["values"]
    assert (len(values), len(values[0]), len(values[0][0])) == (16, 16, 1)
    assert values[8][8][0] > values[0][0][0], "the bump is in the middle"
    assert values[3][12][0] > values[12][3][0], "the brush was above and left of it"
    page.get_by_role("radio", name="Diverging").check()
    assert painted(page.locator(".result .maps canvas.plot")) > 20


def test_fields_of_a_system_are_shown_one_at_a_time(page: Page) -> None:
    form = open_form(page, "?model=numerical&family=compressible_ns_1d")
    form.get_by_label("Points").fill("32")
    run(page, form, 2)
    expect(page.get_by_text("Vx", exact=True).last).to_be_visible()
    page.get_by_label("Field", exact=True).last.select_option("density")
    expect(page.get_by_text("density, conserved")).to_be_visible()


def test_what_the_service_objects_to_is_said_in_words(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Steps").fill("10000")
    page.route(
        "**/v1/rollouts*",
        lambda route: route.continue_(post_data=(route.request.post_data or "").replace("10000", "10001")),
    )
    form.get_by_label("Compare").uncheck()
    form.get_by_role("button", name="Run").click()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("too_many_steps")
    expect(problem).to_contain_text("at most 10000")
    expect(page.get_by_role("status")).to_have_text("There is no solution.")


def test_frames_that_come_while_a_run_is_being_stopped_are_shown(page: Page) -> None:
    """As if Stop had been pressed before the page looked at the first of them."""
    form = open_form(page)
    page.evaluate("Object.defineProperty(AbortSignal.prototype, 'aborted', { get: () => true })")
    form.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^Stopped after \d+ steps"))
    expect(page.get_by_role("region", name="Solution").locator("canvas").first).to_be_visible()


def test_a_rollout_can_be_stopped(page: Page) -> None:
    form = open_form(page)
    form.get_by_label("Compare").uncheck()
    form.get_by_label("Steps").fill("10000")
    form.get_by_role("button", name="Run").click()
    page.get_by_role("button", name="Stop").press("Enter")  # at once, wherever it moves while the result is laid out
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^Stopped"))
