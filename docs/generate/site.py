"""What the site shows beside the pages of `docs/`: hooks of MkDocs, called while it builds (`make docs`).

Nothing is written twice. The first page is the README, tutorials are the notebooks, the reference is made from the
code, and what a page links to outside of `docs/` (cards, sources, figures) becomes a page or a file of the site.
"""

import ast
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from docs.generate import reference

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OUTSIDE = "repository"
"""Folder of the site for what lies outside of `docs/`."""
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(?=[)#])")
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", "": "text"}
"""Suffixes of what is shown as a page; everything else is a file to download."""
TABLES = re.compile("<!-- table: (.*) -->")
"""Where a page has one of `tables`."""
UNLISTED = "---\nsearch:\n  exclude: true\n---\n\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, then what they and the others link to."""
    made = {
        "index.md": moved((REPOSITORY / "README.md").read_text(encoding="utf-8"), "README.md", "index.md"),
        "reference/http.md": reference.http(),
        "reference/python.md": reference.python(),
    }
    for notebook in sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb")):
        source = notebook.relative_to(REPOSITORY).as_posix()
        made[placed(source)] = moved(from_notebook(notebook), source, placed(source))
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    pages = [(REPOSITORY / "README.md").relative_to(REPOSITORY)]
    pages += [Path("docs") / file.src_uri for file in files.documentation_pages() if file.src_uri not in made]
    pages += [path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))]
    found: set[str] = set()
    waiting = [target for page in pages for target in outside(page)]
    while waiting:
        target = waiting.pop()
        if target not in found:
            found.add(target)
            files.append(shown(target, config))
            if target.endswith(".md"):
                waiting += outside(Path(target))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page as it is in the repository, its links as they are in the site."""
    if page.file.src_uri == "reference.md":
        return reference.reference()
    if page.file.generated_by is not None:
        return markdown
    markdown = TABLES.sub(lambda match: tables()[match[1]](), markdown)
    return moved(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def outside(page: Path) -> Iterator[str]:
    """What a file of the repository links to outside of `docs/`."""
    text = from_notebook(REPOSITORY / page) if page.suffix == ".ipynb" else (REPOSITORY / page).read_text("utf-8")
    for target in LINK.findall(text):
        path = resolved(page.as_posix(), target)
        if path is not None and placed(path).startswith(f"{OUTSIDE}/"):
            yield path


def moved(text: str, source: str, uri: str) -> str:
    """Text of the file `source` for the page `uri`: links lead to where their targets are in the site."""

    def to(match: re.Match[str]) -> str:
        path = resolved(source, match[0])
        if path is None:
            return match[0]
        return os.path.relpath(placed(path), PurePosixPath(uri).parent).replace(os.sep, "/")

    return LINK.sub(to, text)


def resolved(source: str, target: str) -> str | None:
    """The path in the repository that a link means; None where there is nothing, which the strict build reports."""
    path = os.path.normpath(PurePosixPath(source).parent / target).replace(os.sep, "/")
    return path if (REPOSITORY / path).exists() and not path.startswith("..") else None


def placed(path: str) -> str:
    """Where a file or folder of the repository is in the site."""
    inside = PurePosixPath(path)
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/notebooks/"):
        return f"tutorials/{inside.stem}.md"
    if path.startswith("docs/") and inside.suffix != ".py":
        return path.removeprefix("docs/")
    if (REPOSITORY / path).is_dir():
        return f"{OUTSIDE}/{path}/index.md"
    return f"{OUTSIDE}/{path}.md" if inside.suffix in LANGUAGES else f"{OUTSIDE}/{path}"


def shown(path: str, config: MkDocsConfig) -> File:
    """A file or folder of the repository as one of the site."""
    uri, place = placed(path), REPOSITORY / path
    if place.is_dir():
        text = UNLISTED + listing(place)
    elif place.suffix == ".md":
        text = moved(place.read_text(encoding="utf-8"), path, uri)
    elif place.suffix in LANGUAGES:
        language = LANGUAGES[place.suffix]
        text = f"{UNLISTED}# {path}\n\n~~~~{language}\n{place.read_text(encoding='utf-8')}~~~~\n"
    else:
        return File.generated(config, uri, abs_src_path=str(place))
    return File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV)


def listing(folder: Path) -> str:
    """The Python files of a folder, with what each is for."""
    rows = [f"# {folder.relative_to(REPOSITORY).as_posix()}", "", "| | |", "|---|---|"]
    for path in sorted(folder.rglob("*.py")):
        purpose = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        rows.append(f"| `{path.relative_to(folder).as_posix()}` | {reference.cell(purpose)} |")
    return "\n".join(rows) + "\n"


def tables() -> dict[str, Callable[[], str]]:
    return {"break-even": break_even, "new equations": new_equations}


def new_equations() -> str:
    """The table of `benchmarks/new_equations.json`: one row an equation and learner, one-step / rollout nRMSE."""
    rows = json.loads((REPOSITORY / "benchmarks" / "new_equations.json").read_text(encoding="utf-8"))
    counts = sorted({row["k"] for row in rows})

    def cell(row: dict[str, Any], part: str) -> str:
        return f"{row[part]['one_step']:.2g} / {row[part]['rollout']:.2g}" if part in row else "–"

    lines = [
        "| equation | learner | as it is | " + " | ".join(f"k = {k}" for k in counts) + " |",
        "|---" * (3 + len(counts)) + "|",
    ]
    for name, learner in dict.fromkeys((row["name"], row["learner"]) for row in rows):
        own = {row["k"]: row for row in rows if (row["name"], row["learner"]) == (name, learner)}
        first = next(iter(own.values()))
        cells = " | ".join(cell(own[k], "tuned") for k in counts)
        lines.append(f"| {name}: `{first['equation']}` | {learner} | {cell(first, 'zero_shot')} | {cells} |")
    return "\n".join(lines)


def break_even() -> str:
    """The table of `benchmarks/breakeven.json`, as `benchmarks/breakeven.py` measured it."""
    rows = json.loads((REPOSITORY / "benchmarks" / "breakeven.json").read_text(encoding="utf-8"))
    lines = [
        "| problem | points, frames | model | its s, error | solver: s, points | ratio, all frames | last "
        "| beside the solver of an earlier version | last |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = ", ".join(f"{name} {value:g}" for name, value in row["coefficients"].items())
        solver = "not as good on any grid that was tried"
        if row["today_s"] is not None:
            solver = f"{row['today_s']:.2g}, {row['today_points']}"
        names = ("ratio_today", "ratio_final_today", "ratio", "ratio_final")
        ratios = ("–" if row[name] is None else f"{row[name]:.2g}" for name in names)
        lines.append(
            f"| {row['family']} {numbers} | {row['points']}, {row['frames']} | {row['model']} | {row['model_s']:.2g}, "
            f"{row['model_error']:.2g} | {solver} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def from_notebook(path: Path) -> str:
    """A notebook's cells as Markdown, and where the notebook itself is."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [
        f"```python\n{''.join(cell['source'])}\n```" if cell["cell_type"] == "code" else "".join(cell["source"])
        for cell in cells
    ]
    title, *rest = texts
    note = f"*This page is the notebook `{path.relative_to(REPOSITORY).as_posix()}`, to be run cell by cell.*"
    return "\n\n".join([title, note, *rest]) + "\n"
