"""Options that several commands share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.client import Client
    from ups_server.data.mapping import Mapping
    from ups_server.pde import BoundaryCondition
    from ups_server.settings import Settings

FamilyId = Annotated[str, typer.Argument(metavar="FAMILY", help="A family id; `ups families` lists them.")]
PointsLeft = Annotated[
    str | None,
    typer.Option(
        "--resolution", metavar="N[xN]", help="Points, along the first axis or along each, by leaving points out."
    ),
]
CoefficientOptions = Annotated[
    list[str] | None,
    typer.Option("--coef", metavar="NAME=VALUE", help="A coefficient, repeatable; others keep the family's default."),
]
FileFamily = Annotated[str | None, typer.Option("--family", help="Family of the file, where it does not say.")]
FileCoefficients = Annotated[
    list[str] | None,
    typer.Option("--coef", metavar="NAME=VALUE", help="A coefficient of the file, where it does not say; repeatable."),
]
FileMapping = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="FILE|YAML",
        help="What the file's arrays mean, as YAML or JSON, or the file it is in; `ups data inspect` proposes it.",
    ),
]
INLINE = ("{", "\n", ": ")
"""What no file name has and every document of YAML or JSON."""
Trajectories = Annotated[
    str | None, typer.Option(metavar="FIRST:END|N,N", help="Only these: a range without its end, or a list.")
]
Times = Annotated[str | None, typer.Option(metavar="FROM:TO", help="Only frames within, both ends included.")]
Steps = Annotated[
    str | None, typer.Option(metavar="FIRST:END|N,N", help="Only frames of these numbers, instead of --times.")
]
ToFormat = Annotated[
    str | None, typer.Option("--to", metavar="FORMAT", help="Instead of the suffix, such as the_well.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder whose `models/` adds models.", envvar="UPS_DATA_DIR")
]


Url = Annotated[str, typer.Option("--url", help="Address of the service.", envvar="UPS_URL")]
Key = Annotated[
    str | None,
    typer.Option("--key", help="API key, where the service asks for one; UPS_KEY keeps it out of sight."),
]
ServiceUrl = Annotated[
    str | None, typer.Option("--url", help="Address of a service to ask, instead of the data folder on this machine.")
]
LOCAL = "http://127.0.0.1:8000"

InitialKindOption = Annotated[
    str,
    typer.Option("--initial-kind", metavar="KIND", help="Which initial states are drawn: `ups families FAMILY`."),
]
Boundary = Annotated[
    str | None,
    typer.Option(
        metavar="KIND[,KIND]",
        help="On all sides, or by axis, LOW/HIGH where its ends differ. [default: the family's, or the file's]",
    ),
]


@contextmanager
def service_client(url: str, key: str | None) -> Iterator["Client"]:
    """A client of the service at an address. Raises UserError ``unreachable``."""
    import httpx

    from ups_server.client import Client

    try:
        with Client(url, key=key) as client:
            yield client
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise unreachable(url, error) from None


def unreachable(url: str, error: Exception) -> UserError:
    hint = "`ups serve` starts a service; --url says where it is"
    return UserError("unreachable", f"no service answers at {url}", got=str(error.__cause__ or error), hint=hint)


def parse_boundary(text: str | None, ndim: int) -> "BoundaryCondition | None":
    """`outflow` on all sides, `periodic,outflow` by axis, `dirichlet/cauchy` where the ends of one differ.

    Raises:
        UserError: ``invalid_boundary``.
    """
    from ups_server.pde import BoundaryCondition

    if text is None:
        return None
    boundary = BoundaryCondition.from_text(text)
    sides = boundary.sides * ndim if len(boundary.sides) == 1 else boundary.sides
    if len(sides) != ndim:
        raise UserError("invalid_boundary", "a boundary is given for all axes or for each", got=text, expected=ndim)
    return BoundaryCondition(sides)


def settings_of(data_dir: Path | None) -> "Settings":
    """The settings, with the data folder of the option where it was given."""
    from ups_server.settings import Settings

    return Settings.given(**({} if data_dir is None else {"data_dir": data_dir}))


def parse_coefficients(entries: Sequence[str] | None) -> dict[str, float]:
    """`["nu=0.001"]` to `{"nu": 0.001}`.

    Raises:
        UserError: ``invalid_coefficient``.
    """
    coefficients: dict[str, float] = {}
    for entry in entries or ():
        name, _, text = entry.partition("=")
        try:
            value = float(text)
        except ValueError:
            raise UserError(
                "invalid_coefficient", "a coefficient is given as NAME=VALUE", got=entry, expected="nu=0.001"
            ) from None
        if name.strip() in coefficients:
            raise UserError("invalid_coefficient", f"{name.strip()} is given twice", got=list(entries or ()))
        coefficients[name.strip()] = value
    return coefficients


def is_inline(text: str) -> bool:
    """Is it a document itself, and not the name of its file?"""
    return any(mark in text for mark in INLINE)


def read_mapping(said: str | None) -> "Mapping | None":
    """The mapping of a file of arrays, where one is given, as text or by its file.

    Raises:
        UserError: ``not_found``, ``invalid_mapping``.
    """
    from ups_server.data.mapping import Mapping

    if said is None:
        return None
    return Mapping.from_text(said) if is_inline(said) else Mapping.from_file(Path(said))


def parse_coefficient_values(entries: Sequence[str] | None) -> dict[str, float | list[float]]:
    """As `parse_coefficients`; `["nu=0.001,0.01"]` has one value for each state: `{"nu": [0.001, 0.01]}`.

    Raises:
        UserError: ``invalid_coefficient``.
    """
    several = {}
    for entry in entries or ():
        name, _, text = entry.partition("=")
        if "," in text:
            several[name.strip()] = [parse_coefficients([f"{name}={value}"])[name.strip()] for value in text.split(",")]
    first = parse_coefficients([entry.partition(",")[0] for entry in entries or ()])
    return {**first, **several}


def parse_points(text: str) -> list[int]:
    """`256x512` to `[256, 512]`.

    Raises:
        UserError: ``invalid_grid``.
    """
    try:
        return [int(number) for number in text.split("x")]
    except ValueError:
        raise UserError("invalid_grid", "points are given as N or NxN", got=text, expected="256x512") from None


def points_per_axis(text: str, axes: int) -> tuple[int, ...]:
    """Points of each axis; one number is for all. Raises UserError ``invalid_grid``."""
    points = parse_points(text)
    if len(points) not in (1, axes):
        raise UserError("invalid_grid", "points are given for all axes or for each", got=text, expected=axes)
    return tuple(points * axes if len(points) == 1 else points)


def points_left(text: str | None) -> int | list[int] | None:
    """Points that are left of a file's: along the first axis, or along each. Raises UserError ``invalid_grid``."""
    points = [] if text is None else parse_points(text)
    return points if len(points) > 1 else next(iter(points), None)


