"""`ups data`: making, checking, drawing and converting files of trajectories."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups_server.cli.options import (
    AsJson,
    Boundary,
    FamilyId,
    InitialKind,
    check_folder,
    check_suffix,
    parse_boundary,
    parse_coefficients,
)
from ups_server.cli.options import FileCoefficients as CoefficientOptions
from ups_server.cli.options import FileFamily as Family
from ups_server.cli.output import print_json, print_line, print_note, progress
from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.data.simulate import CoefficientDraw

app = typer.Typer(
    help="Make, check, draw and convert files of trajectories.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def generate(
    family: FamilyId,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Trajectories.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The HDF5 file to write.")],
    coef: Annotated[
        list[str] | None,
        typer.Option(
            "--coef",
            metavar="NAME=VALUE",
            help="A coefficient, repeatable; NAME=LOW:HIGH draws one per trajectory. Others keep the default.",
        ),
    ] = None,
    resolution: Annotated[int | None, typer.Option(min=8, help="Points per axis. [default: PDEBench's]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same initial states.")] = 0,
    initial_kind: InitialKind = "rand",
    boundary: Boundary = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that solve.")] = 1,
) -> None:
    """Solve trajectories with the reference solver and write them in PDEBench's layout."""
    from ups_server.data.simulate import generate as solve_and_write
    from ups_server.pde import family as find

    check_folder(output)
    equation = find(family)
    drawn, ends = parse_draws(coef), parse_boundary(boundary, equation.ndim)
    with progress(equation.id) as advance:
        path = solve_and_write(
            equation,
            drawn,
            count,
            resolution or equation.n,
            output,
            seed,
            progress=advance,
            workers=workers,
            kinds={initial_kind: 1.0},
            boundary=ends,
        )
    print_note(f"{count} trajectories written to {path}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file or store of trajectories.")],
    family: Family = None,
    coef: CoefficientOptions = None,
    probe: Annotated[
        bool | None,
        typer.Option(help="Compare a few rows with the reference solver. [default: where the file is small]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a whole file and report what it holds; exit code 2 where trajectories cannot be used.

    FILE may be a pattern, such as "ns_incom_*.h5": the files are read as one.
    """
    from ups_server.data.check import check_file, report_text

    report = check_file(file, family, parse_coefficients(coef), probe)
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
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file or store of trajectories.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PICTURE", help="A .png, or an animated .gif.")],
    trajectory: Annotated[int, typer.Option(min=0, help="Its number in the file.")] = 0,
    family: Family = None,
    coef: CoefficientOptions = None,
) -> None:
    """Draw one trajectory of a file."""
    from ups_server.data.formats import open_source
    from ups_server.data.source import place_of
    from ups_server.pictures import save_picture

    check_suffix(output, (".png", ".gif"))
    source = open_source(file, family, parse_coefficients(coef))
    try:
        save_picture(source.preview(place_of(source, trajectory, file.name)), output)
    finally:
        source.close()
    print_note(f"trajectory {trajectory} of {file} drawn to {output}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="IN", help="A file or store of trajectories.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .h5, .hdf5, .nc, .zarr or .npz; its suffix decides.")
    ],
    family: Family = None,
    coef: CoefficientOptions = None,
) -> None:
    """Copy trajectories into another format: PDEBench HDF5, NetCDF-CF, Zarr or npz."""
    from ups_server.data.export import convert as copy
    from ups_server.data.export import suffixes
    from ups_server.data.formats import open_source

    check_suffix(output, tuple(suffixes()))
    source = open_source(file, family, parse_coefficients(coef))
    try:
        with progress(source.family) as advance:
            copy(source, output, advance)
        print_note(f"{source.n_trajectories} trajectories of {source.family} written to {output}")
    finally:
        source.close()


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
