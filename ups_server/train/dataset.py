"""The training data of a run: generated stores, their statistics, and mixed batches in the superspace."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups_server.align.labels import outlines
from ups_server.align.text import ReferenceText
from ups_server.data.simulate import build_store
from ups_server.data.splits import FewShotSplit, Split
from ups_server.data.statistics import compute
from ups_server.data.store import Store
from ups_server.data.windows import Windows
from ups_server.errors import UserError
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import CoefficientRange, KnownFamily, UPSConfig
from ups_server.model.superspace import lift
from ups_server.pde import family
from ups_server.pde.resampling import coarser, resample, subsampled
from ups_server.solvers.neural import as_static, stepped_on
from ups_server.solvers.solver import Frames
from ups_server.train.config import FamilyData, TrainConfig

DataReport = Callable[[str, int, int], None]
"""Called with (family, trajectories done, trajectories in all)."""


@dataclass(frozen=True)
class Batch:
    """Windows of one family in the superspace, on the device.

    Attributes:
        frames: (R W, unroll + 1, N, X...).
        context: (R, N, X...) first frames of the trajectories.
        conditions: of the R trajectories.
        windows: W, windows per trajectory.
        first, whole: place of the first of these trajectories in the whole batch, and how many that has.
        noise: (R W, N, X...) standard normal numbers, where the stage adds some.
    """

    frames: Tensor
    context: Tensor
    conditions: Conditions
    windows: int
    first: int
    whole: int
    noise: Tensor | None = None

    @property
    def share(self) -> float:
        """Of the whole batch."""
        return len(self.context) / self.whole

    def with_noise(self) -> "Batch":
        """With its part of the noise of the whole batch, so that it is the same in whatever parts that is computed."""
        first = self.frames[:, 0]
        drawn = torch.randn(self.whole * self.windows, *first.shape[1:], dtype=first.dtype, device=first.device)
        return replace(self, noise=drawn[self.first * self.windows :][: len(first)])

    def to(self, dtype: torch.dtype) -> "Batch":
        """In another precision."""
        if self.frames.dtype is dtype:
            return self
        given = self.conditions.changed(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return replace(self, frames=self.frames.to(dtype), context=self.context.to(dtype), conditions=given)

    def parts(self, count: int) -> list["Batch"]:
        """So many parts, or as many as there are trajectories."""
        if count == 1:
            return [self]
        rows = len(self.context)
        ends = [rows * number // count for number in range(count + 1)]
        return [self._part(slice(start, stop)) for start, stop in pairwise(ends) if start < stop]

    def _part(self, rows: slice) -> "Batch":
        windows = slice(rows.start * self.windows, rows.stop * self.windows)
        return replace(
            self,
            frames=self.frames[windows],
            context=self.context[rows],
            conditions=self.conditions.part(rows),
            first=self.first + rows.start,
            noise=None if self.noise is None else self.noise[windows],
        )


class FamilyWindows:
    """One family of a run: its store, its card, its windows.

    Args:
        split: rows to train on and to validate on, in place of those that the row numbers tell.
        held_out: the store that the rows to validate on belong to; default `store`.
        points: that a periodic box is stepped on at least (`KnownFamily.points`).
        dt: of a step; default the family's.

    Attributes:
        grid: that states are stepped on; those of a coarser store are interpolated to it, as they are when solving.
    """

    def __init__(
        self,
        family_id: str,
        data: FamilyData,
        store: Store,
        n: int,
        known: KnownFamily | None = None,
        split: FewShotSplit | None = None,
        held_out: Store | None = None,
        points: int = 0,
        dt: float | None = None,
    ) -> None:
        dt = family(family_id).dt if dt is None else dt
        self.id = family_id
        self.data = data
        self.boundary = store.boundary
        self.card = make_card(family_id, store, n, None if split is None else split.training, dt)
        if known is not None:
            self.card = joined(known, self.card)
        points = n if data.coarse else points
        statistics = self.card.statistics.model_copy(update={"n": n // 2 if data.coarse else n})
        self.card = self.card.model_copy(update={"points": points, "statistics": statistics})
        self.training = Windows(store, dt, n, Split.TRAIN)
        self.grid, _ = stepped_on(self.training.grid, store.boundary, points)
        validation = store if held_out is None else held_out
        self.validation = Windows(validation, dt, n, Split.VALIDATION, augment=False)
        if split is not None:
            self.training.rows, self.validation.rows = split.training, split.validation

    def batch(
        self,
        rng: np.random.Generator,
        unroll: int,
        config: UPSConfig,
        device: torch.device,
        kept: slice = slice(None),
    ) -> Batch:
        """A random batch of training windows; of its trajectories those that are `kept`."""
        unroll, whole = min(unroll, self.data.unroll), self.data.trajectories
        drawn = self.training.sample(rng, whole, self.data.windows, unroll, self.data.early, kept)
        values = dict(zip(self.training.store.coefficient_names, drawn.coefficients.T.tolist(), strict=True))
        count = len(drawn.context)
        static = None if drawn.static is None else as_static(self._spread(drawn.static), self.card)
        first = torch.from_numpy(self._spread(drawn.context))
        given = conditions(config, self.card, values, self.boundary, self.grid.offset, first, static).to(device)
        frames = torch.from_numpy(self._spread(self._observed(drawn.frames, rng, kept))).to(device)
        windows = frames.shape[1]
        # Every frame is normalised under its trajectory's conditions.
        flat = lift(frames.flatten(0, 2), self.card, repeat(given, windows * (unroll + 1)))
        context = lift(first.to(device), self.card, given)
        flat = flat.unflatten(0, (count * windows, unroll + 1))
        return Batch(flat, context, given, windows, range(whole)[kept].start, whole)

    def _spread(self, states: Frames) -> Frames:
        """States (..., X..., C) on the grid they are stepped on."""
        leading, axes = states.shape[: -1 - self.grid.ndim], states.shape[-1 - self.grid.ndim :]
        spread = resample(states.reshape(-1, *axes), self.training.grid, self.grid, self.boundary)
        return spread.reshape(*leading, *spread.shape[1:]).astype(np.float32, copy=False)

    def _observed(self, frames: Frames, rng: np.random.Generator, kept: slice) -> Frames:
        """Windows (R, W, T, X..., C), a share of which begins from what every other point shows."""
        if not self.data.coarse:
            return frames
        seen = rng.random((self.data.trajectories, frames.shape[1]))[kept] < self.data.coarse
        grid, strides = coarser(self.training.grid, [n // 2 for n in self.training.grid.n])
        frames[seen, 0] = resample(subsampled(frames[seen, 0], strides), grid, self.training.grid, self.boundary)
        return frames


class TrainingTarget:
    """Data of a run as adaptation methods ask for them (`align.base.Target`); the same after every restart."""

    def __init__(
        self,
        families: Sequence[FamilyWindows],
        config: UPSConfig,
        device: torch.device,
        seed: tuple[int, ...],
        text: ReferenceText,
    ) -> None:
        self._families, self._config, self._device = families, config, device
        self._seed = seed
        self.text = text

    @property
    def ndim(self) -> int:
        return max(entry.card.ndim for entry in self._families)

    def outlines(self, count: int) -> Tensor:
        # A stream of its own: steps draw from (seed, stage, step).
        rng = np.random.default_rng([*self._seed, 0, count])
        drawn, rows = list[Tensor](), 0
        while rows < count:
            for entry in self._families:
                batch = entry.batch(rng, 1, self._config, self._device)
                drawn.append(outlines(batch.frames[:, 1]))
                rows += len(drawn[-1])
        return torch.cat(drawn)


def repeat(given: Conditions, times: int) -> Conditions:
    """The statistics rows of `given`, each `times` times in succession (all that `lift` reads)."""
    return replace(
        given,
        mask=given.mask.repeat_interleave(times, 0),
        mean=given.mean.repeat_interleave(times, 0),
        std=given.std.repeat_interleave(times, 0),
    )


def joined(known: KnownFamily, trained: KnownFamily) -> KnownFamily:
    """The card of weights that go on training: their own statistics, the ranges of both trainings.

    What the weights read is in units of their own statistics: others, of a few trajectories, would be other inputs.

    Raises:
        UserError: ``family_mismatch``.
    """
    if (known.fields, known.static_fields, known.slots) != (trained.fields, trained.static_fields, trained.slots):
        raise UserError(
            "family_mismatch",
            f"the data have other fields than the model's {trained.name}",
            got=[*trained.fields, *trained.static_fields],
            expected=[*known.fields, *known.static_fields],
        )
    ranges = {
        name: CoefficientRange(low=min(new.low, earlier.low), high=max(new.high, earlier.high))
        for name, new in trained.coefficients.items()
        for earlier in [known.coefficients.get(name, new)]
    }
    seen = {
        "min": tuple(map(min, known.statistics.min, trained.statistics.min)),
        "max": tuple(map(max, known.statistics.max, trained.statistics.max)),
    }
    symmetries = {name: getattr(trained, name) for name in ("solenoidal", "parity", "static_parity", "odd")}
    statistics = known.statistics.model_copy(update=seen)
    return known.model_copy(update={"coefficients": ranges, "statistics": statistics, **symmetries})


def make_card(
    family_id: str, store: Store, n: int, training: NDArray[np.int64] | None = None, dt: float | None = None
) -> KnownFamily:
    """The family as the checkpoint will know it; statistics of the training split, or of the rows `training`.

    Args:
        dt: of a step; default the family's.
    """
    entry = family(family_id)
    dt = entry.dt if dt is None else dt
    statistics = compute(store, dt, n, training=training)
    ranges = {
        name: CoefficientRange(low=statistics.coefficient_low[name], high=statistics.coefficient_high[name])
        for name in store.coefficient_names
    }
    return KnownFamily(
        dt=dt,
        name=entry.name,
        ndim=entry.ndim,
        fields=store.fields,
        slots=tuple(field.slot for field in entry.fields),
        symbols={coefficient.name: coefficient.symbol for coefficient in entry.coefficients},
        static_fields=tuple(field.name for field in entry.static_fields),
        solenoidal=entry.solenoidal,
        parity=entry.parity,
        static_parity=entry.static_parity,
        odd=entry.odd,
        coefficients=ranges,
        statistics=statistics,
    )


def prepare(
    config: TrainConfig,
    folder: Path,
    n: int,
    known: Mapping[str, KnownFamily],
    progress: DataReport,
    workers: int = 1,
) -> list[FamilyWindows]:
    """Generates (or opens) the stores of a run below `folder` and computes their statistics.

    A store's name tells all that its data follow from, so that runs with the same data share it. A family is trained
    on at `n` points an axis, or at the store's resolution where that is lower.

    Args:
        known: cards of the families that the weights to start from were trained on.
    """
    out = []
    for family_id, data in config.families.items():
        seed = next(seed for seed in (data.seed, config.data_seed, config.seed) if seed is not None)
        path = folder / store_name(family_id, data, seed)
        with held(path.with_suffix(".lock")):
            store = build_store(
                data.equation(family_id),
                data.coefficients,
                data.count,
                data.resolution,
                seed,
                path,
                progress=partial(progress, family_id),
                frame_dt=data.frame_dt,
                t_final=data.t_final,
                workers=workers,
                kinds=data.kinds,
            )
        out.append(FamilyWindows(family_id, data, store, min(data.n or n, data.resolution), known.get(family_id)))
    return out


def store_name(family_id: str, data: FamilyData, seed: int) -> str:
    """`burgers-1f0c…`: the family and a digest of the settings that its data follow from."""
    drawn = {name: draw.model_dump(mode="json") for name, draw in data.coefficients.items()}
    settings = [family_id, data.count, data.resolution, data.frame_dt, data.t_final, drawn, seed]
    settings += [{name: given} for name in ("kinds", "boundary", "single") if (given := getattr(data, name))]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{family_id}-{digest[:16]}"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Waits for the lock file at `path` and holds it: two runs that start together make their data once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
