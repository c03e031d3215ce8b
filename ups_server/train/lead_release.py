"""A model folder from runs of lead-time training: their averaged weights, ranges and statistics of what they saw.

python -m ups_server.train.lead_release OUT NAME VERSION RUN CONFIG [RUN CONFIG] [--preferred FAMILY]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ups_server.data.simulate import Draw, SameAs
from ups_server.data.splits import Split, split_rows
from ups_server.data.statistics import compute
from ups_server.data.windows import frame_stride
from ups_server.model.checkpoint import save_lead
from ups_server.model.config import CoefficientRange
from ups_server.model.lead import LeadModel, LeadSystem
from ups_server.model.lead_config import EQUATIONS, NUMBERS, LeadCard, LeadConfig
from ups_server.pde.equation import TERMS
from ups_server.train.lead_time import FamilyTriples, LeadRun, LeadTraining

CALLS = (1, 2, 4, 5, 10, 20)
"""Steps of a family's dt that one call may take."""
AS_GOOD = 1.1
"""Times the smallest error of a rollout: longer calls are faster."""
USUAL_POINTS = 128
NEARLY = 0.2
"""Share of an end of what was drawn from, by which the data may fall short of it."""


def released(runs: Mapping[int, LeadRun], name: str, version: int, preferred: Sequence[str] = ()) -> LeadSystem:
    """The system of the runs' averaged weights; runs by the number of dimensions."""
    texts = {text: feature for run in runs.values() for text, feature in run.features.items()}
    operators = {ndim: run.trainer.averaged() for ndim, run in runs.items()}
    families = {entry.family.id: card(operators[ndim], entry) for ndim, run in runs.items() for entry in run.families}
    shapes = {ndim: run.config.model for ndim, run in runs.items()}
    config = LeadConfig(
        name=name, version=version, line=shapes.get(1), plane=shapes.get(2),
        text_size=len(texts[NUMBERS[0]]), families=families, preferred=tuple(preferred),
    )  # fmt: skip
    return LeadSystem(config, operators, texts)


def card(model: LeadModel, entry: FamilyTriples) -> LeadCard:
    """What the model knows of a family."""
    family = entry.family
    points = [n for part in entry.data.stores for n in part.n]
    usual = USUAL_POINTS if USUAL_POINTS in points else max(points)
    stores = [store for store, part in zip(entry.stores, entry.data.stores, strict=True) if usual in part.n]
    statistics = compute(stores, family.dt, usual)
    sides = dict.fromkeys(store.boundary.sides for store in entry.stores)
    return LeadCard(
        dt=family.dt,
        shortest=min(float(store.times[1]) for store in entry.stores),
        horizon=entry.data.horizon,
        call=best_call(model, entry),
        ndim=family.ndim,
        fields=tuple(field.name for field in family.fields),
        slots=tuple(field.slot for field in family.fields),
        static_fields=tuple(field.name for field in family.static_fields),
        points=usual,
        coefficients=ranges(entry),
        boundaries=tuple(each for each in sides if each != family.boundary.sides),
        statistics=statistics,
        equation=EQUATIONS[family.id],
    )


def ranges(entry: FamilyTriples) -> dict[str, CoefficientRange]:
    """What the coefficients of the training data are, to the ends of what they were drawn from where they come near."""
    columns = np.concatenate([store.coefficients for store in entry.stores]).T
    found = {}
    for name, column in zip(entry.stores[0].coefficient_names, columns, strict=True):
        reached = [float(column.min()), float(column.max())]
        drawn = [end for part in entry.data.stores for end in _drawn_ends(part.data.coefficients, name)]
        ends = [end for end in drawn if any(abs(end - each) <= NEARLY * abs(end) for each in reached)]
        found[name] = CoefficientRange(low=min(reached + ends), high=max(reached + ends))
    return found


def _drawn_ends(draws: Mapping[str, Draw], name: str) -> tuple[float, ...]:
    draw = draws.get(name)
    if isinstance(draw, SameAs):
        return _drawn_ends(draws, draw.same_as)
    if draw is not None:
        return (draw.low, draw.high)
    term = TERMS.get(name)
    return () if term is None else tuple(sign * term.magnitude[1] for sign in term.signs)


@torch.no_grad()
def best_call(model: LeadModel, entry: FamilyTriples) -> float:
    """The longest lead time of a call whose rollouts are as good as any, by `AS_GOOD`.

    On the validation trajectories of the family's first store. Where a state alone does not determine the next one, all
    frames are calls from the first.
    """
    family, store = entry.family, entry.stores[0]
    if not family.full_state:
        return entry.data.horizon
    rows = split_rows(len(store), Split.VALIDATION)[: entry.data.validation]
    stride, every = store.grid.stride_to(min(entry.data.stores[0].n)), frame_stride(store.times, family.dt)
    truth = entry.in_slots(store.read(rows, slice(0, None, every), stride))
    static = store.read_static(rows, stride)
    given = entry.problems(store, store.coefficients[rows], store.grid.subsample(stride), truth, static)
    steps = truth.shape[1] - 1
    errors: dict[float, float] = {}
    for call in CALLS:
        if call * family.dt > entry.data.horizon * (1 + 1e-9):
            break
        anchor, error, norm = truth[:, 0], torch.zeros(len(rows)), torch.zeros(len(rows))
        for step in range(1, steps + 1):
            ahead = (step - 1) % call + 1
            found = model(anchor, torch.full((len(rows),), ahead * family.dt), given)
            error += (found - truth[:, step]).square().flatten(1).mean(1)
            norm += truth[:, step].square().flatten(1).mean(1)
            if ahead == call:
                anchor = found
        errors[call * family.dt] = float((error / norm).sqrt().mean())
    print(family.id, {f"{call:g}": round(error, 5) for call, error in errors.items()}, flush=True)
    enough = AS_GOOD * min(errors.values())
    return max(call for call, error in errors.items() if error <= enough)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("version", type=int)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN CONFIG", help="folder of a run, its configuration")
    parser.add_argument("--preferred", nargs="*", default=(), metavar="FAMILY", help="see `catalog.Catalog.default`")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = zip(given.runs[::2], given.runs[1::2], strict=True)
    runs = [LeadRun(LeadTraining.load(config), run, run.parent / "data") for run, config in pairs]
    system = released({run.config.model.ndim: run for run in runs}, given.name, given.version, given.preferred)
    save_lead(system, given.out)


if __name__ == "__main__":
    main()
