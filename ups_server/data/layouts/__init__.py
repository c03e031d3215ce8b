"""Layouts of published collections: each names the arrays of its files, so that a mapping can be written from them."""

from collections.abc import Sequence

from ups_server.data.layouts.draft import Draft, Layout


def layouts() -> Sequence[Layout]:
    """All layouts, in the order in which they are asked."""
    from ups_server.data.layouts import apebench, cf, pdearena, poseidon, well

    return (well.LAYOUT, pdearena.LAYOUT, poseidon.LAYOUT, apebench.LAYOUT, cf.LAYOUT)


__all__ = ["Draft", "Layout", "layouts"]
