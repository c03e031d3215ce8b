"""Models under a memory budget."""

import pytest

from ups_server.errors import UserError
from ups_server.solvers.classical import Persistence
from ups_server.solvers.registry import ModelCache
from ups_server.solvers.solver import Solver

SIZES = {"a": 4, "b": 4, "c": 4, "huge": 11}


class Shelf:
    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.changes: list[tuple[str, bool]] = []
        self.models = ModelCache(self.load, 10, lambda *change: self.changes.append(change), SIZES.__getitem__)

    def load(self, model: str) -> Solver:
        self.loaded.append(model)
        return Persistence()


def test_the_least_recently_used_leaves() -> None:
    shelf = Shelf()
    for model in ("a", "b", "a", "c", "a", "b"):
        shelf.models.get(model)
    assert shelf.loaded == ["a", "b", "c", "b"]
    assert shelf.changes == [("a", True), ("b", True), ("b", False), ("c", True), ("c", False), ("b", True)]


def test_what_is_in_use_stays() -> None:
    shelf = Shelf()
    shelf.models.get("a")
    shelf.models.get("b")
    shelf.models.get("c", in_use={"a"})
    assert shelf.changes[2:] == [("b", False), ("c", True)]
    with pytest.raises(UserError) as caught:
        shelf.models.get("b", in_use={"a", "c"})
    assert caught.value.code == "queue_full"


def test_a_model_beyond_the_budget() -> None:
    with pytest.raises(UserError) as caught:
        Shelf().models.get("huge")
    assert caught.value.code == "model_too_large"
