"""What a key allows."""

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """One right. Every key may read; `admin` includes all the others."""

    READ = "read"
    RUN = "run"
    ADAPT = "adapt"
    ADMIN = "admin"


DESCRIPTIONS = {
    Scope.READ: "look at families, models, files, jobs and metrics",
    Scope.RUN: "rollouts, evaluations; upload, declare and remove files",
    Scope.ADAPT: "fine-tuning jobs",
    Scope.ADMIN: "everything, the removal of models included",
}


def granted(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """All rights that these scopes come to."""
    given = {Scope.READ, *scopes}
    return frozenset(Scope) if Scope.ADMIN in given else frozenset(given)
