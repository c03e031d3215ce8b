"""`ups solve`: a rollout on this machine, without a server; checked and planned exactly as the service does."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from ups_server.cli.jobs import open_store
from ups_server.cli.options import (
    Boundary,
    DataDir,
    FileMapping,
    InitialKindOption,
    Key,
    ServiceUrl,
    check_suffix,
    parse_boundary,
    parse_coefficient_values,
    parse_coefficients,
    parse_place,
    points_per_axis,
    read_mapping,
    service_client,
    settings_of,
)
from ups_server.cli.output import print_json, print_line, print_note, progress
from ups_server.errors import UserError
from ups_server.processes import keep_freed_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ups_server.catalog import Catalog
    from ups_server.data.mapping import Mapping as ArrayMapping
    from ups_server.jobs.spec import Job
    from ups_server.pde import State, Trajectory
    from ups_server.rollout.plan import Plan
    from ups_server.specs import RolloutRequest


PICTURES = (".png", ".gif", ".mp4")
ANSWERED = (
    *("model", "model_version", "equation", "terms", "dt", "n_steps", "save_every", "flags"),
    *("super_resolution", "ensemble", "diagnostics", "reference"),
)
"""What an answer says beside the solution, as attributes of a dataset."""


def solve(
    family: Annotated[
        str | None, typer.Argument(metavar="FAMILY", help="A family id; `ups families` lists them. Or --equation.")
    ] = None,
    equation: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="An equation in symbols instead: 'u_t = -u*u_x + 0.01*u_xx + u*(1-u)'."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="By suffix: .nc .h5 .npz .png .gif .mp4 …"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model id or folder. [default: ups-mini]")] = None,
    method: Annotated[
        Literal["numerical", "persistence"] | None, typer.Option(help="Solve without a model: the reference solver.")
    ] = None,
    coef: Annotated[
        list[str] | None,
        typer.Option(
            "--coef",
            metavar="NAME=VALUE",
            help="A coefficient, repeatable; others keep the family's default. NAME=V,V has one for each of --count.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the initial state, the same as the service does.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="Draw so many initial states, as a batch.")] = None,
    initial_kind: InitialKindOption = "rand",
    initial: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the initial state from a file of trajectories.")
    ] = None,
    trajectory: Annotated[int, typer.Option(min=0, help="Which trajectory of that file.")] = 0,
    map_file: FileMapping = None,
    n_steps: Annotated[int | None, typer.Option(min=1, help="Steps. [default: up to the family's final time]")] = None,
    dt: Annotated[float | None, typer.Option(help="A multiple of the model's step. [default: the model's]")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Keep every so many steps.")] = 1,
    times: Annotated[
        str | None, typer.Option(metavar="T,T,...", help="Instead of those three: the times of the answer.")
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(metavar="N[xN]", help="Points per axis. [default: the model's, or the file's]"),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Where they lie: cells, nodes, or the offset of the first one in spacings. [default: cells]",
        ),
    ] = None,
    output_resolution: Annotated[
        str | None, typer.Option(metavar="N[xN]", help="Points of the answer, on a finer grid than the state's.")
    ] = None,
    finer_by: Annotated[
        Literal["resolution-free", "interpolation"] | None,
        typer.Option(help="How it gets there. [default: resolution-free where that was measured to be no worse]"),
    ] = None,
    boundary: Boundary = None,
    ensemble: Annotated[
        int | None, typer.Option(min=2, metavar="M", help="Also run M perturbed states: mean, spread, quantiles.")
    ] = None,
    amplitude: Annotated[float, typer.Option(help="Of the perturbations, relative to the field's spread.")] = 0.01,
    diagnostics: Annotated[
        bool, typer.Option("--diagnostics", help="Report conservation, expected error and distance from training.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Run the numerical solver too and report the true error.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait: `ups serve` on this machine computes and keeps the result.")
    ] = False,
    data_dir: DataDir = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is said beside the solution as JSON.")] = False,
) -> None:
    """Solve one problem and write the trajectory, or a picture of it: on this machine, or by a service (--url)."""
    from ups_server.data.export import suffixes
    from ups_server.pde import family as find

    if model is not None and method is not None:
        raise UserError("invalid_request", "give --model or --method, not both", got=[model, method])
    if (family is None) == (equation is None):
        raise UserError("invalid_request", "give a family or --equation, and not both", got=[family, equation])
    if times is not None and (n_steps, dt, save_every) != (None, None, 1):
        raise UserError("invalid_request", "--times already say what --n-steps, --dt and --save-every would", got=times)
    coefficients = parse_coefficient_values(coef)
    mapping = _known(initial, map_file)
    chosen = family or _recognised(equation or "", parse_coefficients(coef))
    trust: dict[str, Any] = {"diagnostics": diagnostics, "reference": reference}
    ends = parse_boundary(boundary, find(chosen).ndim)
    if ends is not None:
        trust["boundary"] = ends.as_names()
    if output_resolution is not None:
        trust["output_resolution"] = points_per_axis(output_resolution, find(chosen).ndim)
    if ensemble is not None:
        trust["ensemble"] = {"members": ensemble, "seed": seed, "amplitude": amplitude}
    if finer_by is not None:
        trust["method"] = finer_by
    wanted = _Request(
        family=chosen,
        equation=equation,
        model=method or model or "",
        coefficients=coefficients,
        sample={"seed": seed, "kind": initial_kind, **({} if count is None else {"count": count})},
        n_steps=n_steps,
        dt=dt,
        save_every=save_every,
        times=None if times is None else _times(times),
        resolution=None if resolution is None else points_per_axis(resolution, find(chosen).ndim),
        points=points,
        trust=trust,
    )
    if initial is not None and initial_kind != "rand":
        raise UserError(
            "invalid_request", "give --initial or --initial-kind, not both", got=[str(initial), initial_kind]
        )
    if initial is not None and count is not None:
        raise UserError("invalid_request", "give --initial or --count, not both", got=[str(initial), count])
    if detach:
        if output is not None or initial is not None:
            given = [str(path) for path in (output, initial) if path is not None]
            raise UserError("invalid_request", "--detach starts from --seed; its result is kept", got=given)
        _order(wanted, data_dir, url, key, as_json)
        return
    if output is None:
        raise UserError("invalid_request", "say where the solution goes", expected="--output FILE, or --detach")
    check_suffix(output, (*suffixes(), *PICTURES))
    values = parse_coefficients(coef) if initial is not None and equation is None else {}
    start = None if initial is None else _read(initial, trajectory, chosen, values, wanted.resolution, mapping)
    if url is None:
        catalog, model_id = _find_model(method or model, chosen, data_dir)
        todo = _plan(replace(wanted, model=model_id), start, catalog)
        solutions, attributes = _roll_out(todo, device)
    else:
        solutions, attributes = _asked(wanted, start, url, key)
    solution = solutions[0]
    _write(solutions, output, attributes)
    if as_json:
        print_json({"output": str(output), "times": solution.times.tolist(), **attributes})
        return
    for flag in attributes["flags"]:
        if flag["code"] == "numerical_solver_is_faster":  # the findings say so
            continue
        print_note(f"note: {flag['message']}")
    for line in findings(attributes):
        print_note(line)
    print_note(f"{attributes['model']}: {len(solution)} frames to t = {solution.times[-1]:g} written to {output}")


@dataclass(frozen=True)
class _Request:
    """The options as they were given; the family of an equation in symbols is the one that was recognised."""

    family: str
    equation: str | None
    model: str
    coefficients: dict[str, float | list[float]]
    sample: dict[str, Any]
    n_steps: int | None
    dt: float | None
    save_every: int
    times: tuple[float, ...] | None
    resolution: tuple[int, ...] | None
    points: str | None
    trust: dict[str, Any]


def _times(text: str) -> tuple[float, ...]:
    """Raises UserError ``invalid_times``."""
    try:
        return tuple(float(time) for time in text.split(","))
    except ValueError:
        raise UserError("invalid_times", "times are numbers", got=text, expected="T,T,... such as 0.1,0.25,1") from None


def _recognised(equation: str, coefficients: dict[str, float]) -> str:
    """The family of an equation in symbols."""
    from ups_server.pde.equation import recognise
    from ups_server.pde.grammar import parse_equation

    return recognise(parse_equation(equation, coefficients)).family


def _find_model(model: str | None, family: str, data_dir: Path | None) -> "tuple[Catalog, str]":
    """A folder is looked up in a catalog of its own; an id among the installed models."""
    from ups_server.catalog import Catalog

    settings = settings_of(data_dir)
    if model is not None and (Path(model) / "config.json").is_file():
        folder = Path(model).resolve()
        return Catalog(shipped=folder.parent), folder.name
    catalog = Catalog(settings.data_dir)
    return catalog, model or catalog.default(settings.default_model, family)


def _known(initial: Path | None, map_file: str | None) -> "ArrayMapping | None":
    """The mapping of the file of the initial state; an equation that it declares is known from then on.

    Raises:
        UserError: ``invalid_request``, and those of reading.
    """
    from ups_server.data.formats import open_source

    mapping = read_mapping(map_file)
    if mapping is None:
        return None
    if initial is None:
        raise UserError("invalid_request", "--map says what the arrays of --initial mean", got=map_file)
    if mapping.equation is not None:
        open_source(initial, mapping=mapping).close()
    return mapping


def _read(
    file: Path,
    trajectory: int,
    family: str,
    coefficients: dict[str, float],
    n: tuple[int, ...] | None,
    mapping: "ArrayMapping | None",
) -> "State":
    """The first frame of one trajectory, thinned to `n` points, by one stride along all axes."""
    from ups_server.data.formats import open_source
    from ups_server.data.source import place_of
    from ups_server.pde import State

    with closing(open_source(file, family, coefficients or None, mapping)) as source:
        whole = source.trajectory(place_of(source, trajectory, file.name))
    stride = 1 if n is None else whole.grid.stride_to(n)
    thinned = (slice(None, None, stride),) * whole.grid.ndim
    return State(
        family,
        whole.values[0][thinned],
        float(whole.times[0]),
        whole.grid.subsample(stride),
        whole.boundary,
        whole.coefficients,
        None if whole.static is None else whole.static[thinned],
    )


def _order(request: _Request, data_dir: Path | None, url: str | None, key: str | None, as_json: bool) -> None:
    """Queues the rollout; in the data folder of a service that never was, nobody would take it."""
    if url is None:
        document = _queued(request, data_dir).model_dump(mode="json")
    else:
        with service_client(url, key) as client:
            document = client.submit(**_document(request, None, _steps_said(request)))
    if as_json:
        print_json(document)
        return
    where = "" if url is None else f" --url {url}"
    print_line(document["id"])
    print_note(f"ups jobs follow {document['id']}{where}; ups jobs result {document['id']} -o FILE{where}")


def _queued(request: _Request, data_dir: Path | None) -> "Job":
    """The job, in the table of the data folder."""
    from ups_server.catalog import Catalog
    from ups_server.jobs.rollouts import order, without_waiting
    from ups_server.jobs.spec import ROLLOUT
    from ups_server.jobs.store import new_id
    from ups_server.rollout.plan import plan

    settings = settings_of(data_dir)
    catalog = Catalog(settings.data_dir)
    with open_store(data_dir) as store:
        usual = catalog.default(settings.default_model, request.family)
        wanted = _rollout_request(replace(request, model=request.model or usual), None, catalog)
        todo = plan(wanted, catalog, without_waiting(settings))
        job, _ = order(wanted, None, todo, store, settings, None, new_id(ROLLOUT))
    return job


def _plan(request: _Request, start: "State | None", catalog: "Catalog") -> "Plan":
    from ups_server.rollout.plan import plan
    from ups_server.settings import Settings

    wanted = _rollout_request(request, start, catalog)
    if start is None:
        return plan(wanted, catalog, Settings.given())
    arrays: dict[str, Any] = {"initial_condition": start.values}
    if start.static is not None:
        arrays["static"] = start.static
    return plan(wanted, catalog, Settings.given(), arrays)


def _rollout_request(request: _Request, start: "State | None", catalog: "Catalog") -> "RolloutRequest":
    """What the service would be asked for."""
    from ups_server.pde import family as find
    from ups_server.specs import RolloutRequest

    equation = find(request.family)
    dt = request.dt or catalog.model(request.model).support(equation.id).dt
    n_steps = request.n_steps or max(request.save_every, round(equation.t_final / dt))
    return RolloutRequest.from_json(json.dumps(_document(request, start, n_steps)))


def _steps_said(request: _Request) -> int | None:
    """Raises UserError ``invalid_request`` where they are not: a model elsewhere has a step of its own."""
    if request.n_steps is None and request.times is None:
        raise UserError("invalid_request", "say how far the service goes", expected="--n-steps N, or --times")
    return request.n_steps


def _document(request: _Request, start: "State | None", n_steps: int | None) -> dict[str, Any]:
    """The fields of a request; an initial state of a file goes beside it."""
    from ups_server.pde import family as find
    from ups_server.rollout.resolve import placed
    from ups_server.specs import GridSpec

    equation = find(request.family)
    problem: dict[str, Any] = {"equation": request.equation, "coefficients": request.coefficients}
    if request.equation is None:
        given = request.coefficients if start is None else dict(start.coefficients)
        problem = {"family": equation.id, "coefficients": given}
    length: dict[str, Any] = {"n_steps": n_steps, "dt": request.dt, "save_every": request.save_every}
    document: dict[str, Any] = {
        "model": request.model or None,
        **problem,
        **(length if request.times is None else {"times": request.times}),
        **request.trust,
    }
    grid = parse_place(request.points, equation.ndim)
    if start is None:
        document["initial_condition"] = {"sample": request.sample}
        if request.resolution is not None:
            grid["n"] = request.resolution
    else:
        # Thinning keeps the first point where it was.
        grid = placed(GridSpec.model_validate(grid), start.grid).model_dump(exclude_none=True)
        document.setdefault("boundary", start.boundary.as_names())
    document["grid"] = grid
    return document


def _asked(
    request: _Request, start: "State | None", url: str, key: str | None
) -> "tuple[list[Trajectory], dict[str, Any]]":
    """The same from a service."""
    from ups_server.data.formats.description import grid_of
    from ups_server.pde import BoundaryCondition, Trajectory
    from ups_server.pde import family as find

    if start is not None and start.static is not None:
        raise UserError(
            "invalid_request",
            "a state with static fields is read by the service itself",
            got="--initial and --url",
            hint="ups files upload FILE; the request names its id",
        )
    document = _document(request, start, _steps_said(request))
    state = document.pop("initial_condition", None) if start is None else start.values
    with service_client(url, key) as client:
        solved = client.rollout(initial_condition=state, **document)
    equation = find(request.family)
    names = [field.name for field in equation.fields]
    axes = list("xyz"[: equation.ndim])
    rows = next((name for name in ("trajectory", "statistic") if name in solved.dims), None)
    values = np.stack([solved[name].values for name in names], axis=-1)
    fixed = [solved[field.name].values for field in equation.static_fields if field.name in solved]
    static = np.stack(fixed, axis=-1) if fixed else None
    coefficients = {entry.name: np.ravel(solved[entry.name].values) for entry in equation.coefficients}
    count = 1 if rows is None else solved.sizes[rows]
    solutions = [
        Trajectory(
            equation.id,
            values if rows is None else values[row],
            solved["time"].values,
            grid_of(equation, [solved[axis].values for axis in axes], axes),
            BoundaryCondition.from_names(json.loads(solved.attrs["boundary"])),
            {name: float(numbers[row if len(numbers) > 1 else 0]) for name, numbers in coefficients.items()},
            static if static is None or rows is None else static[row],
        )
        for row in range(count)
    ]
    texts = ("model", "model_version", "equation")
    said = {
        name: json.loads(value) if isinstance(value, str) and name not in texts else value
        for name, value in solved.attrs.items()
        if name in ANSWERED
    }
    return solutions, {**said, "batched": rows is not None}


def _roll_out(todo: "Plan", device: str) -> "tuple[list[Trajectory], dict[str, Any]]":
    """The trajectory, or one for each statistic of an ensemble, and what belongs to them; ends before a blow-up."""
    from ups_server.engine.local import InProcess
    from ups_server.pde import Trajectory
    from ups_server.rollout.observation import Computed, Observation
    from ups_server.settings import Settings

    keep_freed_memory()
    frames = []
    observation = Observation(todo, InProcess(device), Settings.given().reference_timeout_s)
    with progress(todo.card.id) as advance, np.errstate(all="ignore"):
        for event in observation.run():
            if isinstance(event, Computed):
                frames.append(todo.answer_values(event.values))
                advance(len(frames) - 1, todo.n_frames - 1)
    solutions = [
        Trajectory(
            todo.family.id,
            np.stack([frame[row] for frame in frames]),
            todo.times()[: len(frames)],
            todo.grid,
            todo.spec.problem.boundary,
            {
                name: value[min(row, len(value) - 1)] if isinstance(value, list) else value
                for name, value in todo.coefficients.items()
            },
            None if todo.answer_static is None else todo.answer_static[row],
        )
        for row in range(todo.rows)
    ]
    return solutions, observation.attributes()


def _write(solutions: "list[Trajectory]", output: Path, attributes: Mapping[str, Any]) -> None:
    """Pictures show the first one."""
    if output.suffix.lower() in PICTURES:
        from ups_server.pictures import save_picture

        save_picture(solutions[0], output, attributes["model"])
        return
    from ups_server.data.export import export

    export(solutions if attributes["batched"] else solutions[0], output, attributes=attributes)


def findings(attributes: Mapping[str, Any]) -> Iterator[str]:
    """What diagnostics and comparison come to, in a few lines; of several states, from the least to the greatest."""
    if found := attributes.get("super_resolution"):
        yield f"{found['method']}: {found['reason']}"
        yield from found["explained"]
    if found := attributes.get("ensemble"):
        yield f"{found['members']} members; along the first axis: {', '.join(found['statistics'])}"
    if found := attributes.get("diagnostics"):
        yield from _diagnosed(found)
    if found := attributes.get("reference"):
        yield from _compared(found)


def _diagnosed(found: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in found["conserved"].items():
        moved = np.nanmax(np.abs(_numbers(entry["drift"])))
        yield f"conserved: the mean of {name} moves by at most {moved:.3g} from {_span(entry['initial'], 4)}"
    if not found["conserved"]:
        yield "conserved: the equation conserves no mean over the box"
    for name, energy in found["energy"].items():
        first, last = _numbers(energy)[..., 0], _numbers(energy)[..., -1]
        yield f"energy of {name}: {_span(first, 4)} at the start, {_span(last, 4)} at the end"
    expected = found["expected_error"]
    if not expected["available"]:
        yield f"expected error: unknown; {expected['reason']}"
    for name, bounds in expected["bounds"].items():
        most, level = np.nanmax(_numbers(bounds)[..., -1]), expected["level"]
        yield f"expected error of {name}: at most {most:.3g} at the last calibrated frame, level {level:g}"
    training = found["out_of_distribution"]
    if training["flagged"] is None:
        yield "training: nothing to compare with"
    elif training["flagged"]:
        yield "training: outside of it; " + "; ".join(reason["message"] for reason in training["reasons"])
    else:
        yield f"training: nothing unusual in {', '.join(training['checked'])}"


def _compared(found: Mapping[str, Any]) -> Iterator[str]:
    if found["reason"] is not None:
        yield f"reference: incomplete; {found['reason']}"
    yield f"reference: {found['accuracy']}"
    for name, error in found["nrmse_trajectory_per_field"].items():
        last = _span(_numbers(found["nrmse_per_field"][name])[..., -1], 3)
        yield f"true error of {name}: nRMSE {_span(error, 3)} over the trajectory, {last} at the end"
    if found["remark"] is not None:
        yield f"reference: {found['remark']}"


def _numbers(values: Any) -> "NDArray[np.float64]":
    """Nested lists; null is NaN."""
    return np.array(values, dtype=np.float64)


def _span(values: Any, digits: int) -> str:
    """One number, or the least and the greatest of several; those of states that have ended are left out."""
    numbers = _numbers(values)
    known = numbers[np.isfinite(numbers)]
    if not known.size:
        return "unknown"
    low, high = (f"{end:.{digits}g}" for end in (known.min(), known.max()))
    return low if low == high else f"{low} to {high}"
