"""Every published layout through every entrance: `python -m tests.entrances [--write docs/formats.md]`.

A file of each layout (`tests/published_files.py`) is read by every command that takes one, over HTTP and by the
client, and what each of them read is compared with what was written, bit for bit.
"""

import argparse
import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

from tests.published_files import PUBLISHED, Held, Published
from tests.serving import serving
from tests.small_models import write_language_model, write_parent
from ups_server.cli import main
from ups_server.client import Client
from ups_server.data.formats import open_source
from ups_server.data.inspect import inspect
from ups_server.data.mapping import Mapping
from ups_server.data.source import TrajectorySource
from ups_server.data.store import StoreLayout
from ups_server.data.writer import StoreWriter
from ups_server.errors import UserError
from ups_server.pictures import save_picture

ROW = 2
"""The trajectory that is asked for where one is."""
BEGIN, END = "<!-- entrances -->", "<!-- end of entrances -->"
READ, NOT_READ = "✓", "–"


@dataclass(frozen=True)
class Place:
    """What entrances need beside the files.

    Attributes:
        folder: for what they write.
        parent: a small model to adapt.
        models: where the service finds models.
        url: of a service.
    """

    folder: Path
    parent: Path
    models: Path
    url: str


@dataclass(frozen=True)
class Brought:
    """A file of a layout, what it holds, and the mapping that its user hands over.

    Attributes:
        folder: its own; the file lies in it.
    """

    layout: Published
    folder: Path
    held: Held
    document: dict[str, Any] | None

    @property
    def path(self) -> Path:
        """Of the file or folder, or a pattern of the files."""
        return self.folder / self.layout.file

    @property
    def parts(self) -> list[Path]:
        return sorted(self.folder.glob(self.layout.file))

    @property
    def words(self) -> list[str | Path]:
        """The options that say what the file is."""
        return [] if self.document is None else ["--map", self.folder / "mapping.yaml"]

    @property
    def declaration(self) -> dict[str, Any]:
        return {} if self.document is None else {"mapping": self.document}

    @property
    def family(self) -> str:
        return str(self.layout.family if self.document is None else self.document["equation"]["id"])

    @contextmanager
    def opened(self) -> Iterator[TrajectorySource]:
        mapping = None if self.document is None else Mapping.from_document(self.document)
        with open_source(self.path, mapping=mapping) as source:
            yield source


def bring(layout: Published, folder: Path) -> Brought:
    """Writes a file, and the mapping that is proposed for it, corrected as its user would."""
    folder.mkdir()
    held = layout.write(folder / layout.file)
    if not layout.mapped:
        return Brought(layout, folder, held, None)
    found = inspect(folder / layout.file).mapping
    assert found is not None
    document = {**found, **layout.changes, "equation": {**found["equation"], "id": f"of_{layout.id}"}}
    (folder / "mapping.yaml").write_text(yaml.safe_dump(document))
    return Brought(layout, folder, held, document)


def ups(*words: str | Path) -> str:
    """What a command prints.

    Raises:
        UserError: ``refused``: it ended with exit code 2; the message is what it says.
    """
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            main(list(map(str, words)))
        except SystemExit as ended:
            code = ended.code or 0
    if code:
        assert code == 2, said.getvalue()
        raise UserError("refused", said.getvalue())
    return out.getvalue()


def same(found: Any, expected: NDArray[np.float32]) -> None:
    """Bit for bit."""
    values = np.asarray(found)
    assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


def same_npz(path: Path, held: Held, rows: Any = slice(None), frames: Any = slice(None)) -> None:
    with np.load(path, allow_pickle=False) as stored:
        same(stored["data"], np.ascontiguousarray(held.values[rows, frames]))
        if held.static is not None:
            same(stored["static"], held.static[rows])


def check(file: Brought, place: Place) -> None:
    """Extremes of every field, which a file of random numbers has only where all of them were read."""
    report = json.loads(ups("data", "check", file.path, "--json", "--no-probe", *file.words))
    values = file.held.values
    assert (report["usable"], report["trajectories"], report["frames"]) == (len(values), *values.shape[:2])
    axes = tuple(range(values.ndim - 1))
    same(np.array([field["min"] for field in report["fields"]], np.float32), values.min(axes))
    same(np.array([field["max"] for field in report["fields"]], np.float32), values.max(axes))


def show(file: Brought, place: Place) -> None:
    """The picture of the values that were written."""
    drawn, expected = place.folder / "drawn.png", place.folder / "expected.png"
    ups("data", "show", file.path, "--trajectory", str(ROW), "--output", drawn, *file.words)
    with file.opened() as source:
        save_picture(replace(source.preview(ROW), values=file.held.values[ROW]), expected)
    assert drawn.read_bytes() == expected.read_bytes()


