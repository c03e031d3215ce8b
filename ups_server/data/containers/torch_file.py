"""Files of `torch.save`: a tensor, or a dictionary of tensors, read with `weights_only=True` and mapped into memory.

Nothing in the file is run: PyTorch's restricted loader makes tensors and plain values, and refuses everything else.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ups_server.data.containers.base import MOST_ARRAYS, Container, StoredArray
from ups_server.errors import UserError

if TYPE_CHECKING:
    import torch

ALONE = "tensor"
"""What a tensor that is saved alone is called."""
DEPTH = 4


def open_torch(path: Path) -> Container:
    """Raises UserError ``unreadable`` (not only tensors, or damaged), ``missing_library`` (PyTorch)."""
    try:
        import torch
    except ImportError as error:
        raise UserError("missing_library", "files of torch.save are read with PyTorch", hint="install it") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what the restricted loader does not know, and what is damaged
        raise UserError(
            "unreadable",
            f"{path.name} is damaged or holds more than tensors",
            hint="save a tensor, or a dictionary of tensors",
        ) from error
    arrays: dict[str, StoredArray] = {}
    attributes: dict[str, Any] = {}
    for name, value in _entries(content, "", 1):
        if len(arrays) >= MOST_ARRAYS:
            raise UserError("wrong_shape", f"{path.name} holds too many tensors")
        if isinstance(value, torch.Tensor):
            arrays[name] = _array(name, value)
        elif isinstance(value, int | float | str):
            attributes[name] = value
    return Container("a file of torch.save", arrays, attributes)


def _entries(content: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, Mapping | list | tuple):
        yield prefix.rstrip("/") or ALONE, content
    elif depth <= DEPTH:
        for name, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from _entries(value, f"{prefix}{name}/", depth + 1)


def _array(name: str, tensor: "torch.Tensor") -> StoredArray:
    import torch

    dense = tensor.detach()
    if dense.layout is not torch.strided or dense.dtype in (torch.bfloat16,) or dense.is_quantized:
        dtype = np.dtype(object)  # not what NumPy can hold: `StoredArray.numeric` says no
        return StoredArray(name, tuple(dense.shape), dtype, lambda index: np.empty(0))
    values = dense.numpy()
    return StoredArray(name, values.shape, values.dtype, lambda index: np.array(values[index]))
