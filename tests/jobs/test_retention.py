"""Stored results leave by age and by room, and never while they are computed or read."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from ups_server.catalog import Catalog
from ups_server.engine.engine import Frame
from ups_server.errors import UserError
from ups_server.jobs.leases import Leases
from ups_server.jobs.results import ORPHAN_S, READING_S, Results, RolloutFolder
from ups_server.jobs.rollouts import order, without_waiting
from ups_server.jobs.spec import ROLLOUT
from ups_server.jobs.store import JobStore, new_id
from ups_server.rollout.plan import plan
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended
from ups_server.specs import RolloutRequest

REQUEST = (
    '{"model": "persistence", "family": "advection", "grid": {"n": [64]}, "n_steps": 9, '
    '"initial_condition": {"sample": {}}}'
)


class Shelf:
    """Results of one service that were ordered, and computed where asked for."""

    def __init__(self, folder: Path, store: JobStore, leases: Leases, **limits: float) -> None:
        self.settings = Settings(data_dir=folder, **limits)  # type: ignore[arg-type]
        self.store, self.leases, self.results = store, leases, Results(self.settings)

    def ordered(self) -> str:
        request = RolloutRequest.from_json(REQUEST)
        todo = plan(request, Catalog(), without_waiting(self.settings))
        return order(request, None, todo, self.store, self.settings, None, new_id(ROLLOUT))[0].id

    def computed(self) -> str:
        job_id = self.ordered()
        folder, lease = RolloutFolder(self.settings.data_dir, job_id), self.leases.claim("w", (ROLLOUT,))
        assert lease is not None
        assert lease.job.id == job_id
        folder.begin(plan(RolloutRequest.from_json(REQUEST), Catalog(), self.settings))
        self.leases.succeed(lease, {})
        return job_id

    def room_for(self, results: float) -> int:
        """From now on there is room for so many results like the ones that are there."""
        size = max(RolloutFolder(self.settings.data_dir, name).bytes() for name in self.kept())
        limited = self.settings.model_copy(update={"results_bytes": int(results * size)})
        self.settings, self.results = limited, Results(limited)
        return size

    def kept(self) -> set[str]:
        return {path.name for path in (self.settings.data_dir / "rollouts").iterdir()}


def unread(shelf: Shelf, job_id: str, seconds: float) -> None:
    """It was read last so long ago."""
    with shelf.results.reading(job_id) as folder:
        at = time.time() - seconds
    os.utime(folder.path / "read", (at, at))


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, store: JobStore, leases: Leases) -> None:
    shelf = Shelf(tmp_path, store, leases)
    first, second, third = (shelf.computed() for _ in range(3))
    shelf.room_for(2.5)
    with shelf.results.reading(first):  # read a moment ago, and not to be removed while it is
        shelf.results.sweep(store)
        assert shelf.kept() == {first, third}
    with pytest.raises(UserError, match=f"{second} is not kept"), shelf.results.reading(second):
        pass


def test_age(tmp_path: Path, store: JobStore, leases: Leases) -> None:
    shelf = Shelf(tmp_path, store, leases, results_age_s=1e-6)
    ended, read, waiting = shelf.computed(), shelf.computed(), shelf.ordered()
    with shelf.results.reading(read):
        shelf.results.sweep(store)
    assert shelf.kept() == {read, waiting}, "what is read, and what is still to be computed"
    assert store.get(ended).final
    shelf.results.sweep(store)
    assert read in shelf.kept(), "a lazy reader asks again"
    unread(shelf, read, READING_S + 1)
    shelf.results.sweep(store)
    assert shelf.kept() == {waiting}


def test_an_order_without_room_is_refused(tmp_path: Path, store: JobStore, leases: Leases) -> None:
    shelf = Shelf(tmp_path, store, leases)
    done, waiting = shelf.computed(), shelf.ordered()
    size = shelf.room_for(2.5)
    shelf.results.make_room(store, size // 4)
    assert shelf.kept() == {done, waiting}
    shelf.results.make_room(store, size)
    assert shelf.kept() == {waiting}, "the other one has ended and nobody reads it"
    with pytest.raises(UserError) as refused:
        shelf.results.make_room(store, 2 * size)
    assert refused.value.code == "quota_exceeded"


def test_orders_that_were_never_written_down(tmp_path: Path, store: JobStore, leases: Leases) -> None:
    shelf = Shelf(tmp_path, store, leases)
    kept = shelf.ordered()
    for name, age in (("ro-new", 0.0), ("ro-old", ORPHAN_S + 1)):
        folder = tmp_path / "rollouts" / name
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    shelf.results.sweep(store)
    assert shelf.kept() == {kept, "ro-new"}


def test_what_nobody_computes_any_more_ends_at_its_last_frame(tmp_path: Path, store: JobStore, leases: Leases) -> None:
    """A job that is cancelled between two attempts: nobody was there to say how far it had come."""
    shelf = Shelf(tmp_path, store, leases)
    folder = RolloutFolder(tmp_path, shelf.ordered())
    todo = plan(RolloutRequest.from_json(REQUEST), Catalog(), shelf.settings)
    folder.begin(todo)
    from ups_server.data.formats.zarr import ZarrSteps

    steps = ZarrSteps(folder.zarr, folder.header())
    for step in (1, 2):
        folder.keep(
            steps, todo, Frame(step, todo.initial + step, todo.initial), [Ended(2, (0,), (0,)), Ended(3, (0,), (0,))]
        )
    folder.settle()
    assert [flag["step"] for flag in folder.header().attributes["flags"]] == [2]
    standing = folder.standing()
    assert standing is not None
    assert standing.ended == (Ended(2, (0,), (0,)),)
    assert len(folder.header().times) == 3
    with np.load(folder.file("npz"), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["data"][2], todo.initial[0] + 2)
