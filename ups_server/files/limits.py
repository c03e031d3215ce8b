"""What the examination of a file may cost, and what a file may declare."""

import math

from pydantic import BaseModel, ConfigDict, Field

MIB = 2**20


class Limits(BaseModel):
    """Bounds of one examination. The structural ones leave room for the largest files that PDEBench publishes.

    A deflated chunk cannot shrink below 1/1032: a file whose values shrink more than `ratio` in the mean holds almost
    none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: int = Field(default=65_536, description="Groups and datasets; published: 50,001.")
    depth: int = Field(default=8, description="Groups inside groups.")
    axes: int = Field(default=6, description="Axes of a dataset.")
    attributes: int = Field(default=64, description="Attributes of one object.")
    attribute_bytes: int = Field(default=MIB, description="Size of one attribute.")
    chunk_bytes: int = Field(default=64 * MIB, description="One chunk, decoded: a read of one number decodes it whole.")
    chunks: int = Field(default=2**20, description="Chunks of a file.")
    ratio: int = Field(default=500, description="Decoded over stored bytes of a dataset.")
    logical_bytes: int = Field(default=2**38, description="All values of a file, decoded.")
    store_bytes: int = Field(default=2**38, description="The store made of it.")
    memory_bytes: int = Field(default=480 * MIB, description="Memory beyond what the code itself needs.")
    open_files: int = Field(default=16, description="Files the examination has open at a time, its own code's aside.")
    structure_s: int = Field(default=10, description="CPU seconds for the walk over the structure of a small file.")
    structure_bytes_per_s: int = Field(default=MIB, description="Slowest pace of the walk, in stored bytes a second.")
    bytes_per_s: int = Field(default=4 * MIB, description="Slowest pace over the values, in bytes a CPU second.")
    values_s: int = Field(default=10, description="CPU seconds for the values of a small file.")
    probe_s: float = Field(default=5.0, description="Seconds for a comparison with the reference solver; 0: none.")
    cpu_s: int = Field(default=3600, description="CPU seconds in all.")

    def structure_cpu_s(self, stored_bytes: int) -> int:
        """CPU seconds for the walk over a file of so many bytes."""
        return min(self.structure_s + stored_bytes // self.structure_bytes_per_s, self.cpu_s)

    def whole_cpu_s(self, stored_bytes: int, logical_bytes: int) -> int:
        """CPU seconds for everything."""
        values = self.values_s + logical_bytes // self.bytes_per_s
        return min(self.structure_cpu_s(stored_bytes) + values + math.ceil(self.probe_s), self.cpu_s)
