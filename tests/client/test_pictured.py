"""A rollout in a notebook: a small picture of what was solved, above xarray's own table."""

import base64
import html
import re
from io import BytesIO

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from ups_server.client.pictured import PicturedDataset
from ups_server.data.formats.netcdf import to_dataset
from ups_server.pde import family


def solved(name: str, values: np.ndarray, **attributes: object) -> PicturedDataset:
    equation = family(name)
    frames = values.shape[-equation.ndim - 2]
    grid = equation.default_grid(values.shape[-2])
    times = np.linspace(0, (frames - 1) * equation.dt, frames)
    return PicturedDataset.of(to_dataset(values, times, equation, grid, {}, {"model": "ups-mini", **attributes}))


def picture(page: str) -> tuple[np.ndarray, str]:
    """(pixels, caption) of the picture of a page."""
    found = re.search(r"src='data:image/png;base64,([^']+)'><figcaption>([^<]*)</figcaption>", page)
    assert found, page[:200]
    with Image.open(BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image.convert("RGB")), html.unescape(found[2])


def colours(pixels: np.ndarray) -> int:
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_a_rollout_on_a_line_is_a_map_of_space_and_time_that_names_its_model() -> None:
    x = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    moving = np.stack([np.sin(x - 0.3 * step) for step in range(9)])[..., None]
    page = solved("burgers", moving)._repr_html_()
    pixels, caption = picture(page)
    assert caption == f"ups-mini: {family('burgers').name}; x to the right, t upwards"
    assert colours(pixels) > 100
    assert "xarray" in page, "xarray's own table comes after it"
    still, _ = picture(solved("burgers", np.repeat(moving[:1], 9, axis=0))._repr_html_())
    assert still.shape == pixels.shape
    assert (still != pixels).any()


def test_a_flow_is_shown_at_its_last_finite_time_with_its_fields_side_by_side() -> None:
    values = np.random.default_rng(0).normal(size=(6, 16, 16, 4))
    values[4:] = np.nan
    dt = family("compressible_ns_2d").dt
    pixels, caption = picture(solved("compressible_ns_2d", values)._repr_html_())
    assert caption.endswith(f"; t = {3 * dt:.4g}")
    assert pixels.shape[1] > 3 * pixels.shape[0]


def test_of_several_rows_the_first_is_shown_and_named() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 5, 32, 1))
    batch = solved("burgers", rows)
    assert "trajectory 0; " in picture(batch._repr_html_())[1]
    named = batch.rename(trajectory="statistic").assign_coords(statistic=["control", "mean", "spread"])
    assert isinstance(named, PicturedDataset)
    assert "statistic control; " in picture(named._repr_html_())[1]


@pytest.mark.parametrize("part", ["point", "nothing", "not finite"])
def test_what_cannot_be_drawn_is_xarrays_table_alone(part: str) -> None:
    whole = solved("burgers", np.random.default_rng(0).normal(size=(5, 32, 1)))
    found: xr.Dataset = {"point": whole.isel(x=0), "nothing": whole.drop_vars("u"), "not finite": whole * np.nan}[part]
    page = found._repr_html_()
    assert "<img" not in page
    assert "xarray" in page
    assert "<img" in whole._repr_html_()
