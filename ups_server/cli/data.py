"""`ups data`: making, checking, drawing and converting files of trajectories."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups_server.cli.options import (
    AsJson,
    Boundary,
    FamilyId,
    FileMapping,
    InitialKindOption,
    PointsLeft,
    Steps,
    Times,
    ToFormat,
    Trajectories,
    check_folder,
    check_suffix,
    parse_boundary,
    parse_coefficients,
    points_left,
    points_per_axis,
    read_mapping,
)
from ups_server.cli.options import FileCoefficients as CoefficientOptions
from ups_server.cli.options import FileFamily as Family
from ups_server.cli.output import print_json, print_line, print_note, progress
from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server import pde
    from ups_server.data.simulate import CoefficientDraw

app = typer.Typer(
    help="Make, check, draw and convert files of trajectories.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def generate(
    family: FamilyId,
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="Trajectories. [required]")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The HDF5 file to write. [required]")
    ] = None,
    coef: Annotated[
        list[str] | None,
        typer.Option(
            "--coef",
            metavar="NAME=VALUE",
            help="A coefficient, repeatable; NAME=LOW:HIGH draws one per trajectory. Others keep the default.",
        ),
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="N[xN]", help="Points per axis. [default: PDEBench's]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same initial states.")] = 0,
    initial_kind: InitialKindOption = "rand",
    boundary: Boundary = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that solve.")] = 1,
    shard: Annotated[
        str | None,
        typer.Option(metavar="NUMBER/OF", help="Solve this part alone, from 1; `ups data merge` makes the file."),
    ] = None,
) -> None:
    """Solve trajectories with the reference solver and write them in PDEBench's layout."""
    from ups_server.data.parts import DataPart
    from ups_server.data.simulate import generate as solve_and_write
    from ups_server.pde import family as find

    equation = find(family)
    if count is None or output is None:
        missing = [name for name, value in (("-n", count), ("-o", output)) if value is None]
        raise UserError(
            "invalid_request", "say how many trajectories go where", got=f"no {' and no '.join(missing)}",
            expected=f"ups data generate {equation.id} -n 100 -o {equation.id}.hdf5",
        )  # fmt: skip
    check_folder(output)
    points = _same_points(resolution, equation)
    drawn, ends = parse_draws(coef), parse_boundary(boundary, equation.ndim)
    part = None if shard is None else DataPart.from_text(shard)
    with progress(equation.id) as advance:
        path = solve_and_write(
            equation,
            drawn,
            count,
            points,
            output,
            seed,
            progress=advance,
            workers=workers,
            kinds={initial_kind: 1.0},
            boundary=ends,
            part=part,
        )
    what = f"{count} trajectories" if part is None else f"part {part.number} of {part.of}"
    print_note(f"{what} written to {path}")


