"""What a rollout looks like in a notebook: xarray's table of it, with a small picture above."""

import base64
import html
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ups_server.errors import UserError

AXES = (("time", "x"), ("time", "x", "y"))
"""Of fields that are drawn, behind an axis of trajectories, methods or statistics."""


class PicturedDataset(xr.Dataset):  # type: ignore[no-untyped-call]
    """A dataset of fields over ([row,] time, x[, y]); everything but its HTML is xarray's."""

    __slots__ = ()

    @classmethod
    def of(cls, dataset: xr.Dataset) -> "PicturedDataset":
        return cls(dataset.data_vars, dataset.coords, dataset.attrs)

    def _repr_html_(self) -> str:
        return self.picture_html() + super()._repr_html_()

    def picture_html(self) -> str:
        """An `img` with what it shows of which model; nothing where there is nothing that can be drawn."""
        from ups_server.pictures import small_picture

        fields = {str(name): found for name in self.data_vars if (found := self._drawn(str(name))) is not None}
        if not fields:
            return ""
        labels = [f"{name}{_unit(self[name])}" for name in fields]
        times = np.asarray(self["time"].values, np.float64)
        extent = [self._ends(axis) for axis in ("x", "y") if axis in self.dims]
        try:
            png, shown = small_picture(dict(zip(labels, fields.values(), strict=True)), times, extent)
        except UserError:
            return ""
        text = html.escape(f"{self._subject()}; {shown}")
        data = base64.b64encode(png).decode()
        return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"

    def _drawn(self, name: str) -> NDArray[Any] | None:
        """(T, X[, Y]) of a field, of its first row; None where its axes are others."""
        found = self[name]
        if found.dims[1:] in AXES and found.sizes[found.dims[0]]:
            found = found.isel({found.dims[0]: 0})
        return np.asarray(found.values) if found.dims in AXES and found.size else None

    def _ends(self, axis: str) -> tuple[float, float]:
        places = np.asarray(self[axis].values, np.float64)
        return float(places[0]), float(places[-1])

    def _subject(self) -> str:
        """Model and equation, and the first of several rows, where they are known."""
        model, title = self.attrs.get("model"), self.attrs.get("title", "")
        row = next((str(name) for name in self.dims if name not in ("time", "x", "y")), None)
        which = [] if row is None else [f"{row} {self[row].values[0] if row in self.coords else 0}"]
        return ", ".join([f"{model}: {title}" if model else title, *which])


def _unit(field: xr.DataArray) -> str:
    unit = field.attrs.get("units", "1")
    return "" if unit == "1" else f" ({unit})"
