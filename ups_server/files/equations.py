"""Equations of users, after the examination of their files: in the stored file, and in the models tuned to it."""

import json
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ups_server.catalog import EQUATION_FILE, ModelCard, invalid_model, read_document
from ups_server.data.user_equation import EquationSpec, check_mappable
from ups_server.errors import UserError
from ups_server.files.storage import FileStorage
from ups_server.pde import Family
from ups_server.pde.registry import add_user_family, is_installed

logger = logging.getLogger(__name__)


def stored_equation(data_dir: Path, file_id: str) -> EquationSpec | None:
    """The equation that was declared with a stored file, its step filled in; None where the file is of a family.

    Raises:
        UserError: ``unknown_file``.
    """
    folder = data_dir / "files"
    if not (folder / file_id / "registration.json").is_file():
        return None  # a store without an upload is of a family
    record = FileStorage(folder, 0, 0).record(file_id)
    equation, mapping = record.declaration.equation, record.declaration.mapping
    if record.report is not None and mapping is not None and mapping.equation is not None:
        equation = mapping.equation_spec(tuple((axis.low, axis.high) for axis in record.report.check.axes))
    if equation is None or record.report is None:
        return None
    return equation.model_copy(update={"dt": equation.dt or record.report.dt})


def declare_stored(data_dir: Path, file_id: str) -> EquationSpec | None:
    """Makes the equation of a stored file known to this process, and returns it where it has one of its own."""
    equation = stored_equation(data_dir, file_id)
    if equation is not None:
        add_user_family(equation.family())
    return equation


def check_one_equation(data_dir: Path, file_id: str, other_id: str) -> None:
    """Two stored files were declared with one equation, whatever way they store it.

    Raises:
        UserError: ``unknown_file``, ``validation_file_mismatch``.
    """
    own, other = (stored_equation(data_dir, name) for name in (file_id, other_id))
    if own is not None and other is not None and not same_equation(own, other):
        raise UserError(
            "validation_file_mismatch",
            f"the validation file was declared with another equation of the id {other.id}",
            got=other.equation,
            expected=own.equation,
            hint="declare both files with the same equation",
        )


def same_equation(one: EquationSpec, other: EquationSpec) -> bool:
    """Do two declarations mean one equation, whatever way their files store it?"""
    return _meaning(one) == _meaning(other)


def _meaning(equation: EquationSpec) -> dict[str, Any]:
    """The equation without what is the file's own: layout, names of datasets, values of coefficients."""
    document = equation.model_dump(mode="json", exclude={"layout"})
    for entry in (*document["fields"], *document["static_fields"]):
        del entry["dataset"]
    for entry in document["coefficients"]:
        del entry["value"]
    return document


def model_equation(card: ModelCard) -> EquationSpec | None:
    """The equation of its own that a model was tuned to.

    Raises:
        UserError: ``invalid_model``.
    """
    return None if card.equation is None else _own(card.equation, Path(card.source) / EQUATION_FILE)


def kept_equation(folder: Path) -> EquationSpec | None:
    """The same of a folder that a model's equation was copied into.

    Raises:
        UserError: ``invalid_model``.
    """
    document = read_document(folder / EQUATION_FILE)
    return None if document is None else _own(document, folder / EQUATION_FILE)


def _own(document: Any, file: Path) -> EquationSpec:
    try:
        equation = EquationSpec.model_validate_json(json.dumps(document))
        check_mappable(equation.id, len(equation.extent), [entry.slot for entry in equation.fields])
    except (ValidationError, UserError) as error:
        raise invalid_model(file, error) from error
    if is_installed(equation.id):
        raise invalid_model(file, ValueError(f"{equation.id} is a family of this installation"))
    return equation


def declared_families(data_dir: Path, models: list[ModelCard]) -> dict[str, Family]:
    """Every equation of users by id: those of ready files, then those that models were tuned to, which win."""
    found: dict[str, Family] = {}
    storage = FileStorage(data_dir / "files", 0, 0)
    for record in reversed(storage.records()):
        if record.state == "ready" and (equation := stored_equation(data_dir, record.id)) is not None:
            found[equation.id] = equation.family()
    for model in models:
        try:
            equation = model_equation(model)
        except UserError as error:  # the model says so when it is used, and hides no other
            logger.warning("an equation is left out: %s", error)
            continue
        if equation is not None:
            found[equation.id] = equation.family()
    return found
