"""The alignment methods by name."""

from collections.abc import Callable

from ups_server.align.base import Alignment, NoAlignment
from ups_server.align.mmd import MMDAlignment

ALIGNMENTS: dict[str, Callable[[], Alignment]] = {"none": NoAlignment, "mmd": MMDAlignment}
