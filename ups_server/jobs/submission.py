"""What can be known to be wrong with a job before it is queued. Imports no torch."""

import math
from contextlib import ExitStack
from pathlib import Path

from ups_server.catalog import ModelCard, adapted_already
from ups_server.data.horizon import check_horizon, end_times
from ups_server.data.store import Store
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.evaluation.evaluate import frames_per_step
from ups_server.files.equations import check_one_equation, model_equation, same_equation, stored_equation
from ups_server.jobs.spec import EvaluationSpec, FineTuningSpec, HorizonName, TuningName
from ups_server.jobs.tasks import adaptation_settings, stored_file
from ups_server.model.config import UPSConfig
from ups_server.model.lead_config import LeadConfig
from ups_server.pde import families, family
from ups_server.solvers.ahead import steps_to
from ups_server.solvers.registry import check_learned
from ups_server.train.few_shot import FewShotData, check_language_model, check_points
from ups_server.train.lead_few_shot import check_lead

COMPARED_BYTES = 2**26
"""Of each file, to find trajectories in both while whoever orders a job waits; the job itself compares all."""


def check_evaluation(spec: EvaluationSpec, card: ModelCard, data_dir: Path) -> None:
    """Raises UserError ``unknown_file``, ``family_not_in_model``, ``dt_mismatch``, ``horizon_mismatch``, …"""
    with Store.open(stored_file(data_dir, spec.file)) as store:
        solved = store.family in families()
        if card.kind == "learned" or (card.id == "numerical" and not solved):
            card.support(store.family)
        known = card.families.get(store.family)
        own = _stored_step(data_dir, spec.file, store) if known is None else known.dt
        if spec.horizon is HorizonName.FINAL:
            first, last = end_times(store.times, store.family)
            check_horizon(spec.horizon.value, spec.dt)
            if known is None or known.shortest is None:
                steps_to(float(last - first), own, card.id)
        else:
            frames_per_step(store.times, spec.dt or own)
        if spec.resolution is not None:
            store.grid.stride_to(spec.resolution)


def check_fine_tuning(spec: FineTuningSpec, card: ModelCard | None, data_dir: Path) -> None:
    """The model can be tuned by these methods, and the files hold what it takes.

    Args:
        card: of the model; of none for a fresh start.

    Raises:
        UserError: ``not_tunable``, ``unknown_file``, ``dt_mismatch``, ``resolution_mismatch``, ``family_mismatch``,
            ``superspace_too_small``, and those of `FewShotData.split`, `AdaptationSettings.check`, `check_lead` and
            `check_language_model`.
    """
    settings = adaptation_settings(spec)
    settings.check()
    config = None if card is None else _tunable(card)
    with ExitStack() as opened:
        training = opened.enter_context(Store.open(stored_file(data_dir, spec.training_file)))
        held_out = None
        if spec.validation_file is not None:
            held_out = opened.enter_context(Store.open(stored_file(data_dir, spec.validation_file)))
            check_one_equation(data_dir, spec.training_file, spec.validation_file)
        data = FewShotData(training, spec.training_file, held_out, spec.validation_file)
        if spec.horizon is HorizonName.FINAL:
            data = data.to_last_states()
        data.split(spec.n_trajectories, COMPARED_BYTES)
        declared = stored_equation(data_dir, spec.training_file)
        entry = family(training.family) if declared is None else declared.family()
        if isinstance(config, LeadConfig):
            check_lead(config, settings, training)
            return
        if card is None or config is None:
            config = settings.config_of(spec.start.value, entry, training.grid)
        else:
            _check_methods(spec, card, config)
            _check_family(spec, card, config, training, data_dir)
        if spec.horizon is HorizonName.STEP:
            _check_step(_stored_step(data_dir, spec.training_file, training), config, training)
        static = [field.name for field in entry.static_fields]
        config.check_place(entry.name, entry.ndim, [field.slot for field in entry.fields], static)
        check_points(training.grid)
        training.grid.stride_to(min(config.resolution, training.grid.n[0]))


def _tunable(card: ModelCard) -> UPSConfig | LeadConfig:
    """The architecture of a model that can be tuned."""
    if card.kind == "builtin":
        raise UserError("not_tunable", f"{card.id} has no weights to tune", got=card.id, expected="a trained model")
    return check_learned(Path(card.source))


def _check_methods(spec: FineTuningSpec, card: ModelCard, config: UPSConfig) -> None:
    """Raises UserError ``no_language_model``, ``adapted_already``."""
    check_language_model(config, spec.alignment.value, spec.tuning.value)
    if spec.tuning is TuningName.LORA and card.adapters_of is not None:
        raise adapted_already(card.id, card.adapters_of)


def _stored_step(data_dir: Path, file_id: str, store: Store) -> float:
    """The step of the equation of a stored file."""
    equation = stored_equation(data_dir, file_id)
    return family(store.family).dt if equation is None or equation.dt is None else equation.dt


def _check_step(dt: float, config: UPSConfig, store: Store) -> None:
    """Raises UserError ``dt_mismatch``."""
    known = config.families.get(store.family)
    if known is not None and not math.isclose(known.dt, dt, rel_tol=1e-6):
        raise UserError(
            "dt_mismatch",
            f"{config.name} steps {store.family} by another dt",
            got=dt,
            expected=known.dt,
            hint="declare the equation of the file with that dt",
        )
    try:
        frame_stride(store.times, dt)
    except UserError as error:
        if len(store.times) < 2:
            raise
        error.hint = f"{store.family} is learned in steps of {dt:g}: store frames {dt:g} or a whole part of it apart"
        raise


def _check_family(spec: FineTuningSpec, card: ModelCard, config: UPSConfig, store: Store, data_dir: Path) -> None:
    """Raises UserError ``family_mismatch`` where the model knows another equation of the file's id."""
    known = config.families.get(store.family)
    trained, equation = model_equation(card), stored_equation(data_dir, spec.training_file)
    other = (
        trained is not None
        and equation is not None
        and trained.id == equation.id
        and not same_equation(trained, equation)
    )
    if other or (known is not None and (known.fields, known.static_fields) != (store.fields, store.static_fields)):
        raise UserError(
            "family_mismatch",
            f"{card.id} was trained on another equation of the id {store.family}",
            got=[*store.fields, *store.static_fields] if equation is None else equation.equation,
            expected=trained.equation
            if other and trained is not None
            else None
            if known is None
            else list(known.fields),
            hint="declare the file's equation by an id of its own",
        )
