"""From the first state to the last: trajectories of which only u(0) and u(T) are kept.

Papers on cross-modal fine-tuning (ORCA, PaRe, RECRAFT) predict PDEBench so: one call leads from u(0) to u(T). A steady
family has a single state. It is the last one then, and the first one is zero: what is given are the static fields.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from ups_server.data.composed import SameRows
from ups_server.data.source import FrameIndices, Rows, TrajectorySource
from ups_server.data.store import Store, StoreManifest
from ups_server.errors import UserError
from ups_server.pde.registry import known_family

Horizon = Literal["step", "final"]
"""What is predicted at once: the state a step later, or the last one."""


def check_horizon(horizon: str, dt: float | None) -> None:
    """Raises UserError ``horizon_mismatch`` where a step is asked for and there is none to choose."""
    if horizon == "final" and dt is not None:
        raise UserError(
            "horizon_mismatch", "from the first state to the last the step is the time between them", got={"dt": dt}
        )


def end_times(times: NDArray[np.float64], family: str) -> NDArray[np.float64]:
    """(2,) the first time and the last; of a steady family, zero and its dt.

    Raises:
        UserError: ``too_few_frames``.
    """
    if known_family(family).steady:
        return np.array([0.0, known_family(family).dt])
    if len(times) < 2:
        raise UserError(
            "too_few_frames", "there is no last state beside the first", got=len(times), expected="at least 2 frames"
        )
    return np.array([times[0], times[-1]])


@final
class EndStates(Store):
    """A store of which the first and the last state of each trajectory are read, and no others."""

    layout = "first and last states"

    def __init__(self, path: Path, manifest: StoreManifest) -> None:
        super().__init__(path, manifest)
        self._steady = known_family(self.family).steady
        self._last = len(self.times) - 1
        self.times = end_times(self.times, self.family)

    @classmethod
    def of(cls, store: Store) -> "EndStates":
        """Raises UserError ``too_few_frames``."""
        return cls(store.path, store.manifest)

    def view(self, row: int) -> NDArray[np.float32]:
        """(2, X..., C), a copy."""
        whole = super().view(row)
        first = np.zeros_like(whole[0]) if self._steady else whole[0]
        return np.stack([first, whole[self._last]])

    def frames(self, row: int, indices: Iterable[int]) -> Iterator[NDArray[np.float32]]:
        for index in indices:
            place = self._last if index else 0
            (found,) = super().frames(row, [place])
            yield np.zeros_like(found) if self._steady and not index else found


@final
class EndStatesOf(SameRows):
    """The same of any source."""

    def __init__(self, source: TrajectorySource) -> None:
        super().__init__(source)
        self.times = end_times(source.times, source.family)
        self._steady = known_family(source.family).steady
        self._last = len(source.times) - 1

    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        both = self.source.read(rows, [0, self._last] if self._last else [0], stride, first)
        if self._steady:
            both = np.concatenate([np.zeros_like(both[:, :1]), both[:, -1:]], axis=1)
        return both[:, np.arange(2)[frames]]

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        return self.source.read_static(rows, stride, first)
