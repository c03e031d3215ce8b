"""Zarr (version 3): a folder of arrays, one variable a field over (trajectory,) time, x, ..., as in NetCDF."""

from pathlib import Path

from ups_server.data.formats.base import Format, Given, damage_named
from ups_server.data.formats.netcdf import XarraySource


class ZarrFormat(Format):
    name = "zarr"

    def matches(self, path: Path, first: bytes) -> bool:
        return path.is_dir() and (path.suffix.lower() == ".zarr" or (path / "zarr.json").is_file())

    def open(self, path: Path, given: Given) -> XarraySource:
        with damage_named(path):
            return XarraySource(path, given)