def parse_place(text: str | None, axes: int) -> dict[str, Any]:
    """Where the points of a grid of so many axes lie: `cells`, `nodes`, or the offset of the first as `0.0625`.

    Raises:
        UserError: ``invalid_grid``.
    """
    if text is None or text in ("cells", "nodes"):
        return {} if text is None else {"points": text}
    try:
        return {"offset": (float(text),) * axes}
    except ValueError:
        raise UserError(
            "invalid_grid", "this is no place of points", got=text, expected="cells, nodes, or a number such as 0.0625"
        ) from None


def check_suffix(path: Path, expected: Sequence[str]) -> None:
    """Raises UserError ``unknown_format`` before any work, where `path` could not be written in the end."""
    if path.suffix.lower() not in expected:
        raise UserError(
            "unknown_format",
            f"the suffix of {path.name} names no format",
            got=path.suffix,
            expected=" ".join(dict.fromkeys(expected)),
        )
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raises UserError ``not_found`` where the folder of an output file does not exist."""
    if not path.parent.is_dir():
        raise UserError("not_found", f"the folder {path.parent} does not exist")


def check_file(path: Path, pattern: bool = False) -> None:
    """Raises UserError ``not_found`` where an input file does not exist, or none fits a `pattern`."""
    from ups_server.data.formats import matching
    from ups_server.data.remote import address_of

    if address_of(path) is not None:
        return
    if not path.is_file() and not (pattern and matching(path)):
        raise UserError("not_found", f"there is no file {path}")
