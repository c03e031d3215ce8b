"""The pictures of the page in the documentation, taken from a running service: python -m tests.e2e.pictures URL."""

import io
import re
import sys
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.conftest import CHROMIUM, OPTIONS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
MOST_BYTES = 220_000
DESKTOP = (1280, 1130)
PHONE = (390, 844)
PATIENCE_MS = 300_000
SHOTS = (
    ("solve-light", "#/solve?family=burgers&seed=7", "light", DESKTOP),
    ("solve-dark", "#/solve?family=burgers&seed=7", "dark", DESKTOP),
    ("flow-light", "#/solve?model=numerical&family=diffusion_reaction_2d", "light", DESKTOP),
    ("beside-light", "#/solve?family=burgers&seed=7&reference=0&beside=coefficients&b.nu=0.05", "light", DESKTOP),
    ("equation-light", f"#/solve?equation={quote('u_t = -u*u_x + 0.01*u_xx + u*(1-u)')}", "light", DESKTOP),
    ("phone-light", "#/solve?family=burgers&seed=7", "light", PHONE),
    ("phone-dark", "#/solve?family=burgers&seed=7", "dark", PHONE),
    ("models-light", "#/models", "light", DESKTOP),
    ("models-phone-dark", "#/models", "dark", PHONE),
    ("files-light", "#/files", "light", DESKTOP),
    ("jobs-dark", "#/jobs", "dark", DESKTOP),
)


def shot(browser: Browser, url: str, address: str, scheme: str, size: tuple[int, int]) -> bytes:
    """PNG of a section; of Solve with a finished rollout, on a phone scrolled to it."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{url}/{address}")
    if address.startswith("#/solve"):
        page.locator("form .primary:enabled").wait_for()
        page.locator("form .primary").click()
        page.get_by_text("Finished:").wait_for()
        slider = page.get_by_label("Frame")
        slider.focus()
        slider.press("End")
        for _ in range(10):
            slider.press("ArrowLeft")
        slider.blur()
        if size == PHONE:
            page.get_by_role("region", name="Solution").evaluate("region => scrollTo(0, region.offsetTop - 12)")
    elif address == "#/files" and page.locator("details").count():
        page.locator("details summary").first.click()
        page.get_by_alt_text(re.compile("^Trajectory ")).wait_for()
    else:
        page.locator(".scrolls").first.wait_for()
    page.wait_for_load_state("networkidle")
    picture = page.screenshot(animations="disabled")
    page.close()
    return picture


def small(picture: bytes) -> bytes:
    """The picture with as many colours as fit into `MOST_BYTES`."""
    for colours in (256, 128, 64):
        written = io.BytesIO()
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=4).save(
            written, "PNG", optimize=True
        )
        if written.tell() <= MOST_BYTES:
            break
    return written.getvalue()


def main(url: str, only: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for name, address, scheme, size in SHOTS:
            if not only or name in only:
                path = FOLDER / f"{name}.png"
                path.write_bytes(small(shot(browser, url.rstrip("/"), address, scheme, size)))
                print(f"{path.name}: {path.stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