def convert(file: Brought, place: Place) -> None:
    ups("data", "convert", file.path, place.folder / "copy.npz", *file.words)
    same_npz(place.folder / "copy.npz", file.held)


def evaluate(file: Brought, place: Place) -> None:
    """By the frames' own spacing; of a steady family the solution alone."""
    with file.opened() as source:
        times = source.times
    step = ["--horizon", "final"] if len(times) == 1 else ["--dt", repr(float(times[1] - times[0]))]
    ups("evaluate", "persistence", file.path, *step, "--predictions", place.folder / "p.h5", *file.words)
    with h5py.File(place.folder / "p.h5") as stored:
        same(stored["truth"][:, -len(times) :], file.held.values)


def tuned(file: Brought, place: Place) -> Path:
    """The folder of the small model, tuned to the file; it is made once."""
    out = place.models / f"tuned_{file.layout.id}"
    if not out.exists():
        words = ["--n-trajectories", "1", "--max-steps", "1", "--device", "cpu", "--output", out, *file.words]
        horizon = ["--horizon", "final"] if file.held.values.shape[1] == 1 else []
        ups("adapt", place.parent, file.path, *words, *horizon)
    return out


def adapt(file: Brought, place: Place) -> None:
    """Trained on what was written: the fingerprint of the data, a checksum of all of them, is in the tuned model."""
    about = json.loads((tuned(file, place) / "adaptation.json").read_text())
    with file.opened() as source, StoreWriter(file.folder / "expected", StoreLayout.of(source)) as writer:
        writer.append(file.held.values, source.coefficients, file.held.static)
    assert writer.store is not None
    with writer.store as store:
        assert about["data_fingerprint"] == store.manifest.fingerprint


def solver(file: Brought, place: Place) -> Path | str:
    """Persistence, which knows the families; an equation that a mapping declares is solved by the model tuned to it."""
    return "persistence" if file.document is None else tuned(file, place)


def solve(file: Brought, place: Place) -> None:
    out = place.folder / "solved.npz"
    start: list[str | Path] = [
        "--initial",
        file.path,
        "--trajectory",
        str(ROW),
        "--n-steps",
        "1",
        "--device",
        "cpu",
        "--output",
        out,
    ]
    ups("solve", file.family, "--model", solver(file, place), *start, *file.words)
    with np.load(out, allow_pickle=False) as stored:
        same(stored["data"][0], file.held.values[ROW, 0])
        if file.held.static is not None:
            same(stored["static"][0], file.held.static[ROW])


def http(file: Brought, place: Place) -> None:
    """One request, whose body is the file, or in parts those of several; and one for the values."""
    with httpx.Client(base_url=place.url, timeout=180.0) as session:
        said, parts = file.declaration, file.parts
        if any(part.is_dir() for part in parts):
            raise UserError("not_a_file", "the body of a request is a file")
        content = b"".join(part.read_bytes() for part in parts)
        if len(parts) == 1:
            asked = {"name": parts[0].name, "declaration": json.dumps(said)}
            kind = {"Content-Type": "application/x-hdf5"}
            record = answered(session.post("/v1/files", params=asked, content=content, headers=kind))
        else:
            sizes = [{"name": part.name, "size": part.stat().st_size} for part in parts]
            document = {"name": file.layout.file, "size": len(content), "parts": sizes, "declaration": said}
            record = answered(session.post("/v1/files", json=document))
            span = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}", "Content-Type": "application/x-hdf5"}
            answered(session.put(f"/v1/files/{record['id']}/content", content=content, headers=span))
        with Client(place.url) as client:
            client.examined_file(record["id"])
        (place.folder / "answer.npz").write_bytes(session.get(f"/v1/files/{record['id']}/data?format=npz").content)
    same_npz(place.folder / "answer.npz", file.held)


