"""What tuning may change, by name. Imports no torch: what is offered can be asked without it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ups_server.train.loop import Select


def _full() -> "Select":
    """Everything but the word embeddings."""
    from ups_server.train.loop import trained_parameters

    return trained_parameters


TUNINGS: "dict[str, Callable[[], Select]]" = {"full": _full}
