"""`ups adapt`: a model tuned to a few trajectories of a file, as a fine-tuning job of the service does it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups_server.cli.options import FileCoefficients, FileFamily, check_file, check_folder, parse_coefficients
from ups_server.cli.output import Advance, print_json, print_line, print_note, print_table, progress
from ups_server.errors import UserError
from ups_server.jobs.spec import AlignmentName, TuningName

if TYPE_CHECKING:
    from ups_server.data.store import Store
    from ups_server.train.loop import StepReport
    from ups_server.train.validate import Score


def adapt(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a model id.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file or store of trajectories.")],
    n_trajectories: Annotated[
        int, typer.Option(min=1, help="Trajectories to train on; the rest are validation and test.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder of the tuned model.")],
    alignment: Annotated[AlignmentName, typer.Option(help="Before tuning.")] = AlignmentName.NONE,
    tuning: Annotated[TuningName, typer.Option(help="What may change.")] = TuningName.OPERATOR,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps. [default: by --n-trajectories]")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds of training at most. [default: any]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak. [default: by the method]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers of the tuning.")] = 0,
    validation_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Validation and test come from here, and not from the rest.")
    ] = None,
    family: FileFamily = None,
    coef: FileCoefficients = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the report; `-` for standard output.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Tune a model to trajectories of your own; the report says honestly whether it helped.

    Ctrl-C keeps what was reached: the same command goes on from there.
    """
    for given in (file, validation_file):
        if given is not None and not given.is_dir():
            check_file(given)
    for path in (output, json_file):
        if path is not None:
            check_folder(path)
    from ups_server.train.few_shot import AdaptationSettings, check_methods

    check_methods(alignment.value, tuning.value)
    settings = AdaptationSettings.asked(
        n_trajectories=n_trajectories,
        alignment=alignment.value,
        tuning=tuning.value,
        max_steps=max_steps,
        max_seconds=max_seconds,
        learning_rate=learning_rate,
        seed=seed,
    )
    from ups_server.train.adapt import check_output

    output = output.resolve()
    check_output(output)
    with interruptible() as stopped, progress("reading") as advance:
        said = FileSaid(family, parse_coefficients(coef))
        report = _adapt(model, (file, validation_file), said, settings, output, device, stopped, advance)
    if json_file == Path("-"):
        print_json(report)
        return
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print_note(f"report written to {json_file}")
    _print_report(report)
    kept = "the tuned model" if report["kept"] == "tuned" else "the model, its weights as they were,"
    print_note(f"{kept} is in {output}")


def _adapt(
    model: str,
    files: tuple[Path, Path | None],
    said: "FileSaid",
    settings: Any,
    output: Path,
    device: str,
    stopped: Callable[[], bool],
    advance: Advance,
) -> dict[str, Any]:
    import shutil

    from ups_server.solvers.load import choose_device, model_folder
    from ups_server.train.adapt import Adaptation, Interrupted, Place, deliver
    from ups_server.train.trajectories import FewShotData

    file, held_out = files
    work = output.with_name(f".{output.name}.adapting")
    folder = model_folder(model)
    place = Place(work, TerminalListener(advance), stopped, choose_device(device))
    try:
        data = FewShotData(_store(file, said, work / "store", advance), file.name)
        if held_out is not None:
            validation = _store(held_out, said, work / "validation_store", advance)
            data = replace(data, validation=validation, validation_file=held_out.name)
        adaptation = Adaptation(folder, data, settings, output.name, place)
        report = adaptation.run()
    except Interrupted:
        raise UserError(
            "adaptation_interrupted",
            "the adaptation was interrupted and its state saved",
            hint="the same command goes on from there",
        ) from None
    more = {"file": file.name} if held_out is None else {"file": file.name, "validation_file": held_out.name}
    deliver(report, adaptation.chosen(report), output, adaptation.about(folder.name, **more))
    shutil.rmtree(work)
    return report


@dataclass(frozen=True)
class FileSaid:
    """What the user says about the files."""

    family: str | None
    coefficients: dict[str, float]


def _store(file: Path, said: FileSaid, copy: Path, advance: Advance) -> "Store":
    """The file in our own layout, without the rows that cannot be used; copied once, to `copy`."""
    from contextlib import closing

    from ups_server.data.manifest import MANIFEST
    from ups_server.data.report import rows_text
    from ups_server.data.rows import grouped
    from ups_server.data.source import open_source
    from ups_server.data.store import Store
    from ups_server.data.transcode import transcode
    from ups_server.data.usable import usable

    if (file / MANIFEST).is_file():
        return Store.open(file)
    if (copy / MANIFEST).is_file():
        return Store.open(copy)
    with closing(open_source(file, said.family, said.coefficients)) as source:
        left_out = usable(source).row_numbers.left_out
        for group in grouped(left_out):
            print_note(f"{file.name}: {rows_text(group.rows)} left out: {group.reason}")
        return transcode(
            source, copy, {"file": file.name}, lambda done, total: advance(done, total, "reading"), left_out
        )


class TerminalListener:
    """One bar, and a line per validation."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def phase(self, name: str, facts: dict[str, Any]) -> None:
        if name == "zero_shot":
            print_note(
                f"{facts['training']} training, {facts['validation']} validation, {facts['test']} test trajectories; "
                f"about {facts['memory_bytes'] / 2**20:.0f} MiB of memory"
            )

    def scoring(self, what: str, done: int, total: int) -> None:
        self._advance(done, total, f"scores: {what.replace('_', '-')}")

    def step(self, step: int, steps: int, report: "StepReport") -> None:
        (loss,) = report.losses.values()
        self._advance(step, steps, f"tuning, loss {loss:.4f}")

    def validation(self, step: int, score: "Score", best: bool) -> None:
        mark = " *" if best else ""
        print_note(f"step {step}: validation one-step {score.one_step:.5f}, rollout {score.rollout:.4f}{mark}")

    def saved(self, step: int) -> None:
        pass


def _print_report(report: dict[str, Any]) -> None:
    rows = []
    for name in ("zero_shot", "tuned", "persistence"):
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