def answered(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, answer.text
    return dict(answer.json())


def uploaded(client: Client, file: Brought) -> str:
    """The file's id; a second time it is the same upload."""
    return str(client.upload(file.parts if file.layout.several else file.path, file.declaration)["id"])


def by_client(file: Brought, place: Place) -> None:
    with Client(place.url) as client:
        data = client.data(uploaded(client, file))
    with file.opened() as source:
        fields, static = source.fields, source.static_fields
    for channel, name in enumerate(fields):
        same(
            data[name].values.reshape(file.held.values.shape[:-1]), np.ascontiguousarray(file.held.values[..., channel])
        )
    for channel, name in enumerate(static):
        assert file.held.static is not None
        same(data[name].values, np.ascontiguousarray(file.held.static[..., channel]))


def rollout(file: Brought, place: Place) -> None:
    """From a state of the uploaded file, whose first frame is that state."""
    with Client(place.url) as client:
        start = {"file": uploaded(client, file), "trajectory": ROW}
        solution = client.rollout(file.family, 1, start, model=Path(solver(file, place)).name)
    with file.opened() as source:
        fields = source.fields
    for channel, name in enumerate(fields):
        same(solution[name].values[0], np.ascontiguousarray(file.held.values[ROW, 0, ..., channel]))


ENTRANCES: dict[str, Callable[[Brought, Place], None]] = {
    "`ups data check`": check,
    "`ups data show`": show,
    "`ups data convert`": convert,
    "`ups evaluate`": evaluate,
    "`ups adapt`": adapt,
    "`ups solve --initial`": solve,
    "HTTP": http,
    "client": by_client,
    "rollout": rollout,
}
"""By the heading of the table."""


@dataclass(frozen=True)
class Absent:
    """Why an entrance does not take a layout.

    Attributes:
        says: part of what is said where it is tried all the same.
        why: below the table.
    """

    says: str
    why: str


SOLID = "PDEBench: compressible_ns_3d"
NOT_DRAWN = Absent("only 1-D and 2-D", "States of three dimensions are not drawn.")
UNSOLVED = Absent("known from files only", "Solvers and models have two dimensions at most.")
UNMAPPABLE = Absent(
    "models have at most 2 dimensions", "A service keeps files that its models can take: of two dimensions at most."
)
NODES = Absent(
    "models learn on cells",
    "The values lie on nodes with both ends, and models learn on cells: with `onto`, values are interpolated to them.",
)
FOLDER = Absent("the body of a request is a file", "A folder is no body of a request: the client sends it as a zip.")
ABSENT: dict[tuple[str, str], Absent] = {
    (SOLID, "`ups data show`"): NOT_DRAWN,
    **{(SOLID, heading): UNSOLVED for heading in ("`ups evaluate`", "`ups adapt`", "`ups solve --initial`")},
    **{(SOLID, heading): UNMAPPABLE for heading in ("HTTP", "client", "rollout")},
    **{("MATLAB 5", heading): NODES for heading in ("`ups adapt`", "`ups solve --initial`", "rollout")},
    **{(layout.name, "HTTP"): FOLDER for layout in PUBLISHED if layout.folder},
}
"""By layout and entrance."""


@contextmanager
def prepared(root: Path) -> Iterator[Place]:
    """A service of its own process, and a small model."""
    folder = root / "written"
    for made in (root / "language", folder, root / "data" / "models"):
        made.mkdir(parents=True)
    parent = write_parent(root / "data" / "models" / "tiny", write_language_model(root / "language"))
    settings = {"DEVICE": "cpu", "THREADS": "1", "DEFAULT_MODEL": "persistence", "WORKER": "false"}
    with serving(root / "data", **settings) as service:
        yield Place(folder, parent, parent.parent, service.url)


def cell(file: Brought, heading: str, place: Place) -> str:
    """What the table says of a layout and an entrance, after it was tried.

    Raises:
        AssertionError: other values were read than were written, or what cannot be read was not refused so.
        UserError: why the entrance does not take the file.
    """
    absent = ABSENT.get((file.layout.name, heading))
    if absent is None:
        ENTRANCES[heading](file, place)
        return READ
    try:
        ENTRANCES[heading](file, place)
    except UserError as error:
        if absent.says not in str(error):
            raise
        return f"{NOT_READ} ({reasons().index(absent.why) + 1})"
    raise AssertionError(f"{heading} takes {file.layout.name}")


def reasons() -> list[str]:
    """Below the table, numbered from one."""
    return list(dict.fromkeys(absent.why for absent in ABSENT.values()))


def row(layout: Published, folder: Path, place: Place) -> list[str]:
    """The cells of a layout."""
    file = bring(layout, folder)
    return [cell(file, heading, place) for heading in ENTRANCES]


def line(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def table(rows: dict[str, list[str]]) -> str:
    """In Markdown."""
    lines = [line("Layout", ENTRANCES), line("---", [":-:"] * len(ENTRANCES)).replace(" ", "")]
    lines += [line(name, cells) for name, cells in rows.items()]
    notes = [f"{number}. {why}" for number, why in enumerate(reasons(), 1)]
    return "\n".join([*lines, "", *notes])


def written(page: str, made: str) -> str:
    """A page with the table between its marks."""
    return re.sub(rf"(?<={BEGIN}\n\n).*?(?=\n\n{END})", lambda _: made, page, flags=re.DOTALL)


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the table between the marks of this page")
    page = parser.parse_args().write
    rows = {}
    with tempfile.TemporaryDirectory() as root, prepared(Path(root)) as place:
        for number, layout in enumerate(PUBLISHED):
            rows[layout.name] = row(layout, Path(root) / str(number), place)
            print(line(layout.name, rows[layout.name]), flush=True)
    if page is not None:
        page.write_text(written(page.read_text(encoding="utf-8"), table(rows)), encoding="utf-8")


if __name__ == "__main__":
    run()
