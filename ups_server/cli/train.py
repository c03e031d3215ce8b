"""Models made and measured: `ups train CONFIG`, `replay FOLDER`, `baseline NAME CONFIG`, `ups adapt`,
`ups evaluate`.

An adaptation here does what a fine-tuning job of the service does.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ups_server.cli.catalogue import model_source
from ups_server.cli.options import (
    DataDir,
    FileCoefficients,
    FileFamily,
    FileMapping,
    PointsLeft,
    check_file,
    check_folder,
    parse_coefficients,
    points_left,
    read_mapping,
)
from ups_server.cli.output import Advance, print_json, print_line, print_note, print_table, progress
from ups_server.errors import UserError
from ups_server.jobs.spec import AlignmentName, EmbedderName, HorizonName, StartName, TuningName
from ups_server.processes import keep_freed_memory

if TYPE_CHECKING:
    from ups_server.data.mapping import Mapping
    from ups_server.data.store import Store
    from ups_server.evaluation.scores import FileScores
    from ups_server.train.few_shot import AdaptationSettings
    from ups_server.train.loop import StepReport
    from ups_server.train.validation import Score


RECIPE = "recipe"


class RecipeFirst(TyperGroup):
    """A first word that is no command of the group is a recipe to train: `ups train CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [RECIPE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RecipeFirst,
    help="Train a model: `ups train CONFIG`; a row of recipes: `ups train replay FOLDER`; or what a model is compared "
    "with: `ups train baseline NAME CONFIG`.",
    no_args_is_help=True,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A training configuration (YAML).")]
Fresh = Annotated[
    bool,
    typer.Option("--fresh/--resume", help="Start over, or go on from the run's last state where there is one."),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is one]")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that generate the data.")]


@app.command(RECIPE)
def train(config: Config, fresh: Fresh = False, device: Device = None, workers: Workers = 1) -> None:
    """Train a model: data from the reference solvers, alignment, then all families together (`ups train CONFIG`)."""
    check_file(config)
    from ups_server.train.run import train_recipe

    keep_freed_memory()
    folder = train_recipe(config, fresh=fresh, device=device, workers=workers)
    print_note(f"the best model by validation is in {folder}")


@app.command("replay")
def replay(
    recipes: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of recipes, numbered by their names.")],
    device: Device = None,
    workers: Workers = 1,
) -> None:
    """Train all recipes of a folder one after another; the same command goes on where it was stopped."""
    if not recipes.is_dir():
        raise typer.BadParameter(f"{recipes} is no folder")
    from ups_server.train.run import replay as trained

    keep_freed_memory()
    print_note(f"the best model by validation is in {trained(recipes, device=device, workers=workers)}")


@app.command("baseline")
def baseline(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="fno, unet, ups-paper; from-scratch, no-body, random-body, no-metadata, no-alignment."
        ),
    ],
    config: Config,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Wall-clock of the training steps; the learning rate follows it. [default: as CONFIG]"
        ),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="Train on this family of CONFIG alone; repeatable.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field, such as model.n_modes=24.")
    ] = None,
    fresh: Fresh = False,
    device: Device = None,
    workers: Workers = 1,
) -> None:
    """Train a baseline or control on the data of a recipe, for as long or for a number of minutes."""
    check_file(config)
    from ups_server.train.baseline import train_baseline

    keep_freed_memory()
    folder = train_baseline(
        name, config, minutes=minutes, families=family or (), changes=changes or (), fresh=fresh, device=device,
        workers=workers,
    )  # fmt: skip
    print_note(f"the best model by validation is in {folder}")


def adapt(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] FILE",
            help="A model folder or a model id (`ups models list` lists them), which a fresh start (`--from`) does "
            "without; a file or store of trajectories, or a pattern of files.",
        ),
    ],
    n_trajectories: Annotated[
        int, typer.Option(min=1, help="Trajectories to train on; the rest are validation and test.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder of the tuned model.")],
    start: Annotated[
        StartName,
        typer.Option(
            "--from",
            help="The weights of MODEL, or a new embedder and head around the pretrained language model, or, as a "
            "control, around one of random weights.",
        ),
    ] = StartName.MODEL,
    embedder: Annotated[EmbedderName | None, typer.Option(help="Of a fresh start. [default: fno]")] = None,
    body_layers: Annotated[
        int | None, typer.Option(min=1, help="Of a fresh start: layers of the language model. [default: all]")
    ] = None,
    alignment: Annotated[AlignmentName, typer.Option(help="Before tuning.")] = AlignmentName.NONE,
    alignment_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variant of the alignment; repeatable.")
    ] = None,
    tuning: Annotated[
        TuningName | None, typer.Option(help="What may change. [default: operator; of a fresh start: full]")
    ] = None,
    horizon: Annotated[
        HorizonName, typer.Option(help="Learn steps, or to go from the first state to the last at once.")
    ] = HorizonName.STEP,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps. [default: by --n-trajectories]")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds of training at most. [default: any]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak. [default: by the method]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers of the tuning.")] = 0,
    validation_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Validation and test come from here, and not from the rest.")
    ] = None,
    family: FileFamily = None,
    coef: FileCoefficients = None,
    map_file: FileMapping = None,
    trajectories: Annotated[
        str | None, typer.Option(metavar="FIRST:END|N,N", help="Only these of FILE; the others are not read.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the report; `-` for standard output.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: DataDir = None,
) -> None:
    """Tune a model, or a language model, to trajectories of your own; the report says honestly whether it helped.

    Ctrl-C keeps what was reached: the same command goes on from there.
    """
    model, file = model_and_file(places, start)
    for given in (file, validation_file):
        if given is not None and not given.is_dir():
            check_file(given, pattern=True)
    for path in (output, json_file):
        if path is not None:
            check_folder(path)
    from ups_server.train.few_shot import AdaptationSettings

    settings = AdaptationSettings.asked(
        n_trajectories=n_trajectories,
        start=start.value,
        embedder=None if embedder is None else embedder.value,
        body_layers=body_layers,
        alignment=alignment.value,
        alignment_options=named_values(alignment_option or ()),
        tuning=None if tuning is None else tuning.value,
        horizon=horizon.value,
        max_steps=max_steps,
        max_seconds=max_seconds,
        learning_rate=learning_rate,
        seed=seed,
    )
    settings.check()
    from ups_server.train.adapt import check_output

    output = output.resolve()
    check_output(output)
    folder = None if model is None or settings.fresh else _tunable(model, data_dir, settings)
    with interruptible() as stopped, progress("reading") as advance:
        said = FileSaid(family, parse_coefficients(coef), read_mapping(map_file), trajectories)
        report = _adapt((model, folder), (file, validation_file), said, settings, output, device, stopped, advance)
    if json_file == Path("-"):
        print_json(report)
        return
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print_note(f"report written to {json_file}")
    _print_report(report)
    kept = "the tuned model" if report["kept"] == "tuned" else "the model, its weights as they were,"
    print_note(f"{kept} is in {output}")


def model_and_file(places: Sequence[str], start: StartName) -> tuple[str | None, Path]:
    """What stands before the options: MODEL and FILE, or after a fresh start FILE alone."""
    fewest = 2 if start is StartName.MODEL else 1
    if not fewest <= len(places) <= 2:
        raise typer.BadParameter(f"give {'MODEL and FILE' if fewest == 2 else 'FILE'}, not {len(places)} names")
    return (places[0] if len(places) == 2 else None), Path(places[-1])


def named_values(entries: Sequence[str]) -> dict[str, str]:
    """`["terms=fa"]` to `{"terms": "fa"}`."""
    for entry in entries:
        if "=" not in entry:
            raise typer.BadParameter(f"{entry} is not NAME=VALUE")
    return dict(entry.split("=", 1) for entry in entries)


def _tunable(model: str, data_dir: Path | None, settings: "AdaptationSettings") -> Path:
    """The folder of a model that can be tuned so.

    Raises:
        UserError: ``not_tunable``, ``unknown_model``, and those of `check_lead_methods`.
    """
    from ups_server.model.lead_config import LeadConfig
    from ups_server.solvers.registry import check_learned, model_folder
    from ups_server.train.lead_few_shot import check_lead_methods

    source = model_source(model, data_dir)
    if isinstance(source, str):
        raise UserError("not_tunable", f"{model} has no weights to tune", got=model, expected="a trained model")
    folder = model_folder(source)
    config = check_learned(folder)
    if isinstance(config, LeadConfig):
        check_lead_methods(config, settings)
    return folder


def _adapt(
    start: tuple[str | None, Path | None],
    files: tuple[Path, Path | None],
    said: "FileSaid",
    settings: Any,
    output: Path,
    device: str,
    stopped: Callable[[], bool],
    advance: Advance,
) -> dict[str, Any]:
    import shutil

    from ups_server.solvers.registry import choose_device
    from ups_server.train.adapt import Interrupted, Place, deliver
    from ups_server.train.adapt_lead import adaptation_of
    from ups_server.train.few_shot import FewShotData
    from ups_server.train.start import unused_model

    keep_freed_memory()
    model, folder = start  # a fresh start has no folder, whatever model was named
    file, held_out = files
    work = output.with_name(f".{output.name}.adapting")
    place = Place(work, ProgressListener(advance), stopped, choose_device(device))
    try:
        data = FewShotData(_store(file, said, work / "store", advance), file.name)
        if held_out is not None:
            whole = replace(said, trajectories=None)
            validation = _store(held_out, whole, work / "validation_store", advance)
            data = replace(data, validation=validation, validation_file=held_out.name)
        adaptation = adaptation_of(folder, data, settings, output.name, place)
        if folder is None and model is not None:
            adaptation.warnings.append(unused_model(model))
        report = adaptation.run()
    except Interrupted:
        raise UserError(
            "adaptation_interrupted",
            "the adaptation was interrupted and its state saved",
            hint="the same command goes on from there",
        ) from None
    more = {"file": file.name} if held_out is None else {"file": file.name, "validation_file": held_out.name}
    extra = _equation_file(data.training, said)
    parent = settings.start if folder is None else folder.name
    deliver(report, adaptation.chosen(report), output, adaptation.about(parent, **more), extra)
    shutil.rmtree(work)
    return report


@dataclass(frozen=True)
class FileSaid:
    """What the user says about the files."""

    family: str | None
    coefficients: dict[str, float]
    mapping: "Mapping | None" = None
    trajectories: str | None = None


def _store(file: Path, said: FileSaid, copy: Path, advance: Advance) -> "Store":
    """The file in our own layout, without the rows that are not asked for or cannot be used; copied once, to `copy`."""
    from contextlib import closing

    from ups_server.data.formats import open_source
    from ups_server.data.scan import usable
    from ups_server.data.selection import chosen_rows
    from ups_server.data.source import grouped, rows_text
    from ups_server.data.store import MANIFEST, Store
    from ups_server.data.writer import transcode

    if (file / MANIFEST).is_file() and said.trajectories is None:
        return Store.open(file)
    if (copy / MANIFEST).is_file() and said.mapping is None:
        return Store.open(copy)
    with closing(open_source(file, said.family, said.coefficients, said.mapping)) as source:
        if (copy / MANIFEST).is_file():
            return Store.open(copy)
        rows = usable(source if said.trajectories is None else chosen_rows(source, said.trajectories))
        for group in grouped(rows.row_numbers.left_out):
            print_note(f"{file.name}: {rows_text(group.rows)} left out: {group.reason}")
        return transcode(rows, copy, {"file": file.name}, lambda done, total: advance(done, total, "reading"))


def _equation_file(store: "Store", said: FileSaid) -> dict[str, str]:
    """The equation of the user's own that a mapping declares, which goes with the tuned model."""
    from ups_server.catalog import EQUATION_FILE

    if said.mapping is None or said.mapping.equation is None:
        return {}
    times = store.times
    equation = said.mapping.equation_spec(store.grid.extent, float(times[-1] - times[0]) / max(len(times) - 1, 1))
    return {EQUATION_FILE: equation.model_dump_json(indent=1) + "\n"}


class ProgressListener:
    """One bar, and a line per validation."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def phase(self, name: str, facts: dict[str, Any]) -> None:
        for warning in facts.get("warnings", ()):
            print_note(f"warning: {warning}")
        if "memory_bytes" in facts:
            print_note(
                f"{facts['training']} training, {facts['validation']} validation, {facts['test']} test trajectories; "
                f"about {facts['memory_bytes'] / 2**20:.0f} MiB of memory"
            )

    def scoring(self, what: str, done: int, total: int) -> None:
        self._advance(done, total, f"scores: {what.replace('_', '-')}")

    def step(self, step: int, steps: int, report: "StepReport") -> None:
        what = f"alignment {report.alignment:.4f}" if report.loss is None else f"loss {report.loss:.4f}"
        self._advance(step, steps, f"tuning, {what}")

    def validation(self, step: int, score: "Score", best: bool) -> None:
        mark = " *" if best else ""
        print_note(f"step {step}: validation one-step {score.one_step:.5f}, rollout {score.rollout:.4f}{mark}")

    def saved(self, step: int) -> None:
        pass


def _print_report(report: dict[str, Any]) -> None:
    rows = []
    for name in ("zero_shot", "tuned", "persistence"):
        if report[name] is None:  # a fresh start is no model before it is tuned
            continue
        one_step, rollout = report[name]["one_step"], report[name]["rollout"]
        figures = (one_step["nrmse"], one_step["skill"], rollout["nrmse_trajectory"])
        rows.append((name.replace("_", "-"), *("diverged" if value is None else f"{value:.4g}" for value in figures)))
    print_table(("", "one-step", "skill", "rollout over trajectory"), rows)
    print_line(report["verdict"])


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an end between two steps."""
    import signal
    import threading

    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


COLUMNS = ("file", "n", "N", "steps", "one-step", "skill", "rollout", "over trajectory", "persistence")


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, a model id, `persistence` or `numerical`.")
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of trajectories; a pattern is one of several.")
    ],
    dt: Annotated[float | None, typer.Option(help="Step; default: the model's, else the family's.")] = None,
    resolution: PointsLeft = None,
    trajectories: Annotated[int | None, typer.Option(help="The first so many of each file; default: all.")] = None,
    horizon: Annotated[
        HorizonName, typer.Option(help="Score every step and rollouts, or the last state from the first alone.")
    ] = HorizonName.STEP,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write every score; `-` for standard output.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="OUT.h5", help="Write truth and predictions, to recompute any score.")
    ] = None,
    family: FileFamily = None,
    coef: FileCoefficients = None,
    map_file: FileMapping = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    body: Annotated[
        Literal["trained", "none", "random"],
        typer.Option(help="A control: leave the language model out, or replace it by a random one."),
    ] = "trained",
    data_dir: DataDir = None,
) -> None:
    """Score a model on files: one step ahead and full rollout, with persistence beside both (nRMSE)."""
    for file in files:
        if not file.is_dir():
            check_file(file, pattern=True)
    for output in (json_file, predictions):
        if output is not None:
            check_folder(output)
    from ups_server.data.source import rows_text
    from ups_server.evaluation.evaluate import evaluate as score

    keep_freed_memory()
    with progress("evaluating") as advance:
        scores = score(
            model_source(model, data_dir),
            files,
            dt=dt,
            resolution=points_left(resolution),
            trajectories=trajectories,
            device=device,
            body=body,
            family=family,
            coefficients=parse_coefficients(coef),
            mapping=read_mapping(map_file),
            predictions=predictions,
            horizon=horizon.value,
            progress=lambda file, done, total: advance(done, total, file),
        )
    documents = [entry.as_dict() for entry in scores]
    if json_file == Path("-"):
        print_json(documents)
        return
    if json_file is not None:
        json_file.write_text(json.dumps(documents, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print_note(f"scores written to {json_file}")
    for entry in scores:
        for group in entry.left_out:
            print_note(f"{entry.file}: {rows_text(group.rows)} left out: {group.reason}")
    print_table(COLUMNS, [_row(entry) for entry in scores])


def _row(scores: "FileScores") -> tuple[str, ...]:
    one_step, baseline = scores.one_step, scores.persistence.one_step
    return (
        Path(scores.file).name,
        "x".join(map(str, scores.resolution)),
        str(scores.trajectories),
        str(scores.steps),
        "-" if one_step is None else _figure(one_step.nrmse),
        "-" if one_step is None else _figure(one_step.skill),
        _figure(scores.rollout.nrmse),
        _figure(scores.rollout.nrmse_trajectory),
        _figure(baseline.nrmse),
    )


def _figure(value: float | None) -> str:
    """Null stands for a value that is not finite."""
    return "diverged" if value is None else f"{value:.4g}"
