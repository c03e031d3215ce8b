"""Several processes that train one model, as `torchrun` starts them: who computes what, and what they tell each other.

Every process has the whole model and draws the same batches; it computes its share of every batch. Gradients are added
up once a step, after all backward passes, so that a step may have as many forward passes as it likes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from ups_server.errors import UserError

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which alone validates and writes files."""


class ProcessLost(RuntimeError):
    """Another one of the processes has ended: this one cannot go on without it."""


@contextmanager
def _together() -> Iterator[None]:
    """Around what all processes do at once. Raises ProcessLost."""
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise has no narrower type in common
        raise ProcessLost(str(error)) from error


class Processes:
    """This process among those that train together. Whatever takes all of them raises `ProcessLost` without one.

    Attributes:
        index, count: which one of how many it is.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    @property
    def first(self) -> bool:
        """Is it the one that writes?"""
        return self.index == 0

    def shares(self, rows: int) -> list[slice]:
        """The rows of a batch that each process computes.

        Raises:
            UserError: ``too_many_processes`` where some would have none.
        """
        if rows < self.count:
            raise UserError(
                "too_many_processes",
                "every process needs a trajectory of every batch",
                got=self.count,
                expected=f"at most {rows}",
                hint="raise `trajectories` of the recipe's families, or start fewer processes",
            )
        ends = [rows * number // self.count for number in range(self.count + 1)]
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replaces every tensor by its sum over the processes; the same bits in each of them."""
        if self.count == 1 or not tensors:
            return
        real = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        for dtype in dict.fromkeys(tensor.dtype for tensor in real):
            alike = [tensor for tensor in real if tensor.dtype is dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with _together():
                dist.all_reduce(flat)
            for tensor, summed in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def gathered(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes in their order, `counts` of each; the gradient reaches this one's own."""
        if self.count == 1:
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in counts]
        with _together():
            dist.all_gather(parts, padded)
        known = [part[:count] for part, count in zip(parts, counts, strict=True)]
        known[self.index] = rows
        return torch.cat(known)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Is the flag set in one of them?"""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        with _together():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def of_first(self, value: float, device: torch.device) -> float:
        """The number that the first process has."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        with _together():
            dist.broadcast(shared, 0)
        return float(shared)

    def text_of_first(self, text: str) -> str:
        """The text that the first process has; the others' is not looked at."""
        if self.count == 1:
            return text
        shared = [text]
        with _together():
            dist.broadcast_object_list(shared, 0)
        return shared[0]

    def wait(self) -> None:
        """Until all have come this far."""
        if self.count > 1:
            with _together():
                dist.barrier()


ALONE = Processes()


@contextmanager
def joined(device: str | None = None) -> Iterator[tuple[Processes, str]]:
    """This process among those that `torchrun` started, alone where it did not, and the device that it computes on.

    Args:
        device: default a CUDA device of its own, where there are some, else the CPU.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not dist.is_torchelastic_launched():
        yield ALONE, name
        return
    if name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    dist.init_process_group("nccl" if name.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), name
    finally:
        dist.destroy_process_group()
