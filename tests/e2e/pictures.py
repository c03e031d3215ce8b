"""The pictures of the page in the documentation, taken from a running service: python -m tests.e2e.pictures URL.

`--every FOLDER` takes all sections instead, light and dark, wide and on a phone, to be looked at.
"""

import argparse
import io
import re
from collections.abc import Iterator
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

SECTIONS = {"solve": "#/solve?family=burgers&seed=7", "files": "#/files", "jobs": "#/jobs", "models": "#/models"}


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
    elif address == "#/files":
        page.locator(".records > *").first.wait_for()
        if page.locator(".records details").count():
            page.locator(".records summary").first.click()
            page.get_by_alt_text(re.compile("^Trajectory ")).wait_for()
    else:
        page.locator(".scrolls, form").first.wait_for()
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


def every() -> Iterator[tuple[str, str, str, tuple[int, int]]]:
    """All sections in all ways, as rows of `SHOTS`."""
    for name, address in SECTIONS.items():
        for scheme in ("light", "dark"):
            for kind, size in (("wide", DESKTOP), ("phone", PHONE)):
                yield f"{name}-{scheme}-{kind}", address, scheme, size


def main(url: str, only: list[str], folder: Path | None) -> None:
    """Takes the pictures of `SHOTS`, or `only` some; with a folder, every section into that."""
    into = folder or FOLDER
    into.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for name, address, scheme, size in SHOTS if folder is None else every():
            if not only or name in only:
                path = into / f"{name}.png"
                path.write_bytes(small(shot(browser, url.rstrip("/"), address, scheme, size)))
                print(f"{path.name}: {path.stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("only", nargs="*", help="names of pictures")
    parser.add_argument("--every", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    main(options.url, options.only, options.every)
