"""Jobs of kind `evaluation`: what `ups evaluate` does, on a stored file."""

from contextlib import closing
from typing import Any

from ups_server.catalog import Catalog
from ups_server.data.store import Store
from ups_server.files.equations import declare_stored
from ups_server.jobs.context import JobContext, stored_file
from ups_server.jobs.spec import EvaluationSpec
from ups_server.processes import keep_freed_memory


def run(context: JobContext) -> dict[str, Any]:
    """The scores of a model on a file, as `FileScores`."""
    spec = context.spec
    if not isinstance(spec, EvaluationSpec):
        raise TypeError(f"not an evaluation: {spec.kind}")
    card = Catalog(context.settings.data_dir).model(spec.model or context.settings.default_model)
    store = stored_file(context.settings.data_dir, spec.file)
    declare_stored(context.settings.data_dir, spec.file)
    import torch

    from ups_server.evaluation.evaluate import evaluate_source
    from ups_server.solvers.registry import load

    keep_freed_memory()
    torch.set_num_threads(context.settings.worker_threads)
    solver = load(card.source, context.settings.device)
    context.running()

    def progress(file: str, done: int, total: int) -> None:
        context.event("progress", {"done": done, "total": total}, f"progress:{done}")
        context.raise_if_stopped()

    with closing(Store.open(store)) as source:
        scores = evaluate_source(
            solver, source, spec.file, spec.dt, spec.resolution, spec.trajectories, progress=progress
        )
    return scores.model_copy(update={"model": card.id}).as_dict()