@app.command()
def merge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As --output named it; its parts lie in FILE.parts.")],
) -> None:
    """Write the file of trajectories whose parts `ups data generate --shard` has made, here or elsewhere.

    It is, byte for byte, the file that one command without --shard writes.
    """
    from ups_server.data.parts import merge_file

    with progress(file.name) as advance:
        merge_file(file, advance)
    print_note(f"{file} written from its parts")


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file or store of trajectories, or a Zarr's address (https:, s3:).")
    ],
    family: Family = None,
    coef: CoefficientOptions = None,
    map_file: FileMapping = None,
    probe: Annotated[
        bool | None,
        typer.Option(help="Compare a few rows with the reference solver. [default: where the file is small]"),
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Every trajectory of a large file, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a file and report what it holds; exit code 2 where trajectories cannot be used.

    Of files with more than 4 GiB of values some trajectories are read, evenly spaced, and the report says so. FILE may
    be a pattern, such as "ns_incom_*.h5": the files are read as one.
    """
    from ups_server.data.check import check_file, report_text

    report = check_file(file, family, parse_coefficients(coef), probe, read_mapping(map_file), whole)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_line(report_text(report))
    if not report.ok:
        raise UserError(
            "unusable_file",
            f"{file.name} is not fit for use: {'; '.join(report.problems)}",
            hint=f"{report.usable} of {report.trajectories} trajectories can be used",
        )


@app.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Any file of arrays, a folder of Zarr, or a Zarr's address (https:, s3:)."),
    ],
    as_json: AsJson = False,
) -> None:
    """Look at the arrays of a file and propose a mapping: YAML to edit and hand to `--map`.

    Above each entry stands how sure it is, and why: `certain`, `likely`, or a `guess` to be looked at.
    """
    from ups_server.data.inspect import inspect as look

    found = look(file)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for array in found.arrays:
        axes = f" ({', '.join(array.axes)})" if array.axes else ""
        print_note(f"{array.name}: {' x '.join(map(str, array.shape)) or 'one number'}{axes}, {array.dtype}")
    if found.yaml is None:
        raise UserError(
            "unknown_layout", f"{file.name} is {found.kind}, but none of its arrays can be trajectories",
            got=[f"{array.name}: {array.dtype} {array.shape}" for array in found.arrays][:32],
            hint="they are arrays of real numbers over two axes or more: save complex ones as two, and those inside "
            "structs, cells or objects under names of their own",
        )  # fmt: skip
    print_line(found.yaml.rstrip())


@app.command()
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file or store of trajectories, or a Zarr's address (https:, s3:).")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PICTURE", help="A .png, or a moving .gif or .mp4.")
    ],
    trajectory: Annotated[int, typer.Option(min=0, help="Its number in the file.")] = 0,
    family: Family = None,
    coef: CoefficientOptions = None,
    map_file: FileMapping = None,
) -> None:
    """Draw one trajectory of a file."""
    from ups_server.data.formats import open_source
    from ups_server.data.source import place_of
    from ups_server.pictures import save_picture

    check_suffix(output, (".png", ".gif"))
    source = open_source(file, family, parse_coefficients(coef), read_mapping(map_file))
    try:
        save_picture(source.preview(place_of(source, trajectory, file.name)), output)
    finally:
        source.close()
    print_note(f"trajectory {trajectory} of {file} drawn to {output}")


@app.command()
def convert(
    file: Annotated[
        Path, typer.Argument(metavar="IN", help="A file or store of trajectories, or a Zarr's address (https:, s3:).")
    ],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A .h5, .hdf5, .nc, .npz, .zarr or .zip (of Zarr): its suffix decides."),
    ],
    family: Family = None,
    coef: CoefficientOptions = None,
    map_file: FileMapping = None,
    trajectories: Trajectories = None,
    times: Times = None,
    steps: Steps = None,
    resolution: PointsLeft = None,
    to: ToFormat = None,
) -> None:
    """Copy trajectories into another format: PDEBench HDF5, NetCDF-CF, Zarr, npz or The Well's HDF5."""
    from ups_server.data.export import convert as copy
    from ups_server.data.export import suffixes
    from ups_server.data.formats import open_source
    from ups_server.data.selection import Selection

    if to is None:
        check_suffix(output, tuple(suffixes()))
    source = open_source(file, family, parse_coefficients(coef), read_mapping(map_file))
    try:
        source = Selection(trajectories, times, steps, points_left(resolution)).of(source, file.name)
        with progress(source.family) as advance:
            copy(source, output, advance, to)
        print_note(f"{source.n_trajectories} trajectories of {source.family} written to {output}")
    finally:
        source.close()


def _same_points(text: str | None, equation: "pde.Family") -> int:
    """Points along every axis of data that is generated. Raises UserError ``invalid_grid``."""
    from ups_server.specs import MIN_POINTS

    if text is None:
        return equation.n
    points = points_per_axis(text, equation.ndim)
    if len(set(points)) > 1 or points[0] < MIN_POINTS:
        raise UserError(
            "invalid_grid", "data is generated at the same number of points along every axis", got=text,
            expected=f"at least {MIN_POINTS}",
        )  # fmt: skip
    return points[0]


def parse_draws(entries: Sequence[str] | None) -> "dict[str, float | CoefficientDraw]":
    """Fixed values, and ranges `NAME=LOW:HIGH` drawn log-uniformly where LOW is positive, else uniformly.

    Raises:
        UserError: ``invalid_coefficient``.
    """
    from pydantic import ValidationError

    from ups_server.data.simulate import CoefficientDraw

    draws: dict[str, float | CoefficientDraw] = {}
    for entry in entries or ():
        value, colon, end = entry.partition(":")
        fixed = parse_coefficients([value])
        if colon:
            name, low = next(iter(fixed.items()))
            high = parse_coefficients([f"{name}={end}"])[name]
            try:
                drawn = CoefficientDraw(low=low, high=high, scale="log" if low > 0 else "linear")
            except ValidationError:
                raise UserError(
                    "invalid_coefficient", "a range is given as NAME=LOW:HIGH", got=entry, expected="nu=0.001:0.1"
                ) from None
            draws[name] = drawn
        else:
            draws.update(fixed)
    return draws
