"""`ups files`: uploading files of trajectories to a running service."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ups_server.cli.options import (
    LOCAL,
    AsJson,
    CoefficientOptions,
    FileMapping,
    Key,
    PointsLeft,
    Steps,
    Times,
    ToFormat,
    Trajectories,
    Url,
    check_file,
    check_folder,
    check_suffix,
    is_inline,
    parse_coefficients,
    points_left,
    read_mapping,
    service_client,
)
from ups_server.cli.output import print_facts, print_json, print_note, print_table, progress
from ups_server.errors import UserError

app = typer.Typer(help="Upload files of trajectories to a service.", no_args_is_help=True, rich_markup_mode=None)

FileIdArgument = Annotated[str, typer.Argument(metavar="ID", help="A file's id; `ups files list` lists them.")]
DEEPER = 'files deeper in it are found by a pattern, such as "FOLDER/part/*.h5"'
ALONE = "an address is given alone"


@app.command()
def upload(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="HDF5 in PDEBench's layouts, NetCDF-4 or npz of ours; arrays of any kind with --map. Several files, a "
            "pattern or a folder are one data set, in the order of the numbers in their names. Or the address of a "
            "Zarr, where the service may fetch it.",
        ),
    ],
    family: Annotated[str | None, typer.Option(help="Its family, where the file does not say.")] = None,
    coef: CoefficientOptions = None,
    declaration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|YAML",
            help="A declaration as YAML or JSON, or the file it is in: an equation of your own, boundary, axes, …",
        ),
    ] = None,
    map_file: FileMapping = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file; a broken upload goes on when the command is repeated. Exit code 2 where the file is refused."""
    from ups_server.data.remote import address_of

    address = address_of(files[0]) if len(files) == 1 else None
    chosen = [] if address is not None else _files(files)
    said = _declaration(declaration, family, parse_coefficients(coef))
    if (mapping := read_mapping(map_file)) is not None:
        said["mapping"] = mapping.model_dump(mode="json", exclude_none=True)
    with service_client(url, key) as client, progress(files[0].name) as advance:
        record = client.fetch(address, said) if address else client.upload(chosen, said, progress=advance)
    if as_json:
        print_json(record)
    else:
        print_facts(_facts(record))


@app.command("list")
def list_files(url: Url = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """List the files of a service."""
    with service_client(url, key) as client:
        records = client.files()
    if as_json:
        print_json(records)
    else:
        rows = [(entry["id"], entry["name"], entry["state"], f"{entry['size'] / 1e6:.1f} MB") for entry in records]
        print_table(("id", "name", "state", "size"), rows)


@app.command()
def show(
    file_id: FileIdArgument,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="PNG", help="Write the preview to this file.")
    ] = None,
    url: Url = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Describe a file: its state, and what was found in it."""
    if picture is not None:
        check_suffix(picture, (".png",))
    with service_client(url, key) as client:
        record = client.file(file_id)
        if picture is not None:
            picture.write_bytes(client.preview(file_id))
    if as_json:
        print_json(record)
    else:
        print_facts(_facts(record))


@app.command()
def download(
    file_id: FileIdArgument,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .h5, .hdf5, .nc, .npz or .zip (of Zarr): its suffix decides.")
    ],
    trajectories: Trajectories = None,
    times: Times = None,
    steps: Steps = None,
    resolution: PointsLeft = None,
    to: ToFormat = None,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Fetch trajectories of a file, all or some, in a format of your own."""
    from ups_server.data.selection import ends_of

    if to is None:
        from ups_server.data.export import media_type_of

        media_type_of(output)
    check_folder(output)
    span = None if times is None else ends_of(times)
    with service_client(url, key) as client:
        client.download_data(
            file_id, output, trajectories, times=span, steps=steps, resolution=points_left(resolution), format=to
        )
    print_note(f"{output} written")


@app.command()
def delete(file_id: FileIdArgument, url: Url = LOCAL, key: Key = None) -> None:
    """Remove a file and all that was made of it."""
    with service_client(url, key) as client:
        client.delete_file(file_id)
    print_note(f"{file_id} deleted")


def _files(given: list[Path]) -> list[Path]:
    """The files to upload, those of patterns and folders among them. Raises UserError ``not_found``, ``not_a_file``."""
    from ups_server.data.composed import natural
    from ups_server.data.formats import matching
    from ups_server.data.formats.base import ZARR_ROOT
    from ups_server.data.remote import address_of

    found: list[Path] = []
    for entry in given:
        if entry.is_file() or any((entry / name).is_file() for name in ZARR_ROOT):
            found.append(entry)
        elif members := matching(entry):
            found += members
        elif (address := address_of(entry)) is not None:
            raise UserError("not_a_file", f"{address} is no file on this machine", hint=ALONE)
        elif entry.is_dir():
            raise UserError("not_a_file", f"{entry.name} is a folder without files", hint=DEEPER)
        else:
            check_file(entry)
    return sorted(found, key=lambda path: natural(path.name))


def _declaration(declaration: str | None, family: str | None, coefficients: dict[str, float]) -> dict[str, Any]:
    """What the options and a declaration, a file or text, say together; the options win.

    Raises:
        UserError: ``not_found``, ``invalid_declaration``.
    """
    import yaml

    said: Any = {}
    if declaration is not None:
        inline = is_inline(declaration)
        where = "the declaration" if inline else declaration
        if not inline:
            check_file(Path(declaration))
        try:
            said = yaml.safe_load(declaration if inline else Path(declaration).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError("invalid_declaration", f"{where} is not YAML", got=str(error)) from None
        if not isinstance(said, dict):
            raise UserError("invalid_declaration", f"{where} is no mapping", got=type(said).__name__)
    if family is not None:
        said["family"] = family
    if coefficients:
        said["coefficients"] = {**said.get("coefficients", {}), **coefficients}
    return dict(said)


def _facts(record: dict[str, Any]) -> dict[str, str]:
    facts = {"file": record["id"], "name": record["name"], "state": record["state"], "size": f"{record['size']} bytes"}
    if record["parts"]:
        facts["files"] = ", ".join(part["name"] for part in record["parts"])
    if record["state"] == "uploading":
        facts["arrived"] = f"{record['offset']} bytes"
    if record["problem"] is not None:
        facts["refused because"] = record["problem"]["detail"]
    if record["report"] is not None:
        facts |= _contents(record["report"])
    return facts


def _contents(report: dict[str, Any]) -> dict[str, str]:
    found = report["check"]
    coefficients = [
        f"{name} = {low:g}" if low == high else f"{name} = {low:g} to {high:g}"
        for name, (low, high) in found["coefficients"].items()
    ]
    axes = [f"{axis['n']} points on [{axis['low']:g}, {axis['high']:g}]" for axis in found["axes"]]
    return {
        "family": f"{found['family']}: {found['equation']}",
        "coefficients": ", ".join(coefficients) or "none",
        "grid": " x ".join(axes),
        "time": f"{found['frames']} frames, t = {found['t_first']:g} to {found['t_last']:g}",
        **{
            f"field {field['name']}": f"{field['min']:.4g} to {field['max']:.4g}, mean {field['mean']:.4g}"
            for field in found["fields"]
        },
        "trajectories": f"{found['trajectories']}, {report['rows']} usable",
        "notes": "; ".join((*found["problems"], *found["warnings"])) or "none",
    }
