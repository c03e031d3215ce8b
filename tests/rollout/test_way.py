"""The way of a request: from the body of `POST /v1/rollouts` to a plan, through few files and downwards only.

On the way are the files of the package that turn the request into something else. `pde` (and `plugins`, by which it
finds families) is not: it is the library that every stage calls with numbers and grids; it knows of no request and
calls nothing that does (the order of imports sees to that), and how many of its files take part depends on the family.

A file is entered by a call from another file on the way. It is *climbed back* into where that other file stands below
it in the order of first entry: a file that has been left for a later one is not entered anew by a call from there.
"""

import json
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ups_server
from tests.files.test_declaration import EQUATION
from tests.rollout.planning import write_card
from ups_server.api.body import JSON, decode
from ups_server.catalog import EQUATION_FILE, Catalog
from ups_server.cli.serve import EXAMPLE
from ups_server.rollout.plan import completed, outlined
from ups_server.settings import Settings

PACKAGE = Path(ups_server.__file__).resolve().parent
ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"
LIBRARY = ("pde/", "plugins.py")
MOST_FILES = 8
BODY: dict[str, Any] = {**EXAMPLE, "diagnostics": True, "reference": True}


class Way:
    """The files on the way in the order of entry, and which climbed back into which."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.climbs: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        file = on_the_way(frame) if event == "call" else None
        if file is None:
            return
        if file not in self.files:
            self.files.append(file)
        outer = frame.f_back
        while outer is not None and on_the_way(outer) is None:
            outer = outer.f_back
        caller = None if outer is None else on_the_way(outer)
        if caller is not None and self.files.index(caller) > self.files.index(file):
            self.climbs.append(f"{caller} -> {file}: {frame.f_code.co_qualname}")


def on_the_way(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    name = path.relative_to(PACKAGE).as_posix()
    return None if name.startswith(LIBRARY) else name


def traced(data_dir: Path | None = None, **changes: Any) -> Way:
    body = json.dumps({**BODY, **changes}).encode()
    catalog, settings, way = Catalog(data_dir), Settings(), Way()
    before = sys.getprofile()
    sys.setprofile(way)
    try:
        wanted, arrays = decode(body, JSON, settings.max_body_bytes, settings.max_points)
        completed(outlined(wanted, catalog, settings, arrays), settings)
    finally:
        sys.setprofile(before)
    return way


def printed() -> list[str]:
    """The numbered list in docs/architecture.md."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    section = text.partition("## From body to plan")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. \[([^\]]+)\]", section, re.MULTILINE)


def test_a_body_becomes_a_plan_downwards_through_few_files() -> None:
    way = traced()
    assert way.climbs == []
    assert len(way.files) <= MOST_FILES
    assert way.files == printed(), "docs/architecture.md prints this list"


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_condition": {"values": [0.0, 1.0] * 64}, "reference": False},
        {"ensemble": {"members": 4}},
        {"model": "numerical", "reference": False},
        {"n_steps": None, "times": [0.0, 0.1, 0.2]},
        {"family": None, "equation": "u_t = -u*u_x + 0.01*u_xx", "coefficients": {}},
        {"output_resolution": [256]},
        {"output_resolution": [256], "method": "interpolation", "ensemble": {"members": 4}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_no_other_body_climbs_back(changes: dict[str, Any]) -> None:
    assert traced(**changes).climbs == []


def test_a_model_tuned_to_an_equation_of_the_users_own_is_not_climbed_back_to(tmp_path: Path) -> None:
    folder = write_card(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["families"] = {EQUATION["id"]: {"dt": 0.1}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / EQUATION_FILE).write_text(json.dumps(EQUATION))
    asked = {"model": folder.name, "family": EQUATION["id"], "coefficients": {"eps": 0.01}, "reference": False}
    way = traced(tmp_path, **asked, initial_condition={"values": [0.0, 1.0] * 64}, output_resolution=[256])
    assert {"files/equations.py", "data/user_equation.py", "rollout/super_resolution.py"} <= set(way.files)
    assert way.climbs == []
